#!/usr/bin/env python3
"""`make gpu-check`: packs what a GPU machine needs into gpu-pack/ (under 64 MiB), and checks there if this is one.

A GPU machine needs Python 3, torch 2.11 with CUDA and its driver; no Rust and no network. Elsewhere the folder is only packed: carry
it over and run `python3 gpu-pack/check.py` there.
"""
import json
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACK = ROOT / "gpu-pack"
LIMIT_MIB = 64


def run(*command, **more):
    return subprocess.run([str(word) for word in command], text=True, check=True, **more)


def tests_of(package, test):
    """The executable of an integration test."""
    out = run("cargo", "test", "-p", package, "--test", test, "--no-run", "--message-format=json", cwd=ROOT,
              stdout=subprocess.PIPE).stdout
    for line in out.splitlines():
        found = json.loads(line) if line.startswith("{") else {}
        if found.get("executable") and found["target"]["name"] == test:
            return pathlib.Path(found["executable"])
    sys.exit(f"gpu-check: cargo built no test {test} of {package}")


def main():
    shutil.rmtree(PACK, ignore_errors=True)
    (PACK / "bin").mkdir(parents=True)
    programs = [ROOT / "target/debug" / name for name in ("launcher", "coordinator", "trainer")]
    for program in [*programs, tests_of("nccl-rs", "device")]:
        name = "nccl-device-tests" if program.name.startswith("device-") else program.name
        shutil.copy2(program, PACK / "bin" / name)
        run("strip", PACK / "bin" / name)
    shutil.copytree(ROOT / "tests/fixtures", PACK / "fixtures")
    shutil.copy2(ROOT / "benches/reference/began_torch.py", PACK)
    shutil.copy2(ROOT / "gpu/check.py", PACK)
    run(ROOT / "bin/trainer", "prepare", "synthetic:faces", "--out", PACK / "data/faces-32", "--size", 32, "--count", 2000,
        "--seed", 1, stdout=subprocess.DEVNULL)
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL)
    (PACK / "commit").write_text((git.stdout.strip() or "unknown") + "\n")
    size = sum(path.stat().st_size for path in PACK.rglob("*") if path.is_file()) / 2**20
    print(f"gpu-check: packed {PACK.name}/, {size:.0f} MiB")
    if size > LIMIT_MIB:
        sys.exit(f"gpu-check: the pack is over {LIMIT_MIB} MiB")
    has_gpu = pathlib.Path("/proc/driver/nvidia/gpus").is_dir() and any(pathlib.Path("/proc/driver/nvidia/gpus").iterdir())
    if not has_gpu:
        print("gpu-check: no GPU here, so nothing was checked; carry the folder to a GPU machine with torch 2.11 and run "
              "`python3 gpu-pack/check.py`")
        return
    sys.exit(subprocess.run([sys.executable, PACK / "check.py"]).returncode)


if __name__ == "__main__":
    main()
