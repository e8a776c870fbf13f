"""Train the story model (or its teacher) on the editions that prepare.py wrote.

    python train.py --preset teacher --out build/teacher
    python train.py --preset student --teacher build/teacher --out ../../models/stories

The weights live in transformers' own Qwen3ForCausalLM, so what is saved is a plain Qwen3 and nothing
else. Around it stand the things a small data set needs: dropout on every residual branch, strong weight
decay, an average of the weights (EMA), and soft targets from a larger teacher.
"""

import argparse
import json
import math
import threading
import time
from pathlib import Path
from queue import Queue

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from evaluate import bits_per_byte, read_validation, window_loss
from prepare import END, HERE, IM_END, MODEL_DIR, NO_LOSS, Tokenizer

PRESETS = {
    # Widths are multiples of 256, so that every quantized block format fits.
    "student": dict(hidden=256, layers=8, heads=4, intermediate=768, dropout=0.15, steps=12000),
    "teacher": dict(hidden=512, layers=8, heads=8, intermediate=1536, dropout=0.25, steps=6000),
}
STORY_ROWS, STORY_LENGTH = 24, 1024  # whole stories and conversations, packed
WINDOW_ROWS = 288  # one window each: nothing is known of what stood around it


def build_model(hidden, layers, heads, intermediate, tok):
    config = Qwen3Config(
        vocab_size=tok.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=64,
        max_position_embeddings=STORY_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_bias=False,
        bos_token_id=tok.token_to_id(END),
        eos_token_id=tok.token_to_id(IM_END),
        pad_token_id=tok.token_to_id(END),
        attn_implementation="sdpa",
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():  # the last matrix of each branch starts small: the residual sum stays tame
        for layer in model.model.layers:
            for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
                last.weight.mul_((2 * layers) ** -0.5)
    return model


def add_dropout(model, p):
    """Dropout on what attention and MLP add to the residual stream. Hooks, so nothing is saved of it."""

    def drop(module, _, out):
        return F.dropout(out, p, module.training)

    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)


# ---------------------------------------------------------------------------- batches


class Editions:
    """Edition `epoch % count`, waiting for it where prepare.py has not written it yet."""

    def __init__(self, folder, count):
        self.folder, self.count, self.kept = folder, count, {}
        self.lock = threading.Lock()

    def __getitem__(self, epoch):
        number = epoch % self.count
        with self.lock:
            if number not in self.kept:
                path = self.folder / f"edition-{number:02}.npz"
                while not path.exists():
                    time.sleep(0.5)
                self.kept[number] = dict(np.load(path))
            return self.kept[number]


def story_rows(edition, rng, length):
    """Documents in random order, packed into rows of length + 1 tokens (the last is target only).

    Half of the rows run on through the stream and begin anywhere. The other half begin with a document
    and without the mark before it, because that is how the engine will begin.
    """
    flat, starts = edition["documents"], edition["starts"]
    order = rng.permutation(len(starts) - 1)
    half = len(order) // 2
    stream = np.concatenate([flat[starts[i] : starts[i + 1]] for i in order[:half]])
    rows = [stream[i : i + length + 1] for i in range(0, len(stream) - length - 1, length)]
    row, filled = [], 0
    for i in order[half:]:
        row.append(flat[starts[i] : starts[i + 1]])
        filled += len(row[-1])
        if filled > length:
            rows.append(np.concatenate(row)[: length + 1])
            row, filled = [], 0
    rows = np.stack(rows)
    return rows[rng.permutation(len(rows))]


def window_rows(edition, rng):
    return edition["windows"][rng.permutation(len(edition["windows"]))]


def endless(make, editions, rows, seed):
    rng, epoch = np.random.default_rng(seed), 0
    while True:
        data = make(editions[epoch], rng)
        for i in range(0, len(data) - rows + 1, rows):
            yield data[i : i + rows]
        epoch += 1


def batches(editions, seed, device):
    """A thread keeps a few steps' batches ready on the device."""
    queue = Queue(8)

    def work():
        stories = endless(lambda e, r: story_rows(e, r, STORY_LENGTH), editions, STORY_ROWS, seed)
        windows = endless(window_rows, editions, WINDOW_ROWS, seed + 1)
        for parts in zip(stories, windows):
            learnt = sum(int(((part[:, 1:] & NO_LOSS) == 0).sum()) for part in parts)
            tensors = [torch.from_numpy(part.astype(np.int32)).to(device, non_blocking=True) for part in parts]
            queue.put((tensors, learnt))

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield queue.get()


def inputs_and_targets(rows):
    ids = (rows & (NO_LOSS - 1)).long()
    targets = torch.where((rows & NO_LOSS) == 0, ids, -100)
    return ids[:, :-1].contiguous(), targets[:, 1:].contiguous()


