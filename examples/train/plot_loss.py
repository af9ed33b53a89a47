#!/usr/bin/env python3
"""Loss curves of the programs in this folder as an SVG: plot_loss.py OUT.svg TITLE LABEL=FILE.csv …

The files are what --csv writes: step, loss, learning_rate, and accuracy or bits_per_byte. Loss is
drawn as a line on the left axis; accuracy as dots on the right one, bits per byte as dots among the
losses, in their unit. Needs nothing but Python 3.
"""
import csv
import html
import math
import sys

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 60, 50, 50
COLOURS = ["#1f5fa8", "#c4501b", "#2c8a4b", "#7a4aa0", "#8a6d1d"]


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "loss" not in rows[0]:
        sys.exit(f"{path}: has no loss curve")
    loss = [(int(r["step"]), float(r["loss"])) for r in rows]

    def column(name):
        return [(int(r["step"]), float(r[name])) for r in rows if r.get(name)]

    held_out = [(step, bits * math.log(2)) for step, bits in column("bits_per_byte")]
    return loss, column("accuracy"), held_out


def nice_steps(largest, count):
    """About `count` round numbers from 0 to `largest`."""
    raw = largest / count
    power = 1.0
    while power * 10 <= raw:
        power *= 10
    while power > raw:
        power /= 10
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [i * step for i in range(int(largest / step) + 1)]


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    out, title, *arguments = sys.argv[1:]
    curves = []
    for argument in arguments:
        label, _, path = argument.partition("=")
        curves.append((label, *read(path)))
    most_steps = max(step for _, loss, _, _ in curves for step, _ in loss)
    most_loss = max(value for _, loss, _, _ in curves for _, value in loss)

    def x(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * step / most_steps

    def y(share):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="10" y="24" font-size="15">{html.escape(title)}</text>']
    for value in nice_steps(most_loss, 6):
        at = y(value / most_loss)
        svg.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" '
                   'stroke="#ddd"/>')
        svg.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in nice_steps(most_steps, 6):
        svg.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" '
                   f'text-anchor="middle">{value:g}</text>')
    svg.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">step</text>')
    svg.append(f'<text x="{LEFT}" y="{TOP - 8}" text-anchor="middle">loss</text>')
    if any(accuracy for _, _, accuracy, _ in curves):
        for value in (0, 0.25, 0.5, 0.75, 1):
            svg.append(f'<text x="{WIDTH - RIGHT + 6}" y="{y(value) + 4:.1f}">{value:.0%}</text>')
        svg.append(f'<text x="{WIDTH - RIGHT}" y="{TOP - 8}" text-anchor="middle">accuracy</text>')
    for i, (label, loss, accuracy, held_out) in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        points = " ".join(f"{x(s):.1f},{y(v / most_loss):.1f}" for s, v in loss)
        svg.append(f'<polyline points="{points}" fill="none" stroke="{colour}" '
                   'stroke-width="1.5"/>')
        for s, v in accuracy + [(s, v / most_loss) for s, v in held_out]:
            svg.append(f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="3" fill="{colour}"/>')
        svg.append(f'<text x="{LEFT + 12 + 170 * (i % 4)}" y="{TOP + 14 + 16 * (i // 4)}" '
                   f'fill="{colour}">{html.escape(label)}</text>')
    svg.append("</svg>")
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(svg) + "\n")


if __name__ == "__main__":
    main()
