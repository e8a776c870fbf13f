"""transformers on the CPU in bf16 behind the line protocol of bench.py: transformers_peer.py MODEL_DIRECTORY THREADS."""

import json
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

CHUNK = 512
torch.set_num_threads(int(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()


def run(cache, start, end, step):
    """Arbitrary tokens at positions start to end, `step` at a time."""
    for first in range(start, end, step):
        ids = [(i * 7919 + 11) % 50_000 for i in range(first, min(end, first + step))]
        model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)


caches = {}  # by depth, filled so far
print(json.dumps({"ready": True, "version": f"transformers {transformers.__version__}, torch {torch.__version__}"}), flush=True)
with torch.inference_mode():
    for line in sys.stdin:
        request = json.loads(line)
        depth, tokens = request["depth"], request["tokens"]
        step = CHUNK if request["phase"] == "prefill" else 1
        if depth not in caches:
            caches[depth] = DynamicCache()
            run(caches[depth], 0, depth, CHUNK)
        cache = caches[depth] if depth else DynamicCache()
        started = time.perf_counter()
        run(cache, depth, depth + tokens, step)
        seconds = time.perf_counter() - started
        if depth:
            cache.crop(depth)
        print(json.dumps({"seconds": seconds}), flush=True)
