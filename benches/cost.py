#!/usr/bin/env python3
"""`make bench-cost`: what healing, exactness and the record cost a run in which nothing goes wrong.

Four trainers at 64 px, in rounds that take turns: everything on (the fixed tree, journal, digests, checkpoints off the path)
against `reduce = "fast"` without journal, digests and checkpoints. Prints ms a step of each round, the medians and the ratio.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def round_of(folder, name, steps, warm, everything):
    """Milliseconds a step, from the coordinator's own progress."""
    run = folder / name
    command = [str(ROOT / "bin/launcher"), "--nodes", "1", "--gpus", "4", "--device", "cpu", "--data", str(folder / "data"),
               "--run", str(run), "--log-format", "json"]
    settings = {"model.filters": 16, "model.latent": 32, "run.lanes": 4, "run.batch": 4, "run.steps": steps,
                "run.sample_every": 0, "run.reduce": "tree" if everything else "fast",
                "run.digest_every": 50 if everything else 0, "run.checkpoint_every": 50 if everything else 0}
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("BEGAN_")}
    if not everything:
        env["BEGAN_NO_JOURNAL"] = "true"
    seen = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    for line in process.stdout:
        now = time.monotonic()
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("kind") == "progress" and warm <= said["step"] < steps:
            seen.append((said["step"], now))
    process.wait()
    shutil.rmtree(run, ignore_errors=True)
    if len(seen) < 2:
        sys.exit(f"bench: the round {name} told of too few steps; raise --steps")
    (first, began), (last, ended) = seen[0], seen[-1]
    return (ended - began) / (last - first) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--warm", type=int, default=20)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        subprocess.run([str(ROOT / "bin/trainer"), "prepare", "synthetic:faces", "--out", str(folder / "data"), "--size", "64",
                        "--count", "1000", "--seed", "1"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        everything, bare = [], []
        for number in range(a.rounds):
            # Who goes first changes, so that neither has the quieter half of a noisy machine.
            for turn in ((True, False) if number % 2 == 0 else (False, True)):
                took = round_of(folder, f"{'all' if turn else 'bare'}-{number}", a.steps, a.warm, turn)
                (everything if turn else bare).append(took)
            print(f"round {number + 1}: everything on {everything[-1]:.1f} ms a step, bare {bare[-1]:.1f}, "
                  f"ratio {everything[-1] / bare[-1]:.3f}", flush=True)
    ratios = sorted(one / other for one, other in zip(everything, bare))
    line = {"everything_ms": round(statistics.median(everything), 2), "bare_ms": round(statistics.median(bare), 2),
            "ratio_median": round(statistics.median(ratios), 4), "ratio_min": round(ratios[0], 4),
            "ratio_max": round(ratios[-1], 4)}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
