#!/usr/bin/env python3
"""Time against length on logarithmic axes, as an SVG: plot_lengths.py OUT.svg TITLE IN.csv

IN.csv has a column `length` and one of microseconds for each curve; empty cells are left out. Needs nothing but
Python 3.
"""
import csv
import html
import math
import sys

COLOURS = ["#2b6cb0", "#c05621", "#718096"]


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    out, title, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    names = [n for n in table[0] if n != "length"]
    curves = {n: [(int(r["length"]), float(r[n])) for r in table if r[n]] for n in names}
    curves = {n: points for n, points in curves.items() if points}
    lengths = [x for points in curves.values() for x, _ in points]
    times = [y for points in curves.values() for _, y in points]
    x0, x1 = math.log2(min(lengths)), math.log2(max(lengths))
    y0, y1 = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))

    def place(length, time):
        return (70 + 640 * (math.log2(length) - x0) / max(x1 - x0, 1),
                360 - 310 * (math.log10(time) - y0) / max(y1 - y0, 1))

    svg = ['<svg xmlns="http://www.w3.org/2000/svg" width="760" height="400" '
           'font-family="sans-serif" font-size="13">',
           '<rect width="760" height="400" fill="white"/>',
           f'<text x="10" y="24" font-size="15">{html.escape(title)}</text>']
    for power in range(y0, y1 + 1):
        y = place(min(lengths), 10**power)[1]
        svg += [f'<line x1="70" x2="710" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>',
                f'<text x="62" y="{y + 4:.1f}" text-anchor="end">{10**power:g} µs</text>']
    for length in sorted(set(lengths)):
        x = place(length, 10**y0)[0]
        svg.append(f'<text x="{x:.1f}" y="380" text-anchor="middle">2^{round(math.log2(length))}'
                   '</text>')
    for i, (name, points) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in points))
        x, y = place(*points[-1])
        svg += [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
                f'<text x="{x - 6:.1f}" y="{y - 8:.1f}" text-anchor="end" fill="{colour}">'
                f'{html.escape(name)}</text>']
    svg.append("</svg>")
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(svg) + "\n")


main()
