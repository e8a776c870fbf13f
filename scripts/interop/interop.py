"""Checks that GGUF files mean the same to fs and to llama.cpp, with the real llama.cpp (through llama-cpp-python).

For each type: fs quantizes the story model, and so does llama.cpp. Each file is loaded by both. Compared are
  exact       logits of fs's reference backend against llama.cpp's on the same weights widened to f32 by llama.cpp: both compute
              in f32, so this says whether both read the same numbers from the file
  logits      logits of both on the file itself. llama.cpp rounds activations to the weights' kind first (bf16, f16, or blocks of
              8 bits), so what is left is that rounding
  greedy      of the cpu backend against llama.cpp, 48 tokens a prompt: where they part, llama.cpp must have been undecided, its two
              best logits being nearer to each other than the noise of rounding (asked of f32, bf16, f16 and q8_0); and on weights
              widened to f32 both must be the same to the last token
  rmse        the error of fs's quantizer divided by that of llama.cpp's, over all tensors; and the largest one of a tensor
and, once: token ids of some texts, the types that both recipes choose, and the perplexity of a text (llama_perplexity.py).

Run by tools/interop. Exits with 1 if anything is out of bounds.
"""

import argparse
import ctypes
import json
import lzma
import subprocess
import sys
from pathlib import Path

import llama_cpp
import numpy as np

# Type, its name in llama.cpp, whether greedy continuations must agree.
TYPES = [
    ("f32", "ALL_F32", True),
    ("bf16", "MOSTLY_BF16", True),
    ("f16", "MOSTLY_F16", True),
    ("q8_0", "MOSTLY_Q8_0", True),
    ("q6_k", "MOSTLY_Q6_K", False),
    ("q5_k_m", "MOSTLY_Q5_K_M", False),
    ("q4_k_m", "MOSTLY_Q4_K_M", False),
    ("q4_0", "MOSTLY_Q4_0", False),
]

# Both compute in f32 from the same numbers, in another order of summation.
EXACT = 1e-8
# With activations rounded to 8 bits in every matrix by llama.cpp; and by our cpu backend too, in other blocks than llama.cpp's.
LOGITS = 1e-4
# Two logits this near are one to whoever rounds activations: logits of this model spread over 20, and 1e-4 of their energy is
# an error of 0.06 in each.
UNDECIDED = 0.15
RMSE = 1.01

# Files, their KV cache, whether llama.cpp may use flash attention, and how far the ratio of perplexities may be from 1: both in f32;
# and as each runs by default, rounding in its own places.
PERPLEXITIES = [("f32", "f32", False, 1e-5), ("bf16", "f16", True, 1e-3)]
# The text: the first bytes of the stories' validation set.
TEXT = ("scripts/stories/data/valid-v1-head.txt.xz", 120_000)

PROMPTS = [
    "Once upon a time",
    "Lily and Tom were playing in the park. They saw a big dog. The dog",
    "One day, a little boy named Ben found a magic stone. He was very happy because",
    "\"Can I have some cake?\" asked the little girl. Her mom said",
]

TEXTS = [
    "Once upon a time, there was a little girl.",
    "It's 12345 o'clock;\n\n  they'll RUN   \t fast!\r\n",
    "caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f980\u200d \u0417\u0434\u0440\u0430\u0432\u0441\u0442\u0432\u0443\u0439",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "",
]