# ---------------------------------------------------------------------------- model runs


def hidden_states(model, layers, ids):
    """Qwen3Model.forward, spelt out so that one compiled layer serves all layers."""
    # The residual stream is kept in bf16: half the memory traffic, and the saved weights are bf16 anyway.
    x = model.model.embed_tokens(ids).bfloat16()
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    rope = model.model.rotary_emb(x, positions)
    for layer in layers:
        x = layer(x, attention_mask=None, position_ids=positions, position_embeddings=rope)
    return model.model.norm(x).bfloat16()


def plain_loss(x, head, targets):
    logits = F.linear(x.flatten(0, 1), head.bfloat16()).float()
    return F.cross_entropy(logits, targets.flatten(), ignore_index=-100, reduction="sum")


def soft_loss(x, head, targets, teacher_x, teacher_head, weight):
    """(1 - weight) x cross-entropy with the text + weight x cross-entropy with the teacher's distribution."""
    targets = targets.flatten()
    logp = F.log_softmax(F.linear(x.flatten(0, 1), head.bfloat16()).float(), -1)
    teacher = F.softmax(F.linear(teacher_x.flatten(0, 1), teacher_head.bfloat16()).float(), -1)
    learnt = targets >= 0
    hard = -logp.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    soft = -(teacher * logp).sum(-1)
    return (((1 - weight) * hard + weight * soft) * learnt).sum(), (hard * learnt).sum().detach()


# ---------------------------------------------------------------------------- optimizer


class Muon:
    """Muon (Jordan 2024) for the matrices: momentum whose singular values are all set to about one.

    Matrices of one shape are stacked and handled in one batched product. The step is scaled as by
    Liu et al. 2025, so that learning rate and weight decay mean about what they mean for AdamW.
    """

    def __init__(self, params, momentum=0.95):
        self.momentum = momentum
        shapes = {}
        for p in params:
            shapes.setdefault(tuple(p.shape), []).append(p)
        self.groups = [(ps, torch.zeros(len(ps), *shape, device=ps[0].device)) for shape, ps in shapes.items()]

    @torch.no_grad()
    def step(self, lr, decay):
        for params, momentum in self.groups:
            grad = torch.stack([p.grad for p in params])
            momentum.lerp_(grad, 1 - self.momentum)
            update = self.orthogonal(grad.lerp(momentum, self.momentum))
            scale = 0.2 * max(update.shape[-2:]) ** 0.5
            torch._foreach_mul_(params, 1 - lr * decay)
            torch._foreach_add_(params, list((update * scale).float().unbind()), alpha=-lr)

    @staticmethod
    def orthogonal(g):
        x = g.bfloat16()
        tall = x.shape[-2] > x.shape[-1]
        if tall:
            x = x.mT
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):  # Newton-Schulz, with the coefficients everybody uses
            a = x @ x.mT
            b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
            x = torch.baddbmm(x, b, x, beta=3.4445, alpha=1.0)
        return x.mT if tall else x


def learning_rate(step, steps, warmup, hold=0.4):
    if step < warmup:
        return (step + 1) / warmup
    return min(1.0, (steps - step) / (steps * (1 - hold)))


# ---------------------------------------------------------------------------- main


