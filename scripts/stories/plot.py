"""Draw loss.svg from train-log.jsonl: bits per byte on the validation text over the steps.

    python plot.py
"""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 48, 150, 16, 36
LOW, HIGH = 0.60, 0.76

records = [json.loads(line) for line in open(HERE / "train-log.jsonl")]
records = [r for r in records if "bpb" in r]
most = records[-1]["step"]


def x(step):
    return LEFT + (WIDTH - LEFT - RIGHT) * step / most


def y(bpb):
    return TOP + (HEIGHT - TOP - BOTTOM) * (HIGH - bpb) / (HIGH - LOW)


out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
    "<title>Bits per byte on the validation text while training</title>",
    f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
]
for tick in range(round(LOW * 100), round(HIGH * 100) + 1, 4):
    h = y(tick / 100)
    out.append(f'<path d="M{LEFT} {h:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
    out.append(f'<text x="{LEFT - 6}" y="{h + 4:.1f}" text-anchor="end" fill="#555">{tick / 100:.2f}</text>')
for tick in range(0, most + 1, 2000):
    out.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 16}" text-anchor="middle" fill="#555">{tick:,}</text>')
out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle" fill="#555">step</text>')
for key, name, colour in (("bpb", "weights as they are", "#b07020"), ("bpb_ema", "their average", "#2060a0")):
    points = " ".join(f"{x(r['step']):.1f},{y(r[key]):.1f}" for r in records)
    out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    last = records[-1][key]
    out.append(f'<text x="{WIDTH - RIGHT + 6}" y="{y(last) + 4:.1f}" fill="{colour}">{name}</text>')
out.append("</svg>")
(HERE / "loss.svg").write_text("\n".join(out) + "\n")
