"""What llama.cpp makes of a text, window by window, as `fs perplexity` cuts it.

    python scripts/interop/llama_perplexity.py MODEL.gguf TEXT
    python scripts/interop/llama_perplexity.py MODEL.gguf TEXT --kv f32 --fs target/release/fs   # and compare

Prints one JSON object: tokens, nll (nats a token), standard_error, perplexity; with --fs also what `fs perplexity` finds
and how far the two are apart. Without --stride the windows are those of llama.cpp's llama-perplexity. Needs
llama-cpp-python (which builds llama.cpp) and numpy.
"""

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import llama_cpp as llama
import numpy as np

KV = {"f16": llama.GGML_TYPE_F16, "f32": llama.GGML_TYPE_F32, "q8_0": llama.GGML_TYPE_Q8_0}


def windows(tokens, context, stride):
    """-> [(first token, one behind the last, first that is scored)]"""
    if tokens < context or (stride and tokens == context):
        return [(0, tokens, 1)]
    if stride is None:
        return [(at, at + context, at + context // 2 + 1) for at in range(0, tokens - context + 1, context)]
    cut, end = [], 0
    for begin in range(0, tokens, stride):
        scored_from, end = max(end, 1), min(begin + context, tokens)
        cut.append((begin, end, scored_from))
        if end == tokens:
            return cut


def tokenize(vocab, text):
    """Added tokens match whole, as in `fs`; llama-perplexity itself takes them for plain text."""
    room = len(text) + 8
    ids = (llama.llama_token * room)()
    n = llama.llama_tokenize(vocab, text, len(text), ids, room, True, True)
    if n < 0:
        sys.exit(f"llama_tokenize needs room for {-n} tokens, which is more than the text has bytes")
    return list(ids[:n])


def scores(context, batch, vocab_size, ids, scored_from):
    """Negative log-likelihood of ids[scored_from:], f64 on the f32 logits."""
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    batch.n_tokens = len(ids) - 1
    for i, id in enumerate(ids[:-1]):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = id, i, 1, 0
        batch.logits[i] = i + 1 >= scored_from
    if code := llama.llama_decode(context, batch):
        sys.exit(f"llama_decode failed with {code}")
    for i in range(scored_from - 1, len(ids) - 1):
        row = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (vocab_size,)).astype(np.float64)
        yield row.max() + math.log(np.exp(row - row.max()).sum()) - row[ids[i + 1]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--kv", choices=KV, default="f16")
    parser.add_argument("--no-flash-attention", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--per-token", action="store_true", help="add `scores`: [position, nll] of each scored token")
    parser.add_argument("--fs", type=Path, help="run this `fs` on the same and compare")
    parser.add_argument("--fs-model", help="what `fs` loads, if not the same file")
    args = parser.parse_args()
    if args.context < 3 or (args.stride is not None and not 0 < args.stride < args.context):
        parser.error("--context must be at least 3, --stride at least 1 and below it")

    quiet = llama.llama_log_callback(lambda level, message, data: None)
    llama.llama_log_set(quiet, ctypes.c_void_p())
    llama.llama_backend_init()
    options = llama.llama_model_default_params()
    options.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(args.model).encode(), options)
    if not model:
        sys.exit(f"llama.cpp cannot load {args.model}")
    vocab = llama.llama_model_get_vocab(model)
    options = llama.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = args.context
    options.n_threads = options.n_threads_batch = args.threads
    options.type_k = options.type_v = KV[args.kv]
    options.flash_attn_type = 0 if args.no_flash_attention else 1
    context = llama.llama_init_from_model(model, options)
    if not context:
        sys.exit(f"llama.cpp cannot make a context of {args.context} tokens")

    ids = tokenize(vocab, args.text.read_bytes())
    if len(ids) < 2:
        sys.exit(f"{args.text} has {len(ids)} tokens; at least 2 are needed")
    if llama.llama_vocab_get_add_bos(vocab):
        sys.exit("this vocabulary wants a BOS token in front of every window, which `fs perplexity` does not do")
    batch = llama.llama_batch_init(args.context, 0, 1)
    found = []
    cut = windows(len(ids), args.context, args.stride)
    for i, (begin, end, scored_from) in enumerate(cut):
        values = scores(context, batch, llama.llama_vocab_n_tokens(vocab), ids[begin:end], scored_from - begin)
        found.extend(zip(range(scored_from, end), values))
        if sys.stderr.isatty():
            mean = sum(nll for _, nll in found) / len(found)
            print(f"\r{i + 1}/{len(cut)} windows, perplexity {math.exp(mean):.4f}", end="", file=sys.stderr)
    nll = np.array([nll for _, nll in found])
    result = {
        "llama_cpp_python": llama.__version__, "model": str(args.model), "text": str(args.text),
        "context": args.context, "stride": args.stride, "kv": args.kv,
        "flash_attention": not args.no_flash_attention, "text_tokens": len(ids), "windows": len(cut),
        "tokens": len(nll), "nll": nll.mean(), "perplexity": math.exp(nll.mean()),
        "standard_error": nll.std(ddof=1) / math.sqrt(len(nll)) if len(nll) > 1 else None,
    }  # fmt: skip
    if args.per_token:
        result["scores"] = [[position, float(nll)] for position, nll in found]
    if args.fs:
        command = [args.fs, "perplexity", args.text, "--model", args.fs_model or args.model, "--kv", args.kv, "--json",
                   "--quiet", "--context", str(args.context), *(["--stride", str(args.stride)] if args.stride else [])]  # fmt: skip
        ours = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        result["fs"] = {"tokens": ours["tokens"], "nll": ours["nll"]["mean"], "perplexity": ours["perplexity"]["mean"]}
        result["fs_over_llama_cpp"] = ours["perplexity"]["mean"] / result["perplexity"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
