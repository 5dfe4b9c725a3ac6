#!/usr/bin/env python3
"""`make gpu-rehearsal`: the GPU check from nothing but its archive, on a CPU, and the same check broken on purpose.

The line that `make gpu-pack` prints runs in an empty folder, under a Python with the real torch 2.11.0 (.gpu-venv: about 5 GB from
PyPI, made once). `--device cpu` stands in for the GPU, the double of NCCL for NCCL. Then faults are put into the unpacked archive,
one after the other: each must be named by the check, and no other block may be lost.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import venv

import blocks
import pack

ROOT = pack.ROOT
VENV = ROOT / ".gpu-venv"
# cuobjdump reads machine code; the numbers of its versions follow the driver's, not torch's.
PACKAGES = [f"torch=={pack.TORCH}", "numpy", "safetensors", "nvidia-cuda-cuobjdump", "nvidia-cuda-nvdisasm"]
# Two cores do in minutes what a GPU machine does in seconds.
BUDGET = 2400


def python():
    """The interpreter's folder; the environment is made if need be."""
    stamp = VENV / "complete"
    wanted = "\n".join(PACKAGES)
    if not stamp.is_file() or stamp.read_text() != wanted:
        print("gpu-rehearsal: making .gpu-venv with torch from PyPI, about 5 GB", flush=True)
        if not (VENV / "bin/python").exists():
            venv.create(VENV, with_pip=True)
        subprocess.run([VENV / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
        subprocess.run([VENV / "bin/python", "-c", "import torch"], check=True)
        stamp.write_text(wanted)
    return VENV / "bin"


def environment(**more):
    """Nothing of the caller's but where programs are."""
    keep = {key: os.environ[key] for key in ("HOME", "TMPDIR", "LANG") if key in os.environ}
    return keep | {"PATH": f"{python()}:{os.environ.get('PATH', '')}"} | more


def check(command, folder, seconds, **more):
    """Runs a check; its exit code and what it printed, which is shown as it comes."""
    process = subprocess.Popen(command, cwd=folder, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True)
    deadline, out = time.monotonic() + seconds, []
    try:
        for line in process.stdout:
            out.append(line)
            if line.startswith(("BLOCK", "  failed", "  skipped", "PASSED", "FAILED", "SKIPPED", "NEEDS", "RESULTS")):
                print(f"  {line.rstrip()[:220]}", flush=True)
            if time.monotonic() > deadline:
                break
        process.wait(max(deadline - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait(), "".join(out)


def results(out):
    """The record of every block, from the archive of results."""
    with tarfile.open(out / "results.tar.gz") as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}
    return {name.removesuffix(".json"): json.loads(data) for name, data in files.items()
            if name.endswith(".json") and name != "cudnn-device.json"}


def sound(out):
    """What comes back from a GPU machine: at most 8 files of 16 MiB, and the page."""
    files = [path for path in out.iterdir() if path.is_file()]
    assert len(files) <= 8, f"{len(files)} files came back"
    assert all(path.stat().st_size <= 16 << 20 for path in files), "a file is over 16 MiB"
    assert (out / "gpu.md").read_text().startswith("## GPU check"), "there is no page"


def whole(folder):
    """The line that is printed for a GPU machine, in an empty folder."""
    shutil.copy2(pack.ARCHIVE, folder)
    line = pack.line(f'results --device cpu --budget {BUDGET}')
    code, text = check(["bash", "-c", line], folder, BUDGET + 60)
    (ROOT / "gpu-rehearsal.log").write_text(text)
    sound(folder / "results")
    records = results(folder / "results")
    print("\ngpu-rehearsal: seconds a block")
    for plan in blocks.PLANS:
        record = records[plan.name]
        print(f"  {plan.name:<14} {record['seconds']:7.1f}  {record['outcome']}")
    if code:
        sys.exit(f"gpu-rehearsal: the check ended with {code}; all of it is in gpu-rehearsal.log")
    shutil.copy2(folder / "results/gpu.md", ROOT / "gpu-rehearsal.md")


def reference():
    """Every way in which the reference can be written gives the same step."""
    test = ROOT / "benches/reference/test_began_torch.py"
    print("gpu-rehearsal: the reference's own tests", flush=True)
    if subprocess.run([python() / "python", "-m", "unittest", test.relative_to(ROOT)], cwd=ROOT, env=environment()).returncode:
        sys.exit("gpu-rehearsal: the reference's tests failed")


# --- broken on purpose -----------------------------------------------------------------------------------------------------------

def replaced(path, text):
    """A program in the place of another, which stays beside it."""
    path.rename(path.with_name(f"{path.name}.real"))
    path.write_text(text)
    path.chmod(0o755)


def wrapper(command, does):
    """A trainer that does something else for one command."""
    return f'#!/bin/bash\nif [ "$1" = {command} ]; then {does}; fi\nexec "$0.real" "$@"\n'


def no_nvrtc(folder):
    """Python's torch without NVRTC: its folder again, every file but that."""
    shadow = folder.parent / "site"
    shutil.copytree(VENV, shadow, copy_function=os.link, symlinks=True)
    for path in shadow.rglob("libnvrtc*"):
        path.unlink()
    return {"PATH": f"{shadow}/bin:{os.environ.get('PATH', '')}", "PYTHONHOME": "", "VIRTUAL_ENV": str(shadow)}


def no_nccl(folder):
    (folder / "lib/libnccl_double.so").unlink()


def wrong_fixture(folder):
    path = folder / "fixtures/plain-32.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    path.write_bytes(data)


def hanging(folder):
    replaced(folder / "bin/trainer", wrapper("bench", "echo about to hang; sleep 3600"))


def dying(folder):
    replaced(folder / "bin/trainer", wrapper("bench", "kill -KILL $$"))


def raising(folder):
    path = folder / "began_torch.py"
    text = path.read_text()
    assert "def step_single_backward(" in text
    path.write_text(text.replace("def step_single_backward(", "def step_single_backward(*_, **__):\n    raise ArithmeticError('on purpose')\n\n\n"
                                 "def unused(", 1))


def full(folder):
    """A folder of results on a disk that is full."""
    out = folder.parent / "results"
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", out], check=True)
    (out / "taken").write_bytes(bytes(12 << 10))


# What is broken: how, the blocks that run, those that must fail, a sentence that must be there, more arguments.
BROKEN = {
    "no NVRTC": (no_nvrtc, "machine,correctness", {"correctness"}, "NVRTC", []),
    "no NCCL": (no_nccl, "machine,correctness,sharing", {"machine", "correctness", "sharing"}, "libnccl_double.so is missing", []),
    "a conform that differs": (wrong_fixture, "machine,correctness,convolutions", {"machine", "correctness"}, "OVER", []),
    "a trainer that hangs": (hanging, "bench,convolutions", {"bench"}, "about to hang", ["--budget", "75"]),
    "a trainer that is killed": (dying, "bench,convolutions", {"bench"}, "ended by SIGKILL", []),
    "a PyTorch variant that raises": (raising, "machine,pytorch", {"machine", "pytorch"}, "ArithmeticError: on purpose", []),
    "a full --out": (full, "machine,convolutions", set(), "cannot be written", []),
    "the budget gone in the middle": (lambda folder: None, "machine,bench,convolutions,profile", {"bench", "convolutions"}, "no time is left",
                                      ["--budget", "20"]),
}


def broken(name, folder):
    """One fault: whether it was named, and the other blocks are there."""
    how, only, bad, words, more = BROKEN[name]
    with tarfile.open(pack.ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    out = folder / "results"
    try:
        changes = how(folder / "gpu-pack") or {}
        began = time.monotonic()
        command = ["python3", "-u", folder / "gpu-pack/check.py", "--device", "cpu", "--only", only, "--out", out, *more]
        code, text = check(command, folder, 900, **changes)
        records = {} if name == "a full --out" else results(out)
        failed = {block for block, record in records.items() if record["outcome"] in ("failed", "skipped")}
        wrong = []
        if code != 1:
            wrong.append(f"it ended with {code}")
        if words not in text:
            wrong.append(f"nothing says {words!r}")
        if not bad <= failed or failed != bad and "budget" not in name:
            wrong.append(f"failed: {sorted(failed)} instead of {sorted(bad)}")
        missing = [block for block in only.split(",") if f"{block} in " not in text and f"SKIPPED {block}" not in text]
        if missing:
            wrong.append(f"lost: {missing}")
        print(f"gpu-rehearsal: {name}: {'; '.join(wrong) or 'named'} ({time.monotonic() - began:.0f} s)", flush=True)
        return not wrong
    finally:
        subprocess.run(["umount", out], stderr=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["whole", "reference", *BROKEN], help="only this")
    a = parser.parse_args()
    if not pack.ARCHIVE.is_file():
        sys.exit("gpu-rehearsal: there is no gpu-pack.tar.xz; make gpu-pack makes it")
    python()
    if a.only in (None, "whole"):
        with tempfile.TemporaryDirectory(prefix="gpu-rehearsal-") as folder:
            whole(pathlib.Path(folder))
    if a.only in (None, "reference"):
        reference()
    failed = []
    for name in BROKEN:
        if a.only in (None, name):
            if name == "a full --out" and os.geteuid():
                print(f"gpu-rehearsal: {name}: skipped, a disk of its own takes root")
                continue
            print(f"gpu-rehearsal: {name}", flush=True)
            with tempfile.TemporaryDirectory(prefix="gpu-rehearsal-", dir=ROOT / "target") as folder:
                if not broken(name, pathlib.Path(folder)):
                    failed.append(name)
    if failed:
        sys.exit(f"gpu-rehearsal: not seen as it should be: {', '.join(failed)}")
    print("gpu-rehearsal: green")


if __name__ == "__main__":
    main()
