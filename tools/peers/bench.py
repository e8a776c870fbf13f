"""fs and its peers by turns in one run; see tools/bench-peers, which builds fs and calls this.

    tools/bench-peers                                            # everything, 5 rounds
    tools/bench-peers --types q8_0 --peers fs,llama,llama-fa --rounds 3
    tools/bench-peers --types bf16 --tests prefill --rounds 1    # a quick look
    FS_PEERS_LLAMA_PYTHON=~/llama/bin/python tools/bench-peers   # a Python that has llama-cpp-python already

Every peer is a process of its own that loads its model once and then answers, line by line in JSON, {"phase": "prefill" | "decode",
"depth": D, "tokens": N} with {"seconds": S}: the time of N tokens, all at once or one by one, after D tokens in the cache. Loading and
filling the cache are not timed, one measurement before the first is thrown away, and each round begins with another peer. fs is asked
through `fs bench --json`, a process for each measurement, which leaves the same out.

The files are the same for all: `fs synth` makes the shape, `fs quantize` the GGUFs. candle is left out for bf16 (its GGUF loader widens
BF16 weights to f32), transformers for everything else (it runs the safetensors).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
WORK = ROOT / "target/peers"

PEERS = ["fs", "fs-avx2", "llama", "llama-fa", "candle", "transformers"]
TYPES = ["bf16", "q8_0", "q4_0", "q4_k_m"]
TESTS = ["decode", "deep", "prefill"]


def parse():
    parser = argparse.ArgumentParser(prog="tools/bench-peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def choice(known):
        def parse_list(text):
            unknown = [word for word in text.split(",") if word not in known]
            if unknown:
                raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
            return text.split(",")

        return parse_list

    def some(text):
        if int(text) < 1:
            raise argparse.ArgumentTypeError("at least 1")
        return int(text)

    add = parser.add_argument
    add("--peers", type=choice(PEERS), default=PEERS, metavar="A,B", help="of " + ",".join(PEERS))
    add("--types", type=choice(TYPES), default=TYPES, metavar="A,B", help="of " + ",".join(TYPES))
    add("--tests", type=choice(TESTS), default=TESTS, metavar="A,B", help="of " + ",".join(TESTS))
    add("--rounds", type=some, default=5, help="measurements of each (5)")
    add("--threads", type=some, default=os.cpu_count(), help="of every peer (one a core)")
    add("--prompt", type=some, default=512, help="tokens of `prefill` (512)")
    add("--generate", type=some, default=64, help="tokens of `decode`, from an empty cache (64)")
    add("--depth", type=some, default=4096, help="tokens in the cache of `deep` (4096)")
    add("--generate-deep", type=some, default=32, help="tokens decoded there (32)")
    add("--config", default="qwen3-0.6b", help="the shape, as `fs synth` takes it (qwen3-0.6b)")
    add("--gguf-dir", type=Path, help="use TYPE.gguf of this directory instead of making them")
    add("--fs", type=Path, default=ROOT / "target/release/fs", help="the binary (target/release/fs)")
    add("--out", type=Path, help="the results' file (benches/results/peers-DATE.json)")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def command(args, **kwargs):
    """Runs something that must succeed; its output goes to stderr."""
    say("$ " + " ".join(str(arg) for arg in args))
    result = subprocess.run([str(arg) for arg in args], stdout=sys.stderr, **kwargs)
    if result.returncode != 0:
        raise SystemExit(f"error: {args[0]} failed with exit code {result.returncode}")


def make_files(args):
    """The model's directory, and a GGUF file for each type."""
    WORK.mkdir(parents=True, exist_ok=True)
    shape = WORK / Path(args.config).name.removesuffix(".json")
    if not (shape / "model.safetensors").exists():
        command([args.fs, "synth", args.config, shape])
    files = {}
    for kind in args.types:
        if args.gguf_dir:
            files[kind] = args.gguf_dir / f"{kind}.gguf"
            if not files[kind].exists():
                raise SystemExit(f"error: {files[kind]} is not there")
            continue
        files[kind] = shape / f"{kind}.gguf"
        if not files[kind].exists():
            command([args.fs, "quantize", shape, files[kind], "--type", kind])
    return shape, files


def python_with(name, variable, requirements, env=None):
    """A Python that has a peer's packages: the variable's, or one of our own, made on first use."""
    if os.environ.get(variable):
        return Path(os.environ[variable])
    venv = WORK / "venv" / name
    done = venv / "complete"
    if not done.exists():
        command([sys.executable, "-m", "venv", "--clear", venv])
        pip = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--require-hashes", "-r", requirements]
        command(pip, env=os.environ | (env or {}))
        done.touch()
    return venv / "bin/python"


