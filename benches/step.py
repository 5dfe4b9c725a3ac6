#!/usr/bin/env python3
"""`make bench`: images a second of began's training step beside the usual ways to write it in PyTorch.

One thread on each side, the same network, batch and arithmetic, on this machine, taking turns; medians over the turns.
began's figure is its whole training loop (reading batches, equilibrium, Adam); PyTorch's is the bare step.
The first run makes a virtual environment with torch 2.11.0 from PyPI in .bench-venv: without CUDA's
libraries where there is a C compiler and nm, else about 5 GB.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from torchrun import environment

ROOT = pathlib.Path(__file__).resolve().parent.parent
VARIANTS = ["shared-forward/fp32", "single-backward/fp32", "shared-forward/fp32+nhwc", "single-backward/fp32+nhwc"]


def lines(command):
    env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    out = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 64), ("filters", 32), ("latent", 64), ("batch", 16), ("turns", 3), ("iters", 4)):
        parser.add_argument("--" + name, type=int, default=default)
    a = parser.parse_args()
    shape = ["--size", a.size, "--filters", a.filters, "--latent", a.latent, "--batch", a.batch,
             "--warmup", 2, "--iters", a.iters]
    shape = [str(word) for word in shape]
    reference = str(ROOT / "benches/reference/began_torch.py")
    torch = [environment.python(), reference, "bench", "--device", "cpu", "--rounds", "1", *shape]
    ours = [str(ROOT / "bin/trainer"), "bench", "--no-coordinator", "--rounds", "1", *shape]
    seen = {}
    for turn in range(a.turns):
        print(f"bench: turn {turn + 1} of {a.turns}", file=sys.stderr)
        for line in lines(ours) + [line for v in VARIANTS for line in lines([*torch, "--variants", v])]:
            name = line["variant"] if "/" in line["variant"] else "began"
            seen.setdefault(name, []).append(line["images_per_s"])
    mid = {name: statistics.median(values) for name, values in seen.items()}
    print(f"{a.size} px, n = {a.filters}, batch {a.batch}, one thread, {os.uname().machine}, median of {a.turns} turns")
    for name, value in sorted(mid.items(), key=lambda item: item[1]):
        print(f"{name:<28} {value:7.2f} images/s   {value / mid['shared-forward/fp32']:.2f} x shared-forward/fp32")
    lines_ratio = {name: round(mid["began"] / value, 3) for name, value in mid.items() if name != "began"}
    print(json.dumps({"began_over": lines_ratio, "images_per_s": mid}))
    # What the coordinator costs, in rounds that take turns within one process.
    with_coordinator = lines([str(ROOT / "bin/trainer"), "bench", "--rounds", "5", *shape])
    print(json.dumps(with_coordinator[-1]))


if __name__ == "__main__":
    main()
