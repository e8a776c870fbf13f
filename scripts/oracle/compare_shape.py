"""A full-size model of random weights, run by transformers and by fs: do the largest logits agree?

    cargo build --release
    python scripts/oracle/compare_shape.py models/qwen3-0.6b/config.json
    python scripts/oracle/compare_shape.py models/qwen3-0.6b/config.json --keep build/shape   # to time fs on it

The fixtures are small models. This is the check of a real shape (Qwen3-0.6B: 28 layers, 151,936 tokens), where the weights
themselves cannot be had. Needs disk for the weights (1.2 GB) and memory for them in f32.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, Qwen3ForCausalLM

ROOT = Path(__file__).resolve().parents[2]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("config", type=Path)
parser.add_argument("--ids", default="785,6722,315,9625,374")
parser.add_argument("--fs", type=Path, default=ROOT / "target/release/fs")
parser.add_argument("--keep", type=Path, help="leave the model in this directory")
args = parser.parse_args()

torch.manual_seed(1)
config = AutoConfig.from_pretrained(args.config)
model = Qwen3ForCausalLM._from_config(config, dtype=torch.bfloat16, attn_implementation="eager").eval()
with tempfile.TemporaryDirectory() as temporary:
    directory = args.keep or temporary
    model.save_pretrained(directory)
    ids = [int(i) for i in args.ids.split(",")]
    with torch.inference_mode():
        logits = model.float()(input_ids=torch.tensor([ids])).logits[0, -1]
    command = [args.fs, "logits", "--model", directory, "--ids", args.ids, "--top", "20", "--kv", "f32", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["top"]

same_order = [token["id"] for token in found] == torch.topk(logits, 20).indices.tolist()
largest = max(abs(token["logit"] - logits[token["id"]].item()) for token in found)
print(f"20 largest logits: {'same' if same_order else 'ANOTHER'} order, largest difference {largest:.1e}")
raise SystemExit(0 if same_order and largest < 1e-4 else 1)
