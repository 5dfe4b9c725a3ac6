#!/usr/bin/env python3
"""`make gpu-pack`: one archive, gpu-pack.tar.xz, of all that a GPU machine needs to check everything; `make gpu-check` runs it.

A GPU machine needs Python 3 with torch 2.11, CUDA's driver, and nothing else: no Rust, no network. Elsewhere the archive is only
packed: carry it over and run the one line that is printed.
"""
import argparse
import hashlib
import io
import json
import lzma
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHIVE = ROOT / "gpu-pack.tar.xz"
TORCH = "2.11.0"
# Of the archive and the files that git tracks together: what travels to a GPU machine may be limited.
LIMIT_MIB = 44
# What the check is made of; the rest of this folder stays here.
SCRIPTS = ["check.py", "blocks.py", "programs.py", "results.py", "page.py", "machine.py", "convolutions.py", "traces.py", "made_up_ncu.py"]
# Integration tests that need a GPU: package, test, and the program's name in the pack.
TESTS = [("nccl-rs", "device", "nccl-device-tests"), ("torch-ext", "kernels", "kernels-tests")]


def line(out='"${OUT:-gpu-results}"'):
    """The one line that unpacks the archive in an empty folder and runs the check."""
    return f'D=$(mktemp -d) && python3 -m tarfile -e gpu-pack.tar.xz "$D" && python3 -u "$D"/gpu-pack/check.py --out {out}'


def run(*command, **more):
    return subprocess.run([str(word) for word in command], text=True, check=True, cwd=ROOT, **more)


def test_program(package, test):
    """The executable of an integration test, and NCCL's double beside it."""
    out = run("cargo", "test", "-p", package, "--test", test, "--no-run", "--message-format=json", stdout=subprocess.PIPE).stdout
    program = double = None
    for text in out.splitlines():
        found = json.loads(text) if text.startswith("{") else {}
        if found.get("executable") and found["target"]["name"] == test:
            program = pathlib.Path(found["executable"])
        double = next((pathlib.Path(name) for name in found.get("filenames", []) if name.endswith("libnccl_double.so")), double)
    if not program:
        sys.exit(f"gpu-pack: cargo built no test {test} of {package}")
    return program, double


def without_run_path(path):
    """Empties the run path of a program: where it was built is of no use elsewhere, and must not be what is found."""
    data = bytearray(path.read_bytes())
    sections, size, count = struct.unpack_from("<Q", data, 0x28)[0], *struct.unpack_from("<HH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, sections + at * size) for at in range(count)]
    for header in headers:
        if header[1] != 6:  # SHT_DYNAMIC; its strings are in the section that it links to
            continue
        for at in range(header[4], header[4] + header[5], 16):
            tag, value = struct.unpack_from("<qQ", data, at)
            if tag in (15, 29):  # DT_RPATH, DT_RUNPATH
                start = headers[header[6]][4] + value
                end = data.index(0, start)
                data[start:end] = bytes(end - start)
    path.write_bytes(data)


def fill(pack):
    """The folder of the archive."""
    (pack / "bin").mkdir(parents=True)
    (pack / "lib").mkdir()
    programs = {name: ROOT / "target/debug" / name for name in ("launcher", "coordinator", "trainer")}
    double = None
    for package, test, name in TESTS:
        programs[name], built = test_program(package, test)
        double = built or double
    if not double:
        sys.exit("gpu-pack: cargo built no double of NCCL")
    files = [(program, pack / "bin" / name) for name, program in programs.items()] + [(double, pack / "lib" / double.name)]
    for source, target in files:
        shutil.copy2(source, target)
        run("strip", target)
        without_run_path(target)
    shutil.copytree(ROOT / "tests/fixtures", pack / "fixtures")
    shutil.copy2(ROOT / "benches/reference/began_torch.py", pack)
    for name in SCRIPTS:
        shutil.copy2(ROOT / "gpu" / name, pack)
    run(ROOT / "bin/trainer", "prepare", "synthetic:faces", "--out", pack / "data/faces-32", "--size", 32, "--count", 1000, "--seed", 1,
        stdout=subprocess.DEVNULL)
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    files = {str(path.relative_to(pack)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(pack.rglob("*")) if path.is_file()}
    about = {"commit": git.stdout.strip() or "unknown", "torch": TORCH, "files": files}
    (pack / "manifest.json").write_text(json.dumps(about, indent=1) + "\n")


def compress(pack):
    """Writes the archive: the same bytes for the same files."""
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 64 << 20}]
    aside = ARCHIVE.with_suffix(".tmp")
    with lzma.open(aside, "wb", filters=filters) as out, tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(path for path in pack.rglob("*") if path.is_file()):
            data = path.read_bytes()
            entry = tarfile.TarInfo(f"gpu-pack/{path.relative_to(pack)}")
            entry.size, entry.mode = len(data), 0o755 if os.access(path, os.X_OK) else 0o644
            tar.addfile(entry, io.BytesIO(data))
    aside.rename(ARCHIVE)


def tracked():
    """Bytes of the files that git tracks; nothing where this is no repository."""
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return sum((ROOT / name).lstat().st_size for name in out.split("\0") if name and (ROOT / name).exists())


def has_gpu():
    gpus = pathlib.Path("/proc/driver/nvidia/gpus")
    return pathlib.Path("/dev/nvidia0").exists() or gpus.is_dir() and any(gpus.iterdir())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="run the check where this machine has a GPU")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu-pack-") as folder:
        pack = pathlib.Path(folder) / "gpu-pack"
        fill(pack)
        unpacked = sum(path.stat().st_size for path in pack.rglob("*") if path.is_file())
        print(f"gpu-pack: compressing {unpacked / 2 ** 20:.0f} MiB", flush=True)
        compress(pack)
    sizes = [ARCHIVE.stat().st_size / 2 ** 20, tracked() / 2 ** 20]
    print(f"gpu-pack: {ARCHIVE.name} is {sizes[0]:.1f} MiB; tracked files are {sizes[1]:.1f} MiB; together {sum(sizes):.1f} of {LIMIT_MIB} MiB")
    if sum(sizes) > LIMIT_MIB:
        sys.exit(f"gpu-pack: that is over {LIMIT_MIB} MiB")
    print(f"gpu-pack: in the folder of the archive, on a GPU machine with torch {TORCH}:\n{line()}")
    if not a.check:
        return
    if not has_gpu():
        print("gpu-check: no GPU here, so nothing was checked; carry the archive to a GPU machine and run the line above, or rehearse "
              "it here: make gpu-rehearsal")
        return
    sys.exit(subprocess.run(["bash", "-c", line()], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