def fs_json(fs, *args):
    result = subprocess.run([fs, *map(str, args)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"interop: fs {' '.join(map(str, args))}: {result.stderr}")
    return json.loads(result.stdout)


class Llama:
    """A model in llama.cpp, with an f32 KV cache."""

    def __init__(self, path):
        self.model = llama_cpp.Llama(
            str(path), n_ctx=512, n_batch=512, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=1,
            n_threads_batch=1, flash_attn=False,
        )

    def tokenize(self, text):
        return self.model.tokenize(text.encode(), add_bos=False, special=True)

    def logits(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return np.array(self.model.scores[len(ids) - 1], dtype=np.float64)

    def greedy(self, ids, count, stop):
        """A continuation, and for each of its tokens the logits that it was chosen by."""
        self.model.reset()
        self.model.eval(ids)
        out, logits = [], []
        for _ in range(count):
            logits.append(np.array(self.model.scores[self.model.n_tokens - 1]))
            best = int(np.argmax(logits[-1]))
            out.append(best)
            if best in stop:
                break
            self.model.eval([best])
        return out, logits


def llama_quantize(source, out, ftype):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{ftype}")
    params.allow_requantize = True
    params.nthread = 2
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"interop: llama.cpp cannot quantize {source} to {ftype}")


def fs_logits(fs, path, ids, backend, vocab):
    top = fs_json(fs, "logits", "-q", "--threads", 1, "--model", path, "--backend", backend, "--kv", "f32", "--json", "--top", vocab,
                  "--ids", ",".join(map(str, ids)))["top"]
    logits = np.empty(vocab)
    for token in top:
        logits[token["id"]] = token["logit"]
    return logits


def fs_greedy(fs, path, ids, backend, count, stop):
    out = fs_json(fs, "generate", "-q", "--threads", 1, "--model", path, "--backend", backend, "--kv", "f32", "--ignore-eos",
                  "--temperature", 0, "-n", count, "--json", "--ids", ",".join(map(str, ids)))["ids"]
    return out[: next((i + 1 for i, token in enumerate(out) if token in stop), len(out))]


def parting(ours, theirs, logits):
    """How decided llama.cpp was where two continuations part; 0 if they do not."""
    for i, (a, b) in enumerate(zip(ours, theirs)):
        if a != b:
            return float(logits[i][b] - logits[i][a])
    return 0.0


def nmse(a, b):
    return float(np.sum((a - b) ** 2) / np.sum(b**2))


def tensors(fs, path):
    """Types of all tensors by name, and the values of those in f32."""
    types, values = {}, {}
    for row in fs_json(fs, "inspect", path, "--json")["tensors"]:
        types[row["name"]] = row["dtype"]
        if row["dtype"] == "F32":
            values[row["name"]] = np.memmap(path, dtype=np.float32, mode="r", offset=row["offset"], shape=tuple(row["shape"]))
    return types, values


def squared_errors(fs, path, f32, original):
    types, _ = tensors(fs, path)
    _, values = tensors(fs, f32)
    return types, {name: float(np.sum((values[name].astype(np.float64) - original[name]) ** 2)) for name in original}


def check_file(fs, path, f32, prompts, vocab, stop):
    """One file in both programs."""
    llama, wide = Llama(path), Llama(f32)
    found = {"exact": 0.0, "logits": 0.0, "logits_cpu": 0.0, "parting": 0.0, "greedy_exact": True}
    for ids in prompts:
        theirs, reference = llama.logits(ids), fs_logits(fs, path, ids, "reference", vocab)
        found["exact"] = max(found["exact"], nmse(reference, wide.logits(ids)))
        found["logits"] = max(found["logits"], nmse(reference, theirs))
        found["logits_cpu"] = max(found["logits_cpu"], nmse(fs_logits(fs, path, ids, "cpu", vocab), theirs))
        ours = fs_greedy(fs, path, ids, "cpu", 48, stop)
        found["parting"] = max(found["parting"], parting(ours, *llama.greedy(ids, 48, stop)))
        theirs, _ = wide.greedy(ids, 48, stop)
        found["greedy_exact"] &= fs_greedy(fs, path, ids, "reference", 48, stop) == theirs
    return found


def perplexities(fs, work):
    """What both make of a text: the answers of llama_perplexity.py."""
    text = work / "text.txt"
    with lzma.open(TEXT[0]) as packed:
        # Cut between characters.
        text.write_text(packed.read(TEXT[1]).decode(errors="ignore"))
    rows = []
    for kind, kv, flash, allowed in PERPLEXITIES:
        command = [sys.executable, Path(__file__).with_name("llama_perplexity.py"), work / f"{kind}.gguf", text, "--kv", kv, "--fs", fs]
        result = subprocess.run([*command, *([] if flash else ["--no-flash-attention"])], stdout=subprocess.PIPE, check=False)
        if result.returncode != 0:
            sys.exit(f"interop: llama_perplexity.py failed on {kind}.gguf")
        rows.append({"type": kind, "allowed": allowed, **json.loads(result.stdout)})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fs", default="target/release/fs", help="the fs binary")
    parser.add_argument("--model", default="stories", help="a model in bf16")
    parser.add_argument("--work", default="target/interop/files", type=Path, help="where files are written")
    parser.add_argument("--types", default=",".join(row[0] for row in TYPES))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    fs, work = args.fs, args.work
    work.mkdir(parents=True, exist_ok=True)

    failures, rows = [], []

    def expect(holds, text):
        if not holds:
            failures.append(text)

    source, f32 = work / "bf16.gguf", work / "f32.gguf"
    fs_json(fs, "quantize", args.model, source, "--type", "bf16", "--force", "--json")
    fs_json(fs, "quantize", args.model, f32, "--type", "f32", "--force", "--json")
    config = fs_json(fs, "inspect", source, "--json")["config"]
    vocab, stop = config["vocab_size"], set(config["eos_token_id"])
    original = {name: np.array(values, dtype=np.float64) for name, values in tensors(fs, f32)[1].items()}

    llama = Llama(source)
    for text in TEXTS:
        ours = fs_json(fs, "tokenize", "--model", source, "--json", text) if text else {"ids": []}
        expect(ours["ids"] == llama.tokenize(text), f"token ids of {text!r}: {ours['ids']} and {llama.tokenize(text)}")
    expect(llama.model.token_eos() in stop, f"the end token: {llama.model.token_eos()} and {stop}")
    prompts = [llama.tokenize(text) for text in PROMPTS]

    for kind, ftype, greedy in TYPES:
        if kind not in args.types.split(","):
            continue
        ours, theirs = work / f"fs-{kind}.gguf", work / f"llama-{kind}.gguf"
        fs_json(fs, "quantize", args.model, ours, "--type", kind, "--force", "--json")
        llama_quantize(source, theirs, ftype)
        errors, types = {}, {}
        for writer, path in [("fs", ours), ("llama.cpp", theirs)]:
            wide = work / "wide.gguf"
            llama_quantize(path, wide, "ALL_F32")
            found = check_file(fs, path, wide, prompts, vocab, stop)
            types[writer], errors[writer] = squared_errors(fs, path, wide, original)
            expect(found["exact"] <= EXACT, f"{kind} by {writer}: exact {found['exact']:.1e} > {EXACT:.0e}")
            expect(found["logits"] <= LOGITS, f"{kind} by {writer}: logits {found['logits']:.1e} > {LOGITS:.0e}")
            expect(found["logits_cpu"] <= LOGITS, f"{kind} by {writer}: cpu {found['logits_cpu']:.1e} > {LOGITS:.0e}")
            expect(found["greedy_exact"], f"{kind} by {writer}: greedy continuations differ with f32 activations")
            undecided = found["parting"] <= UNDECIDED
            expect(undecided or not greedy, f"{kind} by {writer}: greedy continuations part at {found['parting']:.2f}")
            print(f"{kind} by {writer}: {found}", file=sys.stderr)
            rows.append({"type": kind, "written_by": writer, **found})
        different = [name for name in original if types["fs"][name] != types["llama.cpp"][name]]
        expect(not different, f"{kind}: the recipes differ in {different[:3]}")
        pairs = [(errors["fs"][name], errors["llama.cpp"][name]) for name in original if errors["llama.cpp"][name] > 0]
        if pairs:
            total = (sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs)) ** 0.5
            worst = max((ours / theirs) ** 0.5 for ours, theirs in pairs)
            rows[-2] |= {"rmse_ratio": total, "worst_rmse_ratio": worst}
            expect(worst <= RMSE, f"{kind}: a tensor's RMSE is {worst:.4f} of llama.cpp's")

    scored = perplexities(fs, work)
    for row in scored:
        off = row["fs_over_llama_cpp"] - 1
        expect(abs(off) <= row["allowed"], f"{row['type']}: perplexity is 1 {off:+.1e} of llama.cpp's")

    if args.json:
        print(json.dumps({"llama_cpp_python": llama_cpp.__version__, "rows": rows, "perplexity": scored, "failures": failures}, indent=2))
    else:
        print(f"llama-cpp-python {llama_cpp.__version__}; NMSE, the largest of {len(prompts)} prompts\n")
        print("| type | written by | exact | logits, f32 activations | logits, cpu backend | greedy in f32 | greedy parts at | rmse, fs / llama.cpp | of a tensor at most |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for row in rows:
            ratio = [f"{row[key]:.4f}" if key in row else "" for key in ("rmse_ratio", "worst_rmse_ratio")]
            numbers = [f"{row[key]:.1e}" for key in ("exact", "logits", "logits_cpu")]
            greedy = "equal" if row["greedy_exact"] else "differ"
            parts = f"{row['parting']:.2f}" if row["parting"] else "never"
            print("|", " | ".join([row["type"], row["written_by"], *numbers, greedy, parts, *ratio]), "|")
        print("\n| weights | KV cache | flash attention | tokens scored | llama.cpp | fs | ratio |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for row in scored:
            flash = "yes" if row["flash_attention"] else "no"
            both = f"{row['perplexity']:.6f} | {row['fs']['perplexity']:.6f} | 1 {row['fs_over_llama_cpp'] - 1:+.1e}"
            print(f"| {row['type']} | {row['kv']} | {flash} | {row['tokens']} | {both} |")
        print()
    for failure in failures:
        print(f"interop: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
