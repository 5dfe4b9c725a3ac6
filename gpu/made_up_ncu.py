#!/usr/bin/env python3
"""Stands in for ncu where there is no GPU: takes its options, runs the program, and prints a table of the same form.

The figures are made up. It is there so that every line that calls ncu and reads its table has run before a GPU is seen.
"""
import argparse
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("target-processes", "clock-control", "page", "print-units", "metrics", "launch-skip", "launch-count"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--csv", action="store_true", required=True)
    parser.add_argument("program", nargs=argparse.REMAINDER)
    a = parser.parse_args()
    print("==PROF== Connected to process 1")
    code = subprocess.run(a.program).returncode
    metrics = a.metrics.split(",")
    print(",".join(f'"{name}"' for name in ["ID", "Process ID", "Kernel Name", "Stream", *metrics]))
    print(",".join(['""'] * 4 + [f'"{"ns" if "time" in name else "byte" if "bytes" in name else "%"}"' for name in metrics]))
    for number in range(int(a.launch_count)):
        name = f"void made_up<float, {number % 12}>(int, int)"
        print(",".join(f'"{value}"' for value in [number, 1, name, 7, *(f"{1000 + number:,}" for _ in metrics)]))
    sys.exit(code)


if __name__ == "__main__":
    main()
