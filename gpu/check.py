#!/usr/bin/env python3
"""All that needs a GPU, in under 8 minutes, on one GPU with torch 2.11: tests, conformance, exactness, a kill, speed.

Writes gpu-check.json and gpu-check.txt into --out. Ends with 0 if everything held. A check that fails does not keep the others from
running; one that no time is left for is skipped, and said so.
"""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BIN = HERE / "bin"
# Seconds for everything.
BUDGET = 460.0
# Of the runs that are compared to the bit.
STEPS = 200


class Failed(Exception):
    pass


class Checks:
    def __init__(self, budget):
        self.began, self.budget, self.results = time.monotonic(), budget, []

    def left(self):
        return self.budget - (time.monotonic() - self.began)

    def check(self, name, seconds, work):
        """Runs one check in at most that many seconds."""
        if self.left() < seconds / 3:
            self.results.append({"check": name, "outcome": "skipped", "why": "no time is left"})
            print(f"SKIP {name}: no time is left", flush=True)
            return
        began = time.monotonic()
        try:
            found, outcome, why = work(min(seconds, self.left())), "passed", ""
        except subprocess.TimeoutExpired as error:
            found, outcome, why = None, "failed", f"not over after {error.timeout:.0f} s"
        except Exception as error:  # every failure is a result
            found, outcome, why = None, "failed", f"{type(error).__name__}: {error}"[-3000:]
        took = time.monotonic() - began
        self.results.append({"check": name, "outcome": outcome, "why": why, "seconds": round(took, 1), "found": found})
        print(f"{outcome.upper()[:4]} {name} ({took:.1f} s) {why}", flush=True)


def environment(**more):
    import torch
    library = pathlib.Path(torch.__file__).parent / "lib"
    paths = [str(library), os.environ.get("LD_LIBRARY_PATH", "")]
    env = {key: value for key, value in os.environ.items() if not key.startswith("BEGAN_")}
    return env | {"LD_LIBRARY_PATH": ":".join(path for path in paths if path), "LIBTORCH": str(library.parent)} | more


def run(command, seconds, **more):
    """stdout of a program that ends well; its whole group is gone afterwards, however it went."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=environment(**more), start_new_session=True)
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end_group(process)
        raise
    if process.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {process.returncode}: {out[-2500:]}")
    return out


def end_group(process):
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            return
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass


def lines(out):
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def machine(_):
    import torch
    if not torch.cuda.is_available():
        raise Failed("torch sees no GPU")
    name = torch.cuda.get_device_name(0)
    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.strip()
    return {"gpu": name, "driver": driver, "torch": torch.__version__, "cuda": torch.version.cuda,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())), "cudnn": torch.backends.cudnn.version(),
            "commit": (HERE / "commit").read_text().strip()}


def conform(fixture, *flags):
    def work(seconds):
        return run([BIN / "trainer", "conform", fixture, "--quiet", "--device", "cuda", *flags], seconds).strip()[-400:]
    return work


def training(folder, name, gpus, steps, *flags):
    settings = {"run.lanes": 4, "run.batch": 4, "run.steps": steps, "model.filters": 16, "model.latent": 16,
                "run.digest_every": 10, "run.checkpoint_every": 20, "run.sample_every": 0}
    command = [BIN / "launcher", "--nodes", 1, "--gpus", gpus, "--device", "cuda", "--share-gpu", "--data",
               HERE / "data/faces-32", "--run", folder / name, *flags]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return [str(word) for word in command]


def digest(folder, name):
    return run([BIN / "launcher", "digest", folder / name], 20).strip()


def exact(folder, gpus):
    def work(seconds):
        run(training(folder, f"of-{gpus}", gpus, STEPS), seconds)
        found = digest(folder, f"of-{gpus}")
        first = digest(folder, "of-1")
        if found != first:
            raise Failed(f"{gpus} trainers: {found}; one trainer: {first}")
        return found
    return work


def killed(folder):
    """A kill -9 of one of four in the middle: the digest is the undisturbed one."""
    def work(seconds):
        command = training(folder, "killed", 4, STEPS)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
                                   start_new_session=True)
        try:
            deadline, struck = time.monotonic() + seconds, False
            while process.poll() is None and time.monotonic() < deadline:
                if not struck and recorded(folder / "killed") >= STEPS // 5:
                    for pid in victims(folder / "killed")[1:2]:
                        os.kill(pid, signal.SIGKILL)
                        struck = True
                time.sleep(0.05)
            if process.poll() is None:
                raise subprocess.TimeoutExpired(command, seconds)
            out = process.stdout.read()
            if process.returncode or not struck:
                raise Failed(f"struck: {struck}, ended with {process.returncode}: {out[-2000:]}")
        finally:
            end_group(process)
        found, golden = digest(folder, "killed"), digest(folder, "of-1")
        if found != golden:
            raise Failed(f"after a kill: {found}; undisturbed: {golden}")
        return found
    return work


def recorded(folder):
    """Steps in the journal of a run."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder}/run.db?mode=ro", uri=True)) as journal:
            return journal.execute("select count(*) from steps").fetchone()[0]
    except sqlite3.Error:
        return 0


