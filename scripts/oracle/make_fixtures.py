"""Layered golden fixtures: what the official implementation computes, at every checkpoint of the forward pass.

    python scripts/oracle/make_fixtures.py                       # every random model of MODELS
    python scripts/oracle/make_fixtures.py yarn-bf16 tied-bf16   # some of them
    python scripts/oracle/make_fixtures.py --model models/stories --name stories \
        --layers "Once upon a time" --greedy "Once upon a time" --max-new-tokens 64

transformers runs on the CPU in f32 (weights widened from the dtype they are stored in) with eager attention and no
cache: every step of a greedy continuation recomputes the whole sequence. scripts/README.md describes the files.
"""

import argparse
import hashlib
import json
import platform
import random
import shutil
import sys
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/golden/forward"
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
TOP = 20
# Backends that round activations move a logit by a few hundredths: a greedy path with closer runners-up would test luck.
RANDOM_MIN_GAP = 0.1
MODEL_MIN_GAP = 1e-3

BASE = dict(
    vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=True,
    attention_bias=False, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)  # fmt: skip

YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 64}

# One row a model: what it is there for is in its name. `lengths` are the cases' prompt lengths.
#   published: config.json is rewritten as the Qwen3 releases spell it (rope_theta, rope_scaling, torch_dtype)
#   head_copy: a tied model that stores lm_head.weight all the same, as the real Qwen3-0.6B file does
MODELS = {
    "tied-bf16": dict(dtype="bfloat16", lengths=[1, 32], config={}),
    "untied-sharded-f32-gqa3": dict(
        dtype="float32", lengths=[2, 33], shard="64KB",
        config=dict(tie_word_embeddings=False, hidden_size=48, intermediate_size=80, num_attention_heads=6,
                    num_key_value_heads=2, head_dim=16, vocab_size=200)),
    "bias-mha-f16": dict(
        dtype="float16", lengths=[31, 127],
        config=dict(attention_bias=True, hidden_size=32, intermediate_size=64, num_key_value_heads=4, head_dim=8,
                    num_hidden_layers=3)),
    "published-headcopy-gqa5-bf16": dict(
        dtype="bfloat16", lengths=[129], published=True, head_copy=True,
        config=dict(num_attention_heads=10, num_key_value_heads=2, head_dim=8)),
    "mqa-odd-sizes-bf16": dict(
        dtype="bfloat16", lengths=[1, 33],
        config=dict(tie_word_embeddings=False, hidden_size=40, intermediate_size=73, num_attention_heads=6,
                    num_key_value_heads=1, head_dim=6, vocab_size=131)),
    "published-yarn-f32": dict(
        dtype="float32", lengths=[2, 127], published=True,
        config=dict(hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
                    vocab_size=160, rope_parameters=YARN)),
    "yarn-untied-bf16": dict(
        dtype="bfloat16", lengths=[31, 129],
        config=dict(tie_word_embeddings=False, hidden_size=64, num_attention_heads=3, num_key_value_heads=1,
                    head_dim=32, vocab_size=160,
                    rope_parameters=YARN | dict(attention_factor=1.25, beta_fast=4.0, beta_slow=1.0, truncate=False))),
}  # fmt: skip


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def make_model(name, spec, directory):
    """A random Qwen3 whose every parameter matters: norms away from 1, biases away from 0, logits a few units wide."""
    torch.manual_seed(seed_of(name))
    model = Qwen3ForCausalLM(Qwen3Config(**(BASE | spec["config"]), initializer_range=0.15))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif key.endswith("bias"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
        model.model.norm.weight.mul_(4)
    shutil.rmtree(directory, ignore_errors=True)
    model.to(getattr(torch, spec["dtype"])).save_pretrained(directory, max_shard_size=spec.get("shard", "1GB"))
    if spec.get("head_copy"):
        path = directory / "model.safetensors"
        tensors = load_file(path)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, path, metadata={"format": "pt"})
    if spec.get("published"):
        publish_spelling(directory / "config.json")


def publish_spelling(path):
    """Rewrites config.json from the spelling of transformers 5 to the one of the Qwen3 releases."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["use_sliding_window"], config["sliding_window"] = False, None
    config.pop("layer_types", None)
    path.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")


def seed_of(*words):
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:4], "little")


def load(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return model.eval()


@torch.inference_mode()
def checkpoints(model, ids):
    """Every checkpoint of one forward pass, each [tokens, width] in f32."""
    seen, hooks = {}, []

    def keep(name):
        return lambda _module, _inputs, out: seen.__setitem__(name, (out[0] if isinstance(out, tuple) else out)[0].clone())

    body = model.model
    named = [("embedding", body.embed_tokens)]
    named += [(f"block_{i}", block) for i, block in enumerate(body.layers)]
    named += [("final_norm", body.norm), ("logits", model.lm_head)]
    for name, module in named:
        hooks.append(module.register_forward_hook(keep(name)))
    model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: seen[name].float().contiguous() for name, _ in named}


@torch.inference_mode()
def greedy(model, ids, steps, min_gap):
    """The greedy continuation, the best logits of each step, and the winners' smallest lead; None if that is too small."""
    text, top, gap = list(ids), [], float("inf")
    for _ in range(steps):
        logits = model(input_ids=torch.tensor([text]), use_cache=False, logits_to_keep=1).logits[0, -1]
        best = torch.topk(logits, TOP)
        top.append([{"id": i, "logit": short(v)} for i, v in zip(best.indices.tolist(), best.values.tolist())])
        gap = min(gap, top[-1][0]["logit"] - top[-1][1]["logit"])
        if gap < min_gap:
            return None
        text.append(top[-1][0]["id"])
    return {"max_new_tokens": steps, "ids": text[len(ids) :], "min_gap": short(gap), "top": top}


