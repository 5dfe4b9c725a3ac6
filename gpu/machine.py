#!/usr/bin/env python3
"""What the machine is and what it can do at most: one JSON object; cuDNN's description of the device goes into --cudnn FILE.

With that file cuDNN (9.8 and later) says on a machine without a GPU which fused convolutions it supports for this one.
"""
import argparse
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import torch

# From cuDNN 9's cudnn_graph.h.
DEVICEPROP_DESCRIPTOR, DEVICE_ID, JSON_REPRESENTATION = 38, 2700, 2702
TYPE_INT32, TYPE_CHAR, NOT_INITIALIZED = 23, 24, 1001


def seconds(work, cuda, times=7):
    """Median of several runs, the first left out."""
    found = []
    for _ in range(times + 1):
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def ceilings(device):
    """Rates of a large product in bf16 and of a large copy (bytes read and written)."""
    cuda = device == "cuda"
    side, count = (8192, 1 << 28) if cuda else (256, 1 << 20)
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    product, copy = seconds(lambda: a @ b, cuda), seconds(lambda: target.copy_(source), cuda)
    return {"matrix_side": side, "matrix_tflop_per_s": round(2e-12 * side ** 3 / product, 1),
            "copy_tb_per_s": round(8e-12 * count / copy, 3)}


def serialised(path):
    """Writes cuDNN's description of device 0; why there is none, or nothing."""
    try:
        cudnn = ctypes.CDLL(str(pathlib.Path(torch.__file__).parent.parent / "nvidia/cudnn/lib/libcudnn.so.9"))
    except OSError as error:
        return str(error)
    attribute = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    cudnn.cudnnBackendSetAttribute.argtypes = [*attribute, ctypes.c_void_p]
    cudnn.cudnnBackendGetAttribute.argtypes = [*attribute, ctypes.POINTER(ctypes.c_int64), ctypes.c_void_p]
    cudnn.cudnnBackendFinalize.argtypes = cudnn.cudnnBackendDestroyDescriptor.argtypes = [ctypes.c_void_p]
    described, device, size = ctypes.c_void_p(), ctypes.c_int32(0), ctypes.c_int64(0)
    status = cudnn.cudnnBackendCreateDescriptor(DEVICEPROP_DESCRIPTOR, ctypes.byref(described))
    if status:
        return f"cudnnBackendCreateDescriptor gives {status}"
    text = ctypes.create_string_buffer(1)
    for call in (lambda: cudnn.cudnnBackendSetAttribute(described, DEVICE_ID, TYPE_INT32, 1, ctypes.byref(device)),
                 lambda: cudnn.cudnnBackendFinalize(described),
                 lambda: cudnn.cudnnBackendGetAttribute(described, JSON_REPRESENTATION, TYPE_CHAR, 0, ctypes.byref(size), None)):
        status = call()
        if status:
            break
    if not status:
        text = ctypes.create_string_buffer(max(size.value, 1))
        status = cudnn.cudnnBackendGetAttribute(described, JSON_REPRESENTATION, TYPE_CHAR, size.value, ctypes.byref(size), text)
    cudnn.cudnnBackendDestroyDescriptor(described)
    if status:
        return f"cuDNN gives {status} ({'no GPU' if status == NOT_INITIALIZED else 'see cudnn_graph.h'})"
    path.write_bytes(text.raw.rstrip(b"\0"))
    return None


def asked(*fields):
    """What nvidia-smi says; empty where it is not there."""
    try:
        out = subprocess.run(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=15).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(zip(fields, (value.strip() for value in out.splitlines()[0].split(",")))) if out else {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--cudnn", type=pathlib.Path, required=True)
    a = parser.parse_args()
    if a.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no GPU")
    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
             "python": sys.version.split()[0], "processors": os.cpu_count()}
    if a.device == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {"gpu": about.name, "multiprocessors": about.multi_processor_count, "memory_gib": round(about.total_memory / 2 ** 30, 1),
                  "l2_mib": about.L2_cache_size >> 20, "nccl": ".".join(map(str, torch.cuda.nccl.version()))}
        found["before"] = asked("driver_version", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active")
    found |= ceilings(a.device)
    if a.device == "cuda":
        found["after"] = asked("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active")
    why = serialised(a.cudnn)
    found["cudnn_device"] = why or f"{a.cudnn.name}, {a.cudnn.stat().st_size} bytes"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
