#!/usr/bin/env python3
"""Bars from Google Benchmark's JSON, as an SVG: plot.py OUT.svg TITLE COUNTER LABEL=FILE:NAME …

Each LABEL=FILE:NAME is one bar: the counter of the benchmark NAME in FILE, its median where the
file holds repetitions. A LABEL of '-' leaves a gap. Needs nothing but Python 3.
"""
import html
import json
import sys


def value(path, name, counter):
    with open(path, encoding="utf-8") as file:
        runs = [b for b in json.load(file)["benchmarks"] if b.get("run_name", b["name"]) == name]
    if not runs:
        sys.exit(f"{path}: has no benchmark {name}")
    medians = [b for b in runs if b.get("aggregate_name") == "median"]
    return (medians or runs)[0][counter]


def main():
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    out, title, counter, *bars = sys.argv[1:]
    rows = []
    for bar in bars:
        label, _, where = bar.partition("=")
        path, _, name = where.partition(":")
        rows.append((label, value(path, name, counter)) if where else None)
    largest = max(v for row in rows if row for v in [row[1]])
    height = 24 * len(rows) + 50
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" '
           'font-family="sans-serif" font-size="13">',
           f'<rect width="760" height="{height}" fill="white"/>',
           f'<text x="10" y="24" font-size="15">{html.escape(title)}</text>']
    for i, row in enumerate(rows):
        if row is None:
            continue
        label, amount = row
        y = 40 + 24 * i
        width = 420 * amount / largest
        colour = "#2b6cb0" if label.startswith("ssm") else "#a0aec0"
        svg += [f'<text x="210" y="{y + 14}" text-anchor="end">{html.escape(label)}</text>',
                f'<rect x="218" y="{y}" width="{width:.1f}" height="18" fill="{colour}"/>',
                f'<text x="{224 + width:.1f}" y="{y + 14}">{amount:,.0f}</text>']
    svg.append("</svg>")
    with open(out, "w", encoding="utf-8") as file:
        file.write("\n".join(svg) + "\n")


main()
