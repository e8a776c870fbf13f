"""Bits per byte and samples of a model folder. Runs on the CPU (a minute) or a GPU.

    python evaluate.py                       # ../../models/stories, validation text and samples
    python evaluate.py --samples 0 --chat 0  # the number only
"""

import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from prepare import HERE, MODEL_DIR, read_xz

WINDOW = 512

PLAIN = ["Once upon a time", "Once upon a time, there was a little", "One day, a", "Lily and Tom were"]
CHAT = [
    "Tell me a story about a cat who lost her hat.",
    "Tell me a story about a dragon and a boy named Oliver",
    "Write a short story with the words moon, boat and brave.",
    "tell me a story about a frog",
    "I want a story about a girl named Zoe who found a key.",
    "Write a story about a robot.",
    "Tell me about a bear and a bee.",
    "Can you tell me a bedtime story about a little train?",
]


def read_validation(data, tok):
    """-> (token ids, bytes of text)"""
    text = read_xz(Path(data) / "valid-v1-head.txt.xz")
    return torch.tensor(tok.encode(text).ids), len(text.encode())


@torch.no_grad()
def window_loss(logits_of, ids, device, batch=64):
    """Total nats over the text in windows of 512 tokens that do not overlap.

    Every token but the very first is predicted, once: a window's last position predicts the first token
    of the next. The first position of a window sees nothing before it but itself.
    """
    inputs, targets = ids[:-1], ids[1:]
    whole = len(inputs) // WINDOW * WINDOW
    nats = 0.0
    pieces = list(zip(inputs[:whole].view(-1, WINDOW).split(batch), targets[:whole].view(-1, WINDOW).split(batch)))
    if whole < len(inputs):
        pieces.append((inputs[whole:][None], targets[whole:][None]))
    for x, y in pieces:
        logits = logits_of(x.to(device)).float()
        nats += F.cross_entropy(logits.flatten(0, 1), y.to(device).flatten(), reduction="sum").double().item()
    return nats


def bits_per_byte(nats, size):
    return nats / math.log(2) / size


def main():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=MODEL_DIR)
    parser.add_argument("--tokenizer-dir", type=Path, help="where it is not in the model's folder")
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--samples", type=int, default=1, help="samples of each plain prompt")
    parser.add_argument("--chat", type=int, default=1, help="samples of each question")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the samples here, too")
    args = parser.parse_args()
    folder = args.tokenizer_dir or args.model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(min(torch.get_num_threads(), 4))
    # The weights are bf16; the arithmetic is f32, as in the engine's reference.
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device).eval()
    tok = AutoTokenizer.from_pretrained(folder)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")

    ids, size = read_validation(args.data, Tokenizer.from_file(str(folder / "tokenizer.json")))
    nats = window_loss(lambda x: model(x).logits, ids, device, batch=16)
    print(f"bits per byte: {bits_per_byte(nats, size):.4f} ({len(ids):,} tokens, {size:,} bytes)", flush=True)

    records = []
    jobs = [(p, False) for p in PLAIN for _ in range(args.samples)] + [(p, True) for p in CHAT for _ in range(args.chat)]
    for number, (prompt, chat) in enumerate(jobs):
        text = prompt
        if chat:
            text = tok.apply_chat_template([dict(role="user", content=prompt)], add_generation_prompt=True, tokenize=False)
        start = torch.tensor([tok(text, add_special_tokens=False).input_ids], device=device)
        torch.manual_seed(args.seed + number)
        out = model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=500)
        answer = tok.decode(out[0, start.shape[1] :])
        print(f"\n--- {'chat' if chat else 'plain'}: {prompt!r}\n{'' if chat else prompt}{answer}", flush=True)
        records.append(dict(prompt=prompt, chat=chat, answer=answer))
    if args.json:
        args.json.write_text(json.dumps(records, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
