"""A full-size model of random weights, run by transformers and by fs: do the largest logits agree?

    cargo build --release
    python scripts/oracle/compare_shape.py qwen3-0.6b

The fixtures are small models. This is the check of a real shape (Qwen3-0.6B: 28 layers, 151,936 tokens), where the weights
themselves cannot be had. Needs disk for the weights that `fs synth` makes (1.2 GB) and memory for them in f32.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("config", help="a config.json, a model's directory or a model's name, as `fs synth` takes it")
parser.add_argument("--ids", default="785,6722,315,9625,374")
parser.add_argument("--fs", type=Path, default=ROOT / "target/release/fs")
args = parser.parse_args()

with tempfile.TemporaryDirectory() as directory:
    subprocess.run([args.fs, "synth", args.config, directory], check=True)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    ids = [int(i) for i in args.ids.split(",")]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    command = [args.fs, "logits", "--model", directory, "--ids", args.ids, "--top", "20", "--kv", "f32", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["top"]

same_order = [token["id"] for token in found] == torch.topk(logits, 20).indices.tolist()
largest = max(abs(token["logit"] - logits[token["id"]].item()) for token in found)
print(f"20 largest logits: {'same' if same_order else 'ANOTHER'} order, largest difference {largest:.1e}")
raise SystemExit(0 if same_order and largest < 1e-4 else 1)
