#!/usr/bin/env python3
"""What quantizing the story model costs: perplexity and KL divergence from the original for each format, for an 8-bit KV cache and
with an importance matrix. Prints a table and writes benches/results/DATE-stories-quality.json.

    cargo build --release && python3 scripts/stories/quality.py

All runs are at one SIMD level, which rounds no input to bf16, so that other machines give the same numbers.
"""

import argparse
import json
import lzma
import platform
import subprocess
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "scripts/stories/data"
TYPES = ["bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]
SIMD = {"x86_64": "avx2", "arm64": "neon", "aarch64": "neon"}.get(platform.machine(), "scalar")
# Bytes of validation text that are scored, and of training text that importance is measured on.
SCORED, MEASURED, CHUNKS = 120_000, 400_000, 150


def text(name, size):
    return lzma.open(DATA / name).read(size)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fs", type=Path, default=ROOT / "target/release/fs", help="the binary (target/release/fs)")
    parser.add_argument("--out", type=Path, default=ROOT / f"benches/results/{date.today()}-stories-quality.json")
    args = parser.parse_args()
    commands = []

    def fs(*words):
        words = [str(word) for word in words]
        done = subprocess.run([args.fs, *words], cwd=work, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: fs {' '.join(words)}: {done.stderr}")
        commands.append("fs " + " ".join(words))
        return done.stdout

    def score(model, *more):
        found = json.loads(fs("perplexity", "valid.txt", "--model", model, *more, "--simd", SIMD, "--json", "--quiet"))
        against = found.get("against")
        row = {"bits_per_byte": found["bits_per_byte"], "perplexity": found["perplexity"]}
        return row if against is None else row | {
            "perplexity_ratio": against["perplexity_ratio"], "kl": against["kl"], "kl_p99": against["kl_p99"], "same_top": against["same_top"]["mean"],
        }

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "valid.txt").write_bytes(text("valid-v1-head.txt.xz", SCORED))
        (work / "calibration.txt").write_bytes(text("stories.txt.xz", MEASURED).replace(b"<|endoftext|>\n", b""))
        results = []
        for kind in TYPES:
            fs("quantize", "stories", f"{kind}.gguf", "--type", kind, "--json")
            results.append({"type": kind, "file_bytes": (work / f"{kind}.gguf").stat().st_size} | score(f"{kind}.gguf", "--against", "stories"))
        cache = {kv: score("stories", "--kv", kv)["perplexity"]["mean"] for kv in ("f16", "f32")}
        paired = score("stories", "--kv", "q8", "--against-kv", "f16")
        cache["q8"] = paired["perplexity"]["mean"]
        fs("imatrix", "calibration.txt", "stories.imatrix.gguf", "--model", "stories", "--chunks", CHUNKS, "--simd", SIMD, "--quiet")
        importance = {}
        for kind in ("q4_0", "q4_k_m"):
            fs("quantize", "stories", f"weighed-{kind}.gguf", "--type", kind, "--imatrix", "stories.imatrix.gguf", "--json")
            importance[kind] = score(f"weighed-{kind}.gguf", "--against", "stories")

    def output_of(*words):
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    plain = {row["type"]: row for row in results}
    report = {
        "about": f"The story model over the first {SCORED // 1000} kB of the validation text, in windows of 512 tokens of which the second half is scored.",
        "script": "scripts/stories/quality.py",
        "git": output_of("git", "rev-parse", "HEAD"),
        "git_changes": bool(output_of("git", "status", "--porcelain", "--untracked-files=no")),
        "simd": SIMD,
        "commands": commands,
        "text_bytes": SCORED,
        "model": "stories",
        "context": 512,
        "kv_q8": {"perplexity": cache, "against_f16": paired},
        "importance": {
            "kl": {kind: {"without": plain[kind]["kl"]["mean"], "with": row["kl"]["mean"]} for kind, row in importance.items()},
            "with": importance,
        },
        "results": results,
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    line = lambda name, row: print(
        f"| {name} | {row['perplexity']['mean']:.4f} | {row['perplexity_ratio']['mean']:.5f} ± {row['perplexity_ratio']['standard_error']:.5f} | "
        f"{row['kl']['mean']:.3g} ± {row['kl']['standard_error']:.1g} | {row['kl_p99']:.2g} | {100 * row['same_top']:.2f} % |")
    print("| type | perplexity | ratio to the original's | KL divergence, nats a token | p99 | same favourite |\n| --- | --- | --- | --- | --- | --- |")
    for row in results:
        line(f"{row['type']}, {row['file_bytes'] / 1e6:.2f} MB", row)
    for kind, row in importance.items():
        line(f"{kind} with importance", row)
    line("bf16, KV cache in q8 against f16", paired)
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
