"""llama.cpp behind the line protocol of bench.py: llama.py MODEL.gguf THREADS on|off (flash attention).

The low-level API, as llama-bench uses it: batches of 512 for a prompt, single tokens for decoding, logits for the last token
only, and nothing timed but llama_decode until the device is done.
"""

import ctypes
import json
import sys
import time

import llama_cpp as llama

CHUNK = 512
path, threads, flash = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "on"

llama.llama_backend_init()
model_params = llama.llama_model_default_params()
model_params.n_gpu_layers = 0
model = llama.llama_model_load_from_file(path.encode(), model_params)
assert model, path


def context(size):
    params = llama.llama_context_default_params()
    params.n_ctx = size
    params.n_batch = params.n_ubatch = CHUNK
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.no_perf = True
    ctx = llama.llama_init_from_model(model, params)
    assert ctx, "no context"
    return ctx


def run(ctx, start, end, step):
    """Arbitrary tokens at positions start to end, `step` at a time."""
    for first in range(start, end, step):
        count = min(step, end - first)
        tokens = (ctypes.c_int32 * count)(*((i * 7919 + 11) % 50_000 for i in range(first, first + count)))
        code = llama.llama_decode(ctx, llama.llama_batch_get_one(tokens, count))
        assert code == 0, f"llama_decode: {code}"
    llama.llama_synchronize(ctx)


contexts = {}  # by depth: the context, whose cache is filled so far
print(json.dumps({"ready": True, "version": f"llama-cpp-python {llama.__version__}",
                  "system": llama.llama_print_system_info().decode()}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    depth, tokens = request["depth"], request["tokens"]
    step = CHUNK if request["phase"] == "prefill" else 1
    if depth not in contexts:
        contexts[depth] = context(depth + 1024)
        run(contexts[depth], 0, depth, CHUNK)
    ctx = contexts[depth]
    started = time.perf_counter()
    run(ctx, depth, depth + tokens, step)
    seconds = time.perf_counter() - started
    llama.llama_memory_seq_rm(llama.llama_get_memory(ctx), 0, depth, -1)
    print(json.dumps({"seconds": seconds}), flush=True)
