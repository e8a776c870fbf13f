# To be sourced with a script's arguments, in the repository's root: `--help` prints the comment that the script begins with.
for word in "$@"; do
    case $word in
        -h | --help)
            sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "tools/$(basename "$0")"
            exit 0
            ;;
    esac
done
