#!/usr/bin/env python3
"""Fetches libtorch from PyPI and unpacks it where .cargo/config.toml looks for it.

The torch wheel for Linux is libtorch with headers; two small NVIDIA wheels hold the libraries that
libtorch_cpu.so itself is linked to. The wheel's own rpaths find them when all three lie in one folder.
Wheels that are there with the right SHA-256 are not fetched again, and an unpacked copy is put in place
by a rename, so an interrupted set-up goes on where it was.

Nothing is fetched where LIBTORCH or LIBTORCH_USE_PYTORCH points at a libtorch of the right version.
"""
import hashlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import zipfile

NEEDED = "2.11.0"
WHEELS = {  # requirement: (file name, SHA-256)
    f"torch=={NEEDED}": (
        "torch-2.11.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "0f68f4ac6d95d12e896c3b7a912b5871619542ec54d3649cf48cc1edd4dd2756"),
    "nvidia-cuda-runtime==13.0.96": (
        "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"),
    "nvidia-cuda-cupti==13.0.85": (
        "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
        "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"),
}
# One fixed interpreter and these platforms, so that the host's own Python does not matter.
PIP = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
for tag in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_25", "manylinux_2_17", "manylinux2014"):
    PIP += ["--platform", f"{tag}_x86_64"]
HOME = pathlib.Path(__file__).resolve().parent.parent / "third_party"
PLACE = HOME / "libtorch"


def fail(sentence):
    sys.exit(f"set-up: {sentence}")


def version_of(torch):
    """The version of the libtorch in this folder, from what wheels and archives carry."""
    for name, pattern in (("build-version", r"(\d+\.\d+\.\d+)"), ("version.py", r"__version__ = '(\d+\.\d+\.\d+)")):
        try:
            found = re.search(pattern, (torch / name).read_text())
        except OSError:
            continue
        if found:
            return found[1]
    return None


def check_given(torch, how):
    if not (torch / "lib" / "libtorch_cpu.so").is_file():
        fail(f"{how} points at {torch}, which has no lib/libtorch_cpu.so. Unset it, or point it at libtorch {NEEDED}.")
    found = version_of(torch)
    if found != NEEDED:
        fail(f"{how} points at libtorch {found or 'of an unknown version'} in {torch}; this project needs exactly "
             f"{NEEDED}. Unset it to have set-up fetch that, or install torch=={NEEDED}.")
    print(f"set-up: using libtorch {found} in {torch} ({how})")


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hash_slowly(f)


def hash_slowly(f):
    h = hashlib.sha256()
    while block := f.read(1 << 20):
        h.update(block)
    return h.hexdigest()


def fetch(requirement, name, digest):
    wheel = HOME / "wheels" / name
    if wheel.is_file():
        if sha256(wheel) == digest:
            return wheel
        print(f"set-up: {name} is damaged (its SHA-256 is wrong); fetching it again")
        wheel.unlink()
    print(f"set-up: fetching {requirement} from PyPI")
    wheel.parent.mkdir(parents=True, exist_ok=True)
    if subprocess.run(PIP + ["--quiet", "--dest", str(wheel.parent), requirement]).returncode:
        fail(f"pip could not fetch {requirement}; its own words are above. Run the same command again to go on.")
    if not wheel.is_file():
        fail(f"pip fetched {requirement}, but not as {name}; this platform is not supported")
    if sha256(wheel) != digest:
        fail(f"{wheel} has SHA-256 {sha256(wheel)}, expected {digest}; delete it and run set-up again")
    return wheel


def main():
    if os.environ.get("LIBTORCH_USE_PYTORCH"):
        out = subprocess.run(["python3", "-c", "import torch; print(torch.__path__[0])"], capture_output=True, text=True)
        if out.returncode:
            fail(f"LIBTORCH_USE_PYTORCH is set, but python3 cannot import torch: {out.stderr.strip().splitlines()[-1:]}")
        return check_given(pathlib.Path(out.stdout.strip()), "LIBTORCH_USE_PYTORCH")
    if os.environ.get("LIBTORCH"):
        return check_given(pathlib.Path(os.environ["LIBTORCH"]), "LIBTORCH")
    if version_of(PLACE / "torch") == NEEDED:
        return
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        fail(f"there is a prepared libtorch for Linux on x86_64 only, this is {platform.system()} on "
             f"{platform.machine()}. Install torch=={NEEDED} and set LIBTORCH_USE_PYTORCH=1.")
    aside = HOME / "libtorch.unpacking"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(PLACE, ignore_errors=True)
    wheels = [fetch(requirement, *file) for requirement, file in WHEELS.items()]
    aside.mkdir(parents=True)
    for wheel in wheels:
        print(f"set-up: unpacking {wheel.name}")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(aside)
    (aside / "torch" / "build-version").write_text(NEEDED + "\n")
    aside.rename(PLACE)
    for wheel in wheels:  # half a gigabyte that nothing reads again
        wheel.unlink()
    print(f"set-up: libtorch {NEEDED} is in {PLACE / 'torch'}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to go on")
    except OSError as error:
        fail(str(error))
