"""Perplexity fixture: what transformers makes of a text, window by window, as `fs perplexity` cuts it.

    python scripts/oracle/perplexity.py

Writes tests/golden/perplexity.json. The text is the beginning of the story model's validation text, the model the story
model (CPU, f32, eager attention), its rival the same with the four lowest bits of every bf16 weight cleared. Log-softmax
and all that follows are f64 on the f32 logits. The windows are written here as their sources write them:

- `stride: null`: llama.cpp's tools/perplexity/perplexity.cpp, `perplexity`.
- otherwise: the loop of transformers' docs/source/en/perplexity.md, but every scored token weighs the same.
"""

import argparse
import hashlib
import json
import lzma
import math
import platform
import sys
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/stories"
TEXT = ROOT / "scripts/stories/data/valid-v1-head.txt.xz"
OUT = ROOT / "tests/golden/perplexity.json"
TEXT_BYTES = 8_000

# (tokens of the text, None: all; context; stride; compared with the rival?)
CASES = [(None, 512, None, True), (None, 512, 256, False), (None, 129, 100, False), (300, 512, None, False)]


def chunks(tokens, context):
    first = context // 2
    for i in range(tokens // context):
        yield i * context, (i + 1) * context, i * context + first + 1


def sliding(tokens, context, stride):
    previous_end = 0
    for begin in range(0, tokens, stride):
        end = min(begin + context, tokens)
        # The labels are shifted by one inside the model, so a window's first token is never one.
        yield begin, end, max(end - (end - previous_end), begin + 1)
        previous_end = end
        if end == tokens:
            break


def windows(tokens, context, stride):
    if tokens < context:
        return [(0, tokens, 1)]
    return list(chunks(tokens, context) if stride is None else sliding(tokens, context, stride))


def log_probs(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)


def estimate(values):
    values = torch.tensor(values, dtype=torch.float64)
    return {"mean": values.mean().item(), "standard_error": values.std().item() / math.sqrt(len(values))}


def exp(of):
    return {"mean": math.exp(of["mean"]), "standard_error": math.exp(of["mean"]) * of["standard_error"]}


def case(model, rival, ids, sizes, limit, context, stride, compared):
    ids = ids[:limit]
    cut = windows(len(ids), context, stride)
    nll, by_window, scored_bytes, kl, same_top, rival_nll = [], [], 0, [], [], []
    for begin, end, scored_from in cut:
        targets = torch.tensor(ids[scored_from:end])
        rows = slice(scored_from - 1 - begin, -1)
        p = log_probs(model, ids[begin:end])[rows]
        scores = -p.gather(1, targets[:, None])[:, 0]
        nll += scores.tolist()
        by_window.append(scores.sum().item())
        scored_bytes += sum(sizes[id] for id in targets.tolist())
        if compared:
            q = log_probs(rival, ids[begin:end])[rows]
            kl += (p.exp() * (p - q)).sum(-1).tolist()
            same_top += (p.argmax(-1) == q.argmax(-1)).double().tolist()
            rival_nll += (-q.gather(1, targets[:, None])[:, 0]).tolist()
    result = {
        "text_tokens": len(ids), "context": context, "stride": stride, "windows": [list(window) for window in cut],
        "nll_by_window": by_window, "tokens": len(nll), "bytes": scored_bytes, "nll": estimate(nll),
        "bits_per_byte": sum(nll) / math.log(2) / scored_bytes, "perplexity": exp(estimate(nll)),
    }  # fmt: skip
    if compared:
        quantiles = torch.tensor(kl, dtype=torch.float64).quantile(torch.tensor([0.5, 0.99, 1.0], dtype=torch.float64))
        result["rival"] = {
            "nll": estimate(rival_nll), "perplexity": exp(estimate(rival_nll)),
            "perplexity_ratio": exp(estimate([q - p for p, q in zip(nll, rival_nll)])), "kl": estimate(kl),
            **dict(zip(("kl_median", "kl_p99", "kl_max"), quantiles.tolist())), "same_top": estimate(same_top),
            "probability_change": estimate([math.exp(-q) - math.exp(-p) for p, q in zip(nll, rival_nll)]),
        }  # fmt: skip
    return result


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    load = lambda dtype: AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype, attn_implementation="eager").eval()
    model, rival = load(torch.float32), load(torch.bfloat16)
    with torch.no_grad():
        for weight in rival.parameters():
            weight.copy_((weight.view(torch.int16) & ~0xF).view(torch.bfloat16))
    rival = rival.float()

    head = lzma.decompress(TEXT.read_bytes())[:TEXT_BYTES]
    text = head[: head.rindex(b"\n") + 1]
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    encoding = tokenizer.encode(text.decode())
    ids = encoding.ids
    # The byte alphabet spells each byte as one character; added tokens, which are spelled plainly, are not in this text.
    sizes = {id: len(token) for token, id in tokenizer.get_vocab().items()}
    assert sum(sizes[id] for id in ids) == len(text)

    sha256 = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
    script = Path(__file__).resolve()
    origin = {
        "script": str(script.relative_to(ROOT)), "script_sha256": sha256(script),
        "command": "python " + " ".join([str(script.relative_to(ROOT)), *sys.argv[1:]]),
        "torch": torch.__version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__,
        "python": platform.python_version(),
        "model": {path.name: sha256(path) for path in sorted(MODEL.glob("*.safetensors")) + [MODEL / "tokenizer.json"]},
        "text": {"file": str(TEXT.relative_to(ROOT)), "sha256": sha256(TEXT), "first_bytes": len(text)},
    }  # fmt: skip
    rows = ",\n".join("  " + json.dumps(case(model, rival, ids, sizes, *settings)) for settings in CASES)
    OUT.write_text(f'{{\n "provenance": {json.dumps(origin)},\n "cases": [\n{rows}\n ]\n}}\n')


if __name__ == "__main__":
    main()
