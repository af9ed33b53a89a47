#!/usr/bin/env python3
"""The selective scan in PyTorch beside ours, on the same GPU in one sitting.

    bench_cuda_scan --benchmark_format=json > ours.json
    python3 pytorch_scan.py ours.json [--unfused] [--csv lengths.csv]

For every shape of ours.json, forward and backward, times mamba_ssm's selective_scan_fn, if that package is
installed, and with --unfused the equations as one PyTorch operation after another, where those fit in memory:
d_state 16, dt bias, softplus, D and gate, (B, D, L) tensors as mamba_ssm wants them, CUDA events, 512 MB
written before each call, medians. --csv writes the shapes of lengths/bf16 for bench/plot_lengths.py. Needs
PyTorch.
"""
import argparse
import json
import re
import statistics

import torch

try:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
except ImportError:
    selective_scan_fn = None

STATES = 16
SLOW = 2e5  # microseconds: what takes longer is timed three times only


def unfused_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """The equations in float, a kernel or more for each."""
    delta = delta.float() + delta_bias[:, None]
    if delta_softplus:
        delta = torch.nn.functional.softplus(delta)
    x = u.float()
    decay = torch.exp(delta[..., None] * A[:, None, :])
    entering = (delta * x)[..., None] * B.float().transpose(1, 2)[:, None]
    h = torch.zeros_like(entering[:, :, 0])
    outputs = []
    for t in range(x.shape[2]):
        h = decay[:, :, t] * h + entering[:, :, t]
        outputs.append((h * C[:, None, :, t]).sum(-1))
    y = torch.stack(outputs, 2) + D[:, None] * x
    return (y * torch.nn.functional.silu(z.float())).to(u.dtype)


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
        if len(times) >= 3 and times[-1] > SLOW:
            break
    return statistics.median(times[min(3, len(times) // 2):])


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
        fused = plain = None
        if selective_scan_fn is not None:
            fused = peer(selective_scan_fn, *sizes, dtype, backward)
        # Unfused, two float arrays of B D L 16 at least.
        if options.unfused and sizes[0] * sizes[1] * length * STATES < 1 << 31:
            plain = peer(unfused_scan, *sizes, dtype, backward)
        cells = ["" if v is None else f"{v:.0f}" for v in (fused, plain)]
        ratio = "" if fused is None else f"{fused / ours:.2f}"
        print(f"| {run['name']} | {ours:.0f} | {cells[0]} | {ratio} | {cells[1]} |", flush=True)
        if run["name"].startswith("lengths/"):
            rows.append(f"{length},{ours:.1f},{cells[0]},{cells[1]}")
    if options.csv:
        with open(options.csv, "w", encoding="utf-8") as file:
            file.write("\n".join(rows) + "\n")


main()
