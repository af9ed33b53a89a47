#!/usr/bin/env python3
"""The selective scan of mamba_ssm beside ours, on the same GPU in one sitting.

    bench_cuda_scan --benchmark_format=json > ours.json
    python3 mamba_ssm_scan.py ours.json [--unfused] [--csv lengths.csv]

Times mamba_ssm.ops.selective_scan_interface.selective_scan_fn for every shape of ours.json, forward and
backward: d_state 16, dt bias, softplus, D and gate, (B, D, L) tensors as it wants them, CUDA events, 512 MB
written before each call, medians. --unfused adds its plain PyTorch reference where that fits in memory; --csv
writes the shapes of lengths/bf16 for bench/plot_lengths.py. Needs PyTorch and mamba_ssm.
"""
import argparse
import json
import re
import statistics

import torch
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, selective_scan_ref

STATES = 16


def inputs(batch, channels, length, dtype, gradients):
    def random(*shape, dtype=dtype):
        return torch.randn(*shape, device="cuda", dtype=dtype).requires_grad_(gradients)

    a = -torch.arange(1, STATES + 1, device="cuda", dtype=torch.float32).repeat(channels, 1)
    return {
        "u": random(batch, channels, length),
        "delta": random(batch, channels, length),
        "A": a.requires_grad_(gradients),
        "B": random(batch, STATES, length),
        "C": random(batch, STATES, length),
        "D": random(channels, dtype=torch.float32),
        "z": random(batch, channels, length),
        "delta_bias": (random(channels, dtype=torch.float32).detach() - 4).requires_grad_(gradients),
        "delta_softplus": True,
    }


def microseconds(call, repeats=11):
    flush = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(repeats + 3):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * begin.elapsed_time(end))
    return statistics.median(times[3:])


def peer(scan, batch, channels, length, dtype, backward):
    """Median in microseconds, or None where the GPU's memory does not suffice."""
    try:
        args = inputs(batch, channels, length, dtype, backward)
        if not backward:
            with torch.no_grad():
                return microseconds(lambda: scan(**args))
        out = scan(**args)
        gradient = torch.randn_like(out)
        wanted = [v for v in args.values() if torch.is_tensor(v)]
        return microseconds(
            lambda: torch.autograd.grad(out, wanted, gradient, retain_graph=True))
    except torch.cuda.OutOfMemoryError:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours")
    parser.add_argument("--unfused", action="store_true")
    parser.add_argument("--csv")
    options = parser.parse_args()
    with open(options.ours, encoding="utf-8") as file:
        runs = json.load(file)["benchmarks"]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; microseconds\n")
    print("| benchmark | ours | mamba_ssm | ratio | unfused |\n|---|---|---|---|---|")
    rows = ["length,ours,mamba_ssm,unfused"]
    for run in runs:
        shape = re.search(r"B:(\d+)/D:(\d+)/L:(\d+)", run["name"])
        length = int(shape[3]) if shape else 0
        if length < 2 or run.get("aggregate_name", "median") != "median":
            continue
        sizes = (int(shape[1]), int(shape[2]), length)
        dtype = torch.bfloat16 if "bf16" in run["name"] else torch.float32
        backward = "backward" in run["name"]
        ours = run["real_time"]
        fused = peer(selective_scan_fn, *sizes, dtype, backward)
        plain = None
        # The reference holds two float arrays of B D L 16.
        if options.unfused and sizes[0] * sizes[1] * length * STATES < 1 << 31:
            plain = peer(selective_scan_ref, *sizes, dtype, backward)
        cells = ["" if v is None else f"{v:.0f}" for v in (fused, plain)]
        ratio = "" if fused is None else f"{fused / ours:.2f}"
        print(f"| {run['name']} | {ours:.0f} | {cells[0]} | {ratio} | {cells[1]} |", flush=True)
        if run["name"].startswith("lengths/"):
            rows.append(f"{length},{ours:.1f},{cells[0]},{cells[1]}")
    if options.csv:
        with open(options.csv, "w", encoding="utf-8") as file:
            file.write("\n".join(rows) + "\n")


main()
