#!/usr/bin/env python3
"""Every convolution of the network as PyTorch gives it to cuDNN: 19 shapes x fprop, dgrad, wgrad x batch, two ways to choose the kernel.

`deterministic` is cuDNN's heuristic among deterministic kernels, as began trains; `benchmark` is the fastest of those tried. One JSON
line each, as soon as it is measured: milliseconds of the kernels, of a call as PyTorch makes them one after the other, TFLOP/s, the kernels.
"""
import argparse
import json
import statistics
import sys
import time

import torch

OPERATIONS = {"fprop": None, "dgrad": [True, False, False], "wgrad": [False, True, False]}
MODES = ("deterministic", "benchmark")


def shapes(size, n):
    """name, inputs, outputs, side of the input, stride, transposed: as began computes on a GPU, upsampling and convolution as one
    (a transposed 4x4), the decoder's skip folded (its nine cases at 8x8)."""
    scales = (size // 8).bit_length() - 1
    yield "encoder.input", 3, n, size, 1, False
    for i in range(scales):
        channels, side = n * (i + 1), size >> i
        yield f"encoder.scale{i}.conv", channels, channels, side, 1, False
        yield f"encoder.scale{i}.down", channels, channels + n, side, 2, False
    for i in range(scales):
        side = 8 << i
        yield f"decoder.scale{i}.conv", 2 * n if side == 16 else n, n, side, 1, False
        yield f"decoder.scale{i}.refine", n, n, side, 2, True
    yield "decoder.skip", n, 9 * n, 8, 1, False
    yield "decoder.image", n, 3, size, 1, False


class Convolution:
    """One shape at one batch: its tensors, and each operation as a call."""

    def __init__(self, inputs, outputs, side, stride, transposed, batch, device, kind):
        def tensor(*shape):
            return torch.randn(*shape, device=device).to(kind).contiguous(memory_format=torch.channels_last)

        taps = 4 if transposed else 3
        after = side * stride if transposed else side // stride
        self.x, self.gradient = tensor(batch, inputs, side, side), tensor(batch, outputs, after, after)
        self.weight = tensor(*((inputs, outputs) if transposed else (outputs, inputs)), taps, taps)
        self.how = ([stride] * 2, [1, 1], [1, 1], transposed, [0, 0], 1)
        # Of a transposed convolution each input pixel meets every tap; of the others each output pixel does.
        self.flop = 2 * taps ** 2 * inputs * outputs * batch * (side if transposed else after) ** 2

    def call(self, operation):
        """One operation, its result not kept."""
        mask = OPERATIONS[operation]
        if mask is None:
            torch.ops.aten.convolution(self.x, self.weight, None, *self.how)
        else:
            torch.ops.aten.convolution_backward(self.gradient, self.x, self.weight, None, *self.how, mask)


def measured(call, cuda, target):
    """Median seconds of a call over several rounds that take about `target` seconds together."""
    def timed(times):
        if not cuda:
            began = time.perf_counter()
            for _ in range(times):
                call()
            return (time.perf_counter() - began) / times
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / times

    call()
    once = timed(1)
    times = max(1, min(50, int(target / 3 / max(once, 1e-6))))
    return statistics.median(timed(times) for _ in range(3))


def kernels(call, cuda):
    """Seconds that what ran on the device in one call took, and its names with the share of each."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU] + [activity.CUDA] * cuda, acc_events=True) as profile:
        call()
        if cuda:
            torch.cuda.synchronize()
    if cuda:
        found = [(event.key, event.self_device_time_total) for event in profile.key_averages()
                 if event.device_type == torch.autograd.DeviceType.CUDA and event.self_device_time_total > 0]
    else:
        found = [(event.key, event.self_cpu_time_total) for event in profile.key_averages()]
    whole = sum(time for _, time in found) or 1
    return whole / 1e6, [[name[:160], round(time / whole, 2)] for name, time in sorted(found, key=lambda row: -row[1])[:4]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--filters", type=int, default=128)
    parser.add_argument("--batches", default="16,64,32", help="in this order, so that the last is the one that no time may be left for")
    parser.add_argument("--seconds", type=float, default=0.03, help="for each measurement")
    a = parser.parse_args()
    cuda, failed = a.device == "cuda", 0
    # As began does: every element is written before it is read.
    torch.utils.deterministic.fill_uninitialized_memory = False
    for batch in map(int, a.batches.split(",")):
        for name, *shape in shapes(a.size, a.filters):
            convolution = Convolution(*shape, batch, a.device, torch.bfloat16)
            for operation in OPERATIONS:
                for mode in MODES:
                    torch.use_deterministic_algorithms(mode == "deterministic")
                    torch.backends.cudnn.deterministic = mode == "deterministic"
                    torch.backends.cudnn.benchmark = mode == "benchmark"
                    row = {"convolution": name, "operation": operation, "batch": batch, "mode": mode}
                    try:
                        called = measured(lambda: convolution.call(operation), cuda, a.seconds)
                        once, names = kernels(lambda: convolution.call(operation), cuda)
                        # Small ones run faster than the host can call them: there the kernels' own time is the one that counts.
                        seconds = min(called, once) if cuda else called
                        row |= {"ms": round(1e3 * seconds, 4), "host_ms": round(1e3 * called, 4),
                                "tflop_per_s": round(convolution.flop / seconds / 1e12, 2), "gflop": round(convolution.flop / 1e9, 3), "kernels": names}
                    except Exception as error:  # one that raises must not hide the others
                        failed += 1
                        row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else type(error).__name__
                    print(json.dumps(row), flush=True)
    sys.exit(f"{failed} measurements raised" if failed else 0)


if __name__ == "__main__":
    main()
