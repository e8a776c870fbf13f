"""Sampling fixtures: what transformers' logits processors leave of fixed logits, and with which probabilities.

    python scripts/oracle/make_sampling_fixtures.py

Writes tests/golden/sampling: `cases.json` (parameters, history, provenance) and `values.safetensors` (the logits, f32,
and for each case `case_N`, the f32 probabilities after every step, 0 for tokens that were dropped). The processors are
the list that `generate` itself would build, in its order; they run in f64 on the f32 logits.
"""

import hashlib
import json
import platform
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/golden/sampling"

SAMPLE = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
HISTORY = [3, 3, 9, 60, 17, 9, 9, 41]

# (logits, history, what the generation config says). The Qwen3 row is what its authors recommend.
CASES = [
    ("small", [], {}),
    ("small", [], {"temperature": 0.3}),
    ("small", [], {"temperature": 4.0}),
    ("small", [], {"top_k": 1}),
    ("small", [], {"top_k": 7}),
    ("small", [], {"top_k": 1000}),
    ("small", [], {"top_p": 0.0}),
    ("small", [], {"top_p": 0.5}),
    ("small", [], {"top_p": 0.999}),
    ("small", [], {"min_p": 0.05}),
    ("small", HISTORY, {"repetition_penalty": 1.3}),
    ("small", HISTORY, {"repetition_penalty": 0.7, "top_k": 9}),
    ("small", HISTORY, {"sequence_bias": [[[5], 6.0], [[60], -3.0]], "repetition_penalty": 1.5}),
    ("small", HISTORY, {"sequence_bias": [[[5], 2.5]], "repetition_penalty": 1.1, "temperature": 0.8, "top_k": 20,
                        "top_p": 0.9, "min_p": 0.1}),
    ("ties", [], {"top_k": 5}),
    ("ties", [], {"top_k": 20, "min_p": 0.2}),
    ("masked", [], {"temperature": 0.7}),
    ("masked", [], {"top_k": 30, "top_p": 0.8}),
    ("large", [], {"temperature": 0.9}),
    ("large", [], {"top_p": 0.95}),
    ("large", [], {"temperature": 3.0, "top_p": 0.95}),
    ("large", [], {"temperature": 1.5, "top_k": 1000, "top_p": 0.7, "min_p": 0.001}),
    ("large", HISTORY, {"temperature": 0.6, "top_k": 20, "top_p": 0.95}),
    ("large", list(range(0, 5000, 7)), {"repetition_penalty": 1.2, "temperature": 2.0, "min_p": 0.02}),
]  # fmt: skip


def logits():
    generator = torch.Generator().manual_seed(20)
    normal = lambda n: torch.randn(n, generator=generator)
    small, large = normal(64) * 3, normal(5000) * 2.5
    ties = (normal(64) * 2).round() / 2
    masked = normal(64) * 2
    masked[::3] = -float("inf")
    return {"small": small, "ties": ties, "masked": masked, "large": large}


def processors(config):
    """The processors in the order of `generate`; the model is only there to be asked."""
    tiny = Qwen3Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                       num_key_value_heads=1, head_dim=8)  # fmt: skip
    return Qwen3ForCausalLM(tiny)._get_logits_processor(
        generation_config=config, input_ids_seq_length=1, device="cpu", logits_processor=None
    )


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    values, cases = logits(), []
    tensors = dict(values)
    for index, (name, history, settings) in enumerate(CASES):
        chain = processors(GenerationConfig(**(SAMPLE | settings)))
        scores = chain(torch.tensor([history], dtype=torch.long), values[name].double()[None])[0]
        tensors[f"case_{index}"] = scores.softmax(-1).float()
        steps = [type(step).__name__ for step in chain]
        cases.append({"logits": name, "history": history, "params": settings, "processors": steps})
    save_file(tensors, OUT / "values.safetensors")
    script = Path(__file__).resolve()
    origin = {
        "script": str(script.relative_to(ROOT)),
        "script_sha256": hashlib.sha256(script.read_bytes()).hexdigest(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    rows = ",\n".join("  " + json.dumps(case) for case in cases)
    (OUT / "cases.json").write_text(f'{{\n "provenance": {json.dumps(origin)},\n "cases": [\n{rows}\n ]\n}}\n')


if __name__ == "__main__":
    main()