def short(value):
    """The shortest decimal that reads back as the same f32."""
    return float(str(numpy.float32(value)))


def robust_case(model, name, length, steps):
    """A random prompt whose greedy continuation has clear winners and is not one token repeated."""
    vocab = model.config.vocab_size
    for attempt in range(1000):
        seed = seed_of(name, length, attempt)
        ids = random.Random(seed).choices(range(vocab), k=length)
        continuation = greedy(model, ids, steps, RANDOM_MIN_GAP)
        if continuation and len(set(continuation["ids"])) >= 5:
            return ids, continuation, seed
    sys.exit(f"{name}: no prompt of {length} tokens has a robust greedy continuation; change the model's seed")


def write_case(out, index, model, ids):
    tensors = checkpoints(model, ids)
    file = f"case_{index}.safetensors"
    save_file(tensors, out / file)
    return {name: {"file": file, "shape": list(t.shape), "rows": "all"} for name, t in tensors.items()}


def provenance(arguments, seed=None):
    script = Path(__file__).resolve()
    return {
        "script": str(script.relative_to(ROOT)),
        "script_sha256": sha256(script),
        "command": " ".join(["python", str(script.relative_to(ROOT)), *map(shell_word, arguments)]),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": "cpu",
        "activations": "float32",
        "attention": "eager",
        "use_cache": False,
        "seed": seed,
    }


def shell_word(word):
    return json.dumps(word) if " " in word else word


def identity(name, directory, path):
    """What names a model: its config and every weights file, by hash."""
    weights = sorted(directory.glob("*.safetensors"))
    return {
        "name": name,
        "path": path,
        "config_sha256": sha256(directory / "config.json"),
        "weights_sha256": {file.name: sha256(file) for file in weights},
    }


def write_manifest(out, model, cases, origin):
    manifest = {"schema": 1, "model": model, "provenance": origin, "tolerance": TOLERANCE, "cases": cases}
    (out / "manifest.json").write_text(pretty(manifest) + "\n")
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    gaps = [c["greedy"]["min_gap"] for c in cases if "greedy" in c]
    print(f"{out.name}: {len(cases)} cases, {size:,} bytes, smallest greedy gap {min(gaps, default=0):.4f}", file=sys.stderr)


def pretty(value, indent=0):
    """Indented JSON in which lists of numbers, and a step's top list, stay on one line."""
    flat, items = json.dumps(value), value
    if isinstance(value, dict):
        items = list(value.values())
    one_line = isinstance(value, list) and (not value or not isinstance(value[0], (dict, list)) or "logit" in value[0])
    if one_line or not isinstance(value, (dict, list)) or len(flat) + indent <= 120:
        return flat
    rows = [pretty(item, indent + 1) for item in items]
    if isinstance(value, dict):
        rows = [f"{json.dumps(key)}: {row}" for key, row in zip(value, rows)]
    pad, brackets = "\n" + " " * indent, "{}" if isinstance(value, dict) else "[]"
    return brackets[0] + ",".join(f"{pad} {row}" for row in rows) + pad + brackets[1]


def random_models(names, steps):
    for name in names:
        spec, out = MODELS[name], OUT / name
        shutil.rmtree(out, ignore_errors=True)
        directory = out / "model"
        directory.mkdir(parents=True)
        make_model(name, spec, directory)
        model, cases = load(directory), []
        for index, length in enumerate(spec["lengths"]):
            ids, continuation, seed = robust_case(model, name, length, steps)
            layers = write_case(out, index, model, ids)
            cases.append({"ids": ids, "seed": seed, "checkpoints": layers, "greedy": continuation})
        write_manifest(out, identity(name, directory, "model"), cases, provenance([name], seed_of(name)))


def given_model(directory, name, layers, prompts, steps):
    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model, cases = load(directory), []
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    for prompt in layers:
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        cases.append({"prompt": prompt, "ids": ids, "checkpoints": write_case(out, len(cases), model, ids)})
    for prompt in prompts:
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        continuation = greedy(model, ids, steps, MODEL_MIN_GAP)
        if not continuation:
            sys.exit(f"{prompt!r}: two best tokens are less than {MODEL_MIN_GAP} apart; choose another prompt or fewer steps")
        print(tokenizer.decode(ids + continuation["ids"]), file=sys.stderr)
        cases.append({"prompt": prompt, "ids": ids, "checkpoints": {}, "greedy": continuation})
    write_manifest(out, identity(name, directory, None), cases, provenance(sys.argv[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME", help="random models to make (default: all)")
    parser.add_argument("--model", type=Path, help="a model directory that exists; its weights are named by hash, not copied")
    parser.add_argument("--name", help="with --model: the fixture's directory name")
    parser.add_argument("--layers", action="append", default=[], help="with --model: a prompt to record every checkpoint of")
    parser.add_argument("--greedy", action="append", default=[], help="with --model: a prompt to continue greedily")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    args = parser.parse_args()
    unknown = set(args.models) - set(MODELS)
    if unknown or (args.model and not args.name):
        parser.error(f"no model {sorted(unknown)}; known: {sorted(MODELS)}" if unknown else "--model needs --name")
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    if args.model:
        given_model(args.model, args.name, args.layers, args.greedy, args.max_new_tokens)
    else:
        random_models(args.models or list(MODELS), args.max_new_tokens)


if __name__ == "__main__":
    main()
