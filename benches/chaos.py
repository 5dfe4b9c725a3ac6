#!/usr/bin/env python3
"""`make chaos`: one real run through random faults, and what came of it.

Two agents, four trainers, 16 px. A fault every few seconds: trainers killed (one, two at once) and stopped, the coordinator
and agents killed, and, where this may mount a small filesystem of its own, a disk that fills. Then: is the digest that of an
undisturbed run, is the ledger exact, does the coordinator make every decision again.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "bin"


def run(*command):
    return subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def train(folder, name, gpus, steps, nodes):
    settings = {"model.filters": 4, "model.latent": 8, "run.lanes": 8, "run.batch": 3, "run.steps": steps,
                "run.checkpoint_every": 200, "run.digest_every": 100, "run.sample_every": 1000, "run.heartbeat_timeout": 2}
    command = [BIN / "launcher", "--nodes", nodes, "--gpus", gpus, "--device", "cpu", "--data", folder / "data",
               "--run", folder / name, "--restarts", "20"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return [str(word) for word in command]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--every", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=9000)
    a = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="began-chaos-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)],
                             stderr=subprocess.DEVNULL).returncode == 0
    kinds = "kill,two,stop,coordinator,agent" + (",disk" if mounted else "")
    failed = []
    try:
        run(BIN / "trainer", "prepare", "synthetic:faces", "--out", folder / "data", "--size", 16, "--count", 2000, "--seed", 1)
        with open(folder / "launcher.log", "w") as log:
            launched = subprocess.Popen(train(folder, "run", 2, a.steps, 2), stdout=log, stderr=log)
            while not (folder / "run" / "coordinator.json").exists() and launched.poll() is None:
                time.sleep(0.1)
            print(f"chaos: {a.faults} faults, one every {a.every} s or so ({kinds}), into a run of {a.steps} steps", flush=True)
            struck = run(BIN / "launcher", "chaos", folder / "run", "--every", f"{a.every}s", "--count", a.faults,
                         "--faults", kinds, "--stop-for", "4s", "--seed", a.seed)
            print(struck.stdout.strip().splitlines()[-1] if struck.stdout.strip() else struck.stderr.strip())
            code = launched.wait()
        if code:
            failed.append(f"the run ended with {code}; its last lines:")
            failed += (folder / "launcher.log").read_text().splitlines()[-8:]
        undisturbed = subprocess.run(train(folder, "golden", 2, a.steps, 1) + ["--quiet"], stdout=subprocess.DEVNULL)
        for name, command in {
            "the digest": [BIN / "launcher", "verify", folder / "golden", folder / "run"],
            "the ledger": [BIN / "launcher", "ledger", folder / "run"],
            "the decisions": [BIN / "coordinator", "replay", folder / "run", "--quiet"],
        }.items():
            checked = run(*command)
            print(f"{name}: {(checked.stdout or checked.stderr).strip().splitlines()[0]}")
            if checked.returncode or undisturbed.returncode:
                failed.append(f"{name}: {checked.stdout}{checked.stderr}")
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)])
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
