# To be sourced: `build`, the packages and features that all checks build, so that nothing is built twice in different ways.
#
# The Metal backend is part of a build on a Mac. On Linux it is where clang-19 is, which the stand-in compiles kernels with.
build=(--locked --package failed-star --package book --package failed-star-web --package learn)
if [ "$(uname)" = Linux ]; then
    if command -v "${METAL_STANDIN_CLANG:-clang-19}" >/dev/null; then
        # The tests without the feature are among those with it.
        build+=(--package metal-standin --features failed-star/nvidia)
    else
        echo "skipped: Metal: clang-19 is missing (Debian: apt-get install --no-install-recommends clang-19)" >&2
    fi
fi
