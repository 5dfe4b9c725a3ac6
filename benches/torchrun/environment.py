"""An interpreter with torch 2.11.0 in .bench-venv, as small as a CPU needs it: 1.4 GB instead of 5.

The wheel on PyPI is linked to CUDA's libraries, and Python's torch will not load without them, though a CPU calls none.
In their place stand libraries of the same names whose functions end the process: torch loads, and a GPU cannot be used.
Where there is no C compiler, the wheels that torch asks for are installed as they are.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import venv

VENV = pathlib.Path(__file__).resolve().parent.parent.parent / ".bench-venv"
TORCH = ["torch==2.11.0", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"]
PURE = ["filelock", "typing-extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "setuptools<82", "numpy"]
# Each library that is stood in for, with the version that its symbols carry.
STAND_INS = {
    "libcublas.so.13": "libcublas.so.13", "libcublasLt.so.13": "libcublasLt.so.13", "libcudnn.so.9": "libcudnn.so.9",
    "libcufft.so.12": "libcufft.so.12", "libcusparse.so.12": "libcusparse.so.12", "libcusparseLt.so.0": None,
    "libcurand.so.10": "libcurand.so.10", "libcufile.so.0": None, "libnccl.so.2": None, "libnvshmem_host.so.3": "NVSHMEM",
}
CALLERS = ["libtorch_cuda.so", "libtorch_nvshmem.so", "libtorch_python.so"]


def python():
    """The interpreter's path; the environment is made if need be."""
    given = os.environ.get("BEGAN_BENCH_PYTHON")
    if given:
        return given
    found = VENV / "bin" / "python"
    if not (VENV / "complete").exists():
        print("bench: making .bench-venv with torch 2.11.0 from PyPI", file=sys.stderr)
        venv.create(VENV, with_pip=True, clear=True)
        pip = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler and shutil.which("nm"):
            subprocess.run([*pip, "--no-deps", *TORCH, *PURE], check=True)
            stand_in(next(VENV.glob("lib/python*/site-packages/torch/lib")), compiler)
        else:
            subprocess.run([*pip, TORCH[0], "numpy"], check=True)
        subprocess.run([str(found), "-c", "import torch, torch.distributed.run"], check=True)
        (VENV / "complete").touch()
    return str(found)


def stand_in(place, compiler):
    """Puts libraries with every function of CUDA's that torch names into torch's own folder."""
    names = set()
    for library in CALLERS:
        out = subprocess.run(["nm", "-D", "--undefined-only", str(place / library)], stdout=subprocess.PIPE, text=True, check=True)
        names |= {line.split()[-1].split("@")[0] for line in out.stdout.splitlines()}
    cudart = next(place.parent.parent.glob("nvidia/*/lib/libcudart.so.13"))
    out = subprocess.run(["nm", "-D", "--defined-only", str(cudart)], stdout=subprocess.PIPE, text=True, check=True)
    names -= {line.split()[-1].split("@")[0] for line in out.stdout.splitlines()}
    names = sorted(name for name in names if name.startswith(("cu", "nccl", "nvshmem")))
    with tempfile.TemporaryDirectory() as folder:
        source, versions = pathlib.Path(folder, "none.c"), pathlib.Path(folder, "versions")
        source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names))
        for name, version in STAND_INS.items():
            command = [compiler, "-shared", "-fPIC", "-w", str(source), f"-Wl,-soname,{name}", "-o", str(place / name)]
            if version:
                versions.write_text(f"{version} {{ *; }};\n")
                command.append(f"-Wl,--version-script={versions}")
            subprocess.run(command, check=True)


if __name__ == "__main__":
    print(python())
