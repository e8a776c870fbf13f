"""Checks that importance matrices mean the same to fs and to llama.cpp's tools.

    python scripts/interop/imatrix.py --llama-tools DIR     # a folder with llama-imatrix and llama-quantize

llama.cpp's tools are no part of llama-cpp-python; in a checkout of llama.cpp
`cmake -B build -DLLAMA_CURL=OFF && cmake --build build --target llama-imatrix llama-quantize` puts them into build/bin.

`fs imatrix` and `llama-imatrix` measure the story model on the same text in the same windows. Compared are
  means       mean squared activations of each matrix, the columns together: NMSE of fs's, which computes in f32 here, against
              llama.cpp's. llama.cpp leaves lm_head out
  divergence  KL(bf16 || quantized) of six files in each of Q4_K_M and Q4_0, over another text (`fs perplexity --against`): quantized by
              each program without importance and with each file. Each must open in fs, and importance must lower the divergence.
              (In Q4_0 llama.cpp stores some matrices in Q4_1 where it has importance: fs must see them.)

Needs numpy and gguf (PyPI). Exits with 1 if anything is out of bounds.
"""

import argparse
import json
import lzma
import subprocess
import sys
from itertools import product
from pathlib import Path

import gguf
import numpy as np

from interop import TEXT, fs_json, nmse

# Both compute in f32, in another order.
MEANS = 1e-6
CALIBRATION = ("scripts/stories/data/stories.txt.xz", 400_000)
CHUNKS = 150


def text(packed, count, path):
    with lzma.open(packed) as file:
        # Cut between characters.
        lines = file.read(count).decode(errors="ignore").splitlines(keepends=True)
    # Programs differ in whether they take it for a token.
    path.write_text("".join(line for line in lines if line.strip() != "<|endoftext|>"))
    return path


def run(*command):
    result = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"imatrix: {' '.join(map(str, command))}:\n{result.stdout[-2000:]}")


def means(path):
    tensors = {tensor.name: np.array(tensor.data, dtype=np.float64).ravel() for tensor in gguf.GGUFReader(path).tensors}
    names = {name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")}
    return {name: tensors[f"{name}.in_sum2"] / tensors[f"{name}.counts"][0] for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-tools", required=True, type=Path, help="the folder of llama-imatrix and llama-quantize")
    parser.add_argument("--fs", default="target/release/fs", help="the fs binary")
    parser.add_argument("--work", default="target/interop/files", type=Path, help="where files are written")
    args = parser.parse_args()
    fs, work, tools = args.fs, args.work, args.llama_tools
    work.mkdir(parents=True, exist_ok=True)
    failures = []

    calibration = text(*CALIBRATION, work / "calibration.txt")
    other = text(*TEXT, work / "text.txt")
    # F32 is BF16's numbers, and neither program rounds activations to multiply with it.
    model, source = work / "f32.gguf", work / "bf16.gguf"
    for kind, path in [("f32", model), ("bf16", source)]:
        fs_json(fs, "quantize", "stories", path, "--type", kind, "--force", "--json")

    matrices = {"fs": work / "fs.imatrix.gguf", "llama.cpp": work / "llama.imatrix.gguf"}
    fs_json(fs, "imatrix", calibration, matrices["fs"], "--model", model, "--chunk", 512, "--chunks", CHUNKS, "--force", "--json")
    run(tools / "llama-imatrix", "-m", model, "-f", calibration, "-o", matrices["llama.cpp"], "-c", 512, "--chunks", CHUNKS, "--no-ppl",
        "-fa", "off", "-ctk", "f32", "-ctv", "f32")
    ours, theirs = (means(path) for path in matrices.values())
    only = set(ours) ^ set(theirs)
    if unknown := only - {"output.weight", "token_embd.weight"}:
        failures.append(f"in one file alone: {sorted(unknown)[:3]}")
    off = {name: nmse(ours[name], theirs[name]) for name in set(ours) & set(theirs)}
    worst = max(off, key=off.get)
    if off[worst] > MEANS:
        failures.append(f"means of {worst} are {off[worst]:.1e} apart")
    print(f"{len(off)} matrices; means apart by at most {off[worst]:.1e} (NMSE, {worst}); in one file alone: {sorted(only) or 'none'}\n")

    def divergence(path):
        return fs_json(fs, "perplexity", other, "--model", path, "--against", source, "-q", "--json")["against"]["kl"]["mean"]

    print("| type | quantized by | importance by | stored in | KL divergence |")
    print("| --- | --- | --- | --- | --- |")
    for kind, writer in product(["q4_k_m", "q4_0"], ["fs", "llama.cpp"]):
        base = None
        for name, matrix in {"none": None, **matrices}.items():
            out = work / f"{kind}-importance.gguf"
            out.unlink(missing_ok=True)
            flags = ["--imatrix", matrix] if matrix else []
            if writer == "fs":
                fs_json(fs, "quantize", source, out, "--type", kind, *flags, "--json")
            else:
                run(tools / "llama-quantize", *flags, source, out, kind.upper())
            found = divergence(out)
            stored = {tensor["dtype"] for tensor in fs_json(fs, "inspect", out, "--json")["tensors"]} - {"F32"}
            if ("Q4_1" in stored) != (kind == "q4_0" and writer == "llama.cpp" and matrix is not None):
                failures.append(f"quantized by {writer} in {kind}, importance by {name}: stored in {sorted(stored)}")
            print(f"| {kind} | {writer} | {name} | {', '.join(sorted(stored))} | {found:.5f} |", flush=True)
            base = base or found
            if matrix and found >= base:
                failures.append(f"quantized by {writer} in {kind}, importance by {name}: {found:.5f}, without {base:.5f}")
    for failure in failures:
        print(f"imatrix: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
