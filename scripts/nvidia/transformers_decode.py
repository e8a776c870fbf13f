"""Decode speed of transformers on an NVIDIA GPU: bf16, static cache, compiled; the peer of `tools/nvidia`.

    python3 scripts/nvidia/transformers_decode.py MODEL_DIR [--tokens 128] [--repeats 3]

Prints one JSON line. `generate` with a static cache compiles the step itself; the time of a prompt of 8 tokens and one more
is taken off, so that only decoding is left.
"""

import argparse
import json
import statistics
import time

import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).cuda().eval()
    ids = torch.arange(8, device="cuda")[None]

    def seconds(tokens, **options):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False, eos_token_id=None,
            pad_token_id=0, **options,
        )
        torch.cuda.synchronize()
        return time.perf_counter() - start

    results = {}
    for name, options in {"static cache, compiled": {"cache_implementation": "static"}, "eager": {}}.items():
        for _ in range(2):
            seconds(args.tokens + 1, **options)
        rates = [args.tokens / (seconds(args.tokens + 1, **options) - seconds(1, **options)) for _ in range(args.repeats)]
        results[name] = {"tokens_per_second": statistics.median(rates), "least": min(rates), "most": max(rates)}
    print(json.dumps({
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "transformers": transformers.__version__, "decode": results,
    }))


if __name__ == "__main__":
    main()