def start(peer, kind, shape, gguf, args):
    """A peer for one type of weights; None where it has no such type."""
    if peer in ("fs", "fs-avx2"):
        return Fs(peer, gguf, args)
    threads = str(args.threads)
    if peer in ("llama", "llama-fa"):
        env = {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
        python = python_with("llama", "FS_PEERS_LLAMA_PYTHON", HERE / "requirements-llama.txt", env)
        return Server(peer, kind, [python, HERE / "llama.py", gguf, threads, "on" if peer == "llama-fa" else "off"])
    if peer == "candle" and kind != "bf16":
        target = WORK / "candle"
        flags = {"RUSTFLAGS": "-C target-cpu=native"}
        build = ["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", HERE / "candle/Cargo.toml", "--target-dir", target]
        command(build, env=os.environ | flags)
        env = {"RAYON_NUM_THREADS": threads, "CANDLE_NUM_THREADS": threads}
        return Server(peer, kind, [target / "release/candle-peer", gguf], env)
    if peer == "transformers" and kind == "bf16":
        python = python_with("transformers", "FS_PEERS_TRANSFORMERS_PYTHON", ROOT / "scripts/requirements.txt")
        return Server(peer, kind, [python, HERE / "transformers_peer.py", shape, threads])
    return None


def from_root(words):
    """A command as it is written at the repository's root: where that lies is nobody's concern."""
    return [word.removeprefix(f"{ROOT}/") for word in words]


class Failed(Exception):
    """A peer could not answer."""


class Fs:
    """`fs bench`, a process for each measurement."""

    def __init__(self, name, gguf, args):
        self.name, self.threads = name, args.threads
        self.command = [str(args.fs), "bench", "--model", str(gguf), "--threads", str(args.threads), "--repeats", "1", "--quiet", "--json"]
        self.env = os.environ | ({"FS_SIMD": "avx2"} if name == "fs-avx2" else {})
        version = subprocess.run([args.fs, "--version"], capture_output=True, text=True).stdout.strip()
        self.about = {"version": version, "command": from_root(self.command)}
        self.report = None

    def measure(self, phase, depth, tokens):
        counts = {"prefill": (tokens, 0), "decode": (0, tokens)}[phase]
        more = ["--prompt", str(counts[0]), "--generate", str(counts[1]), "--depth", str(depth)]
        done = subprocess.run(self.command + more, env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(done.stderr.strip())
        self.report = json.loads(done.stdout)
        self.about["device"] = self.report["device"]
        if self.env.get("FS_SIMD", self.about["device"]) != self.about["device"]:
            raise Failed(f"FS_SIMD={self.env['FS_SIMD']} had no effect: it ran with {self.about['device']}")
        return self.report["results"][0][phase]["tokens_per_second"]["median"]

    def stop(self):
        pass


class Server:
    """A process that answers lines."""

    def __init__(self, name, kind, command, env=None):
        self.name, self.command = name, [str(word) for word in command]
        self.log = WORK / f"{name}-{kind}.log"
        self.report = None
        with open(self.log, "w") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            self.process = subprocess.Popen(self.command, env=os.environ | (env or {}), **pipes)
        ready = self.answer()
        self.about = {"command": from_root(self.command), "environment": env or {}} | {key: ready[key] for key in ready if key != "ready"}

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            tail = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise Failed(f"ended with exit code {self.process.wait()}: {' / '.join(tail)} ({self.log})")
        return json.loads(line)

    def measure(self, phase, depth, tokens):
        try:
            self.process.stdin.write(json.dumps({"phase": phase, "depth": depth, "tokens": tokens}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return tokens / self.answer()["seconds"]

    def stop(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it ended by itself, and what was asked of it last is still in the pipe
        self.process.wait()


def run_type(kind, shape, gguf, args):
    """All rounds of one type: {peer: {test: {...}}}, what the peers are, and what went wrong."""
    tests = {
        "decode": ("decode", 0, args.generate),
        "deep": ("decode", args.depth, args.generate_deep),
        "prefill": ("prefill", 0, args.prompt),
    }
    peers, samples, about, errors = [], {}, {}, {}

    def attempt(name, action):
        try:
            return action()
        except (Failed, OSError) as error:
            say(f"{kind}: {name}: {error}")
            errors[name] = str(error)

    try:
        for name in args.peers:
            if peer := attempt(name, lambda: start(name, kind, shape, gguf, args)):
                peers.append(peer)
                samples[name] = {test: [] for test in args.tests}
                about[name] = peer.about
        for turn in range(-1, args.rounds):
            say(f"{kind}: " + ("warm-up" if turn < 0 else f"round {turn + 1} of {args.rounds}"))
            for test in args.tests:
                first = max(turn, 0) % max(len(peers), 1)
                for peer in peers[first:] + peers[:first]:
                    if peer.name in errors or turn < 0 and isinstance(peer, Fs):
                        continue  # fs bench warms up by itself
                    time.sleep(0.2)  # until the one before has stopped spinning
                    rate = attempt(peer.name, lambda: peer.measure(*tests[test]))
                    if rate and turn >= 0:
                        sample = {"tokens_per_second": rate}
                        if peer.report:
                            result = peer.report["results"][0][tests[test][0]]
                            sample |= {"machine": peer.report["machine"], "bytes_per_second": result["bytes_per_second"],
                                       "flop_per_second": result["flop_per_second"], "share_of_peak": result["share_of_peak"],
                                       "share_of_read_bandwidth": result["share_of_read_bandwidth"],
                                       "peak_resident_bytes": peer.report["peak_resident_bytes"]}
                        samples[peer.name][test].append(sample)
    finally:
        for peer in peers:
            peer.stop()
    results = {}
    for name, of_test in samples.items():
        for test, taken in of_test.items():
            if taken and name not in errors:
                rates = [sample["tokens_per_second"] for sample in taken]
                summary = {"median": statistics.median(rates), "min": min(rates), "max": max(rates), "samples": taken}
                results.setdefault(name, {})[test] = summary
    return results, about, errors


def table(results, args):
    """Medians with their spread, and fs's ratio to each peer."""
    titles = {"decode": f"decode {args.generate}", "deep": f"decode {args.generate_deep} at {args.depth}", "prefill": f"prefill {args.prompt}"}
    lines = ["", f"{'tokens/s':<30}" + "".join(f"{titles[test]:>28}" for test in args.tests)]
    for kind, peers in results.items():
        lines.append(kind.upper())

        def cells(label, cell):
            row = [cell(test) for test in args.tests]
            if any(row):
                lines.append(f"  {label:<28}" + "".join(f"{text or '-':>28}" for text in row))

        for name, tests in peers.items():
            cells(name, lambda test: (r := tests.get(test)) and f"{r['median']:.1f} ({r['min']:.1f} to {r['max']:.1f})")

        def median(name, test):
            return peers.get(name, {}).get(test, {}).get("median")

        def llama(test):
            return max(filter(None, [median("llama", test), median("llama-fa", test)]), default=None)

        def ratio(ours, theirs):
            return f"{ours / theirs:.2f} times" if ours and theirs else None

        for ours in ("fs", "fs-avx2"):
            cells(f"{ours} / llama.cpp's best", lambda test: ratio(median(ours, test), llama(test)))
        for other in ("candle", "transformers"):
            cells(f"fs / {other}", lambda test: ratio(median("fs", test), median(other, test)))

        def shares(test):
            taken = peers.get("fs", {}).get(test, {}).get("samples", [])
            field = "share_of_peak" if test == "prefill" else "share_of_read_bandwidth"
            return [(sample[field], sample["tokens_per_second"]) for sample in taken if sample.get(field)]

        def share(test):
            of = "peak" if test == "prefill" else "read"
            return f"{100 * statistics.median(part for part, _ in shares(test)):.0f} % of {of}" if shares(test) else None

        def limit(test):
            """What fs would do at the limit that the machine had in the middle round."""
            return statistics.median(rate / part for part, rate in shares(test)) if shares(test) else None

        cells("fs, of the machine", share)
        cells("the limit / llama.cpp's best", lambda test: ratio(limit(test), llama(test)))
    return "\n".join(lines)


def output_of(*args):
    try:
        return subprocess.run(args, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def main():
    args = parse()
    if not args.fs.exists():
        raise SystemExit(f"error: {args.fs} is not there: run `cargo build --release`, or tools/bench-peers")
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"note: the load average is {load:.1f}; on a busy machine the spread will be wide")
    shape, files = make_files(args)
    results, about, errors = {}, {}, {}
    started = datetime.now(timezone.utc)
    out = args.out or ROOT / f"benches/results/peers-{started:%Y-%m-%d-%H%M}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "started": started.isoformat(timespec="seconds"),
        "command": ["tools/bench-peers", *sys.argv[1:]],
        "git": output_of("git", "rev-parse", "HEAD"),
        "git_changes": bool(output_of("git", "status", "--porcelain", "--untracked-files=no")),
        "machine": output_of("lscpu") if shutil.which("lscpu") else platform.processor(),
        "system": platform.platform(),
        "load_average_before": load,
        "threads": args.threads,
        "tests": {"decode": args.generate, "deep": [args.depth, args.generate_deep], "prefill": args.prompt},
        "rounds": args.rounds,
        "peers": about,
        "errors": errors,
        "results": results,
    }
    for kind in args.types:
        results[kind], about[kind], failed = run_type(kind, shape, files[kind], args)
        if failed:
            errors[kind] = failed
        # After each type, since a type takes many minutes and the next may be broken off.
        out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(results, args))
    say(f"\nwritten to {out}")
    raise SystemExit(1 if errors else 0)


if __name__ == "__main__":
    main()