def victims(folder):
    """Processes of trainers of this run, by their command lines."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if len(words) > 1 and words[0].endswith(b"trainer") and words[1] == b"run" and str(folder).encode() in words:
            found.append(int(entry.name))
    return sorted(found)


def bench(precision, batch, *flags):
    def work(seconds):
        shape = ["--size", 128, "--filters", 128, "--latent", 64, "--batch", batch]
        command = [BIN / "trainer", "bench", "--device", "cuda", "--precision", precision, "--no-coordinator", *shape,
                   "--warmup", 5, "--iters", 10, "--rounds", 5, *flags]
        return lines(run(command, seconds))
    return work


def reference(batch, variants):
    def work(seconds):
        command = [sys.executable, HERE / "began_torch.py", "bench", "--device", "cuda", "--size", 128, "--filters", 128,
                   "--batch", batch, "--variants", variants]
        return lines(run(command, seconds))
    return work


def page(checks):
    """One page of text."""
    found = {result["check"]: result.get("found") for result in checks.results}
    out = ["began: GPU check", ""]
    out += [f"{key}: {value}" for key, value in (found.get("machine") or {}).items()]
    out += ["", *(f"{r['outcome']:<8} {r['check']}  {r.get('seconds', '')} {r['why'][:300]}" for r in checks.results), ""]
    for result in checks.results:
        for line in result.get("found") or []:
            if isinstance(line, dict) and "images_per_s" in line:
                out.append(f"{result['check']:<34} {line.get('variant', ''):<36} {line['images_per_s']:>10.1f} images/s")
    ours = {name: best(rows) for name, rows in found.items() if name.startswith("bench ")}
    for batch in (16, 64):
        theirs = {row["variant"]: row["images_per_s"] for name, rows in found.items()
                  if name.startswith(f"PyTorch, batch {batch}") for row in rows or [] if "images_per_s" in row}
        mine = ours.get(f"bench bf16, batch {batch}")
        for variant, speed in theirs.items():
            if mine:
                out.append(f"batch {batch}: began bf16 is {mine / speed:.2f} times {variant}")
    return "\n".join(out) + "\n"


def best(rows):
    speeds = [row["images_per_s"] for row in rows or [] if isinstance(row, dict) and "images_per_s" in row]
    return statistics.median(speeds) if speeds else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    checks = Checks(a.budget)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="began-gpu-"))
    try:
        checks.check("machine", 30, machine)
        if checks.results[-1]["outcome"] == "passed":
            checks.check("nccl-rs on the GPU", 40, lambda s: run([BIN / "nccl-device-tests"], s).strip()[-600:])
            for fixture in sorted((HERE / "fixtures").glob("*.safetensors")):
                checks.check(f"conform {fixture.stem}, f64, 1e-9", 40, conform(fixture, "--tolerance", "1e-9"))
                checks.check(f"conform {fixture.stem}, f32, 1e-4", 40, conform(fixture, "--precision", "f32"))
            for gpus in (1, 2, 4):
                checks.check(f"the same bits: {gpus} sharing the GPU", 90, exact(folder, gpus))
            checks.check("the same bits after a kill -9 of one of four", 100, killed(folder))
            for batch in (16, 64):
                checks.check(f"bench bf16, batch {batch}", 60, bench("bf16", batch))
                checks.check(f"PyTorch, batch {batch}", 90, reference(
                    batch, "separate/tf32,shared-forward/bf16+nhwc+compile,single-backward/bf16+nhwc+compile"))
            checks.check("bench tf32, batch 16", 40, bench("tf32", 16, "--brief"))
            checks.check("bench f32, batch 16", 40, bench("f32", 16, "--brief"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    (a.out / "gpu-check.json").write_text(json.dumps(checks.results, indent=1))
    text = page(checks)
    (a.out / "gpu-check.txt").write_text(text)
    print(text)
    sys.exit(0 if all(result["outcome"] == "passed" for result in checks.results) else 1)


if __name__ == "__main__":
    main()