def save(model, weights, folder):
    folder.mkdir(parents=True, exist_ok=True)
    plain = Qwen3ForCausalLM(model.config)
    with torch.no_grad():
        for p, w in zip(plain.parameters(), weights):
            p.copy_(w)
    config = model.config
    plain.generation_config = GenerationConfig(
        do_sample=True, temperature=0.8, top_p=0.95, top_k=40,
        bos_token_id=config.bos_token_id, pad_token_id=config.pad_token_id,
        eos_token_id=[config.eos_token_id, config.pad_token_id],
    )  # fmt: skip
    plain.to(torch.bfloat16).save_pretrained(folder)  # the tied head is stored once, as the embedding
    (folder / "model.safetensors").chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="student")
    for name in ("hidden", "layers", "heads", "intermediate", "steps"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--dropout", type=float)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--decay", type=float, default=0.3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--teacher", type=Path, nargs="*", default=[])
    parser.add_argument("--soft", type=float, default=0.7, help="weight of the teacher's targets")
    parser.add_argument("--editions", type=int, default=12)
    parser.add_argument("--edition-dir", type=Path, default=HERE / "build")
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--tokenizer-dir", type=Path, default=MODEL_DIR)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--eval-every", type=int, default=500)
    parser.add_argument("--max-seconds", type=float, default=1e9, help="stop early, whatever the schedule says")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    begun = time.time()
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")

    tok = Tokenizer.from_file(str(args.tokenizer_dir / "tokenizer.json"))
    model = build_model(args.hidden, args.layers, args.heads, args.intermediate, tok).to(device)
    add_dropout(model, args.dropout)
    params = list(model.parameters())
    print(f"{sum(p.numel() for p in params):,} parameters", flush=True)

    def compiled(f):
        return f if args.no_compile else torch.compile(f, dynamic=False)

    torch._dynamo.config.cache_size_limit = 64
    layers = [compiled(layer) for layer in model.model.layers]
    plain_loss_, soft_loss_ = compiled(plain_loss), compiled(soft_loss)
    teachers = []
    for folder in args.teacher:
        teacher = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").to(device).eval()
        teachers.append((teacher, [compiled(layer) for layer in teacher.model.layers]))

    def loss_of(rows):
        """-> (loss to minimize, cross-entropy with the text), both summed over the tokens learnt"""
        ids, targets = inputs_and_targets(rows)
        head = model.lm_head.weight
        with torch.autocast(device, torch.bfloat16):
            if not teachers:
                loss = plain_loss_(hidden_states(model, layers, ids), head, targets)
                return loss, loss.detach()
            with torch.no_grad():
                teacher, teacher_layers = teachers[0]
                soft = hidden_states(teacher, teacher_layers, ids)
            return soft_loss_(hidden_states(model, layers, ids), head, targets, soft, teacher.lm_head.weight, args.soft)

    matrices = [p for layer in model.model.layers for p in layer.parameters() if p.ndim == 2]
    norms = [p for p in params if p.ndim == 1]
    embedding = [model.model.embed_tokens.weight]
    muon = Muon(matrices) if args.optimizer == "muon" else None
    others = embedding if muon else embedding + matrices
    adamw = torch.optim.AdamW(
        [dict(params=others, weight_decay=args.decay), dict(params=norms, weight_decay=0.0)],
        lr=args.lr, betas=(0.9, 0.95), fused=device == "cuda",
    )  # fmt: skip

    validation = read_validation(args.data, tok)
    average = [p.detach().clone() for p in params]
    log = open(args.log, "w") if args.log else None

    def evaluate():
        """bits per byte with the weights as they are, and with their average"""
        model.eval()
        result = []
        raw = [p.detach().clone() for p in params]
        for weights in (raw, average):
            with torch.no_grad():
                torch._foreach_copy_(params, weights)
            nats = window_loss(lambda ids: run_for_evaluation(ids), validation[0], device)
            result.append(bits_per_byte(nats, validation[1]))
        with torch.no_grad():
            torch._foreach_copy_(params, raw)
        model.train()
        return result

    def run_for_evaluation(ids):
        with torch.autocast(device, torch.bfloat16):
            x = hidden_states(model, model.model.layers, ids)
            return F.linear(x, model.lm_head.weight).float()

    source = batches(Editions(args.edition_dir, args.editions), args.seed, device)
    model.train()
    started, recent, best = None, [], None
    for step in range(args.steps):
        scale = learning_rate(step, args.steps, warmup=200)
        parts, learnt = next(source)
        for part in parts:
            loss, nats = loss_of(part)
            (loss / learnt).backward()
            recent.append(nats / learnt)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for group in adamw.param_groups:
            group["lr"] = args.lr * scale
        adamw.step()
        if muon:
            muon.step(args.lr * scale, args.decay)
        model.zero_grad(set_to_none=True)
        # The average reaches back less far at first, or it would still hold the random start.
        torch._foreach_lerp_(average, [p.detach() for p in params], 1 - min(args.ema, (step + 1) / (step + 10)))

        if step == 20:
            if device == "cuda":
                torch.cuda.synchronize()
            started = time.time()
        last = step + 1 == args.steps or time.time() - begun > args.max_seconds
        if (step + 1) % 100 == 0 or last:
            record = dict(step=step + 1, train=round(float(torch.stack(recent).sum()) / (len(recent) / 2), 4))
            record.update(lr=round(args.lr * scale, 6), seconds=round(time.time() - begun, 1))
            recent = []
            if (step + 1) % args.eval_every == 0 or last:
                record["bpb"], record["bpb_ema"] = (round(b, 4) for b in evaluate())
                if started:
                    record["ms"] = round((time.time() - started) / max(1, step - 20) * 1000, 1)
                print(json.dumps(record), flush=True)
            if log:
                print(json.dumps(record), file=log, flush=True)
        if last:
            break
    best = average if record["bpb_ema"] <= record["bpb"] else [p.detach() for p in params]
    save(model, best, args.out)
    print(f"saved {args.out} after {time.time() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
