"""Ending what a bench started, whole: a process, and everything below it, by id and never by name."""
import os
import pathlib
import signal
import subprocess
import time


def born(pid):
    """When a process began, in the kernel's ticks, so that a number given to another one is told apart; None if it is gone."""
    try:
        parts = pathlib.Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if parts[0] in "ZX" else int(parts[19])


def below(pid):
    """Every living process below this one, with its birth."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, left = {}, list(children.get(pid, []))
    while left:
        child = left.pop()
        found[child] = born(child)
        left += children.get(child, [])
    return {child: birth for child, birth in found.items() if birth is not None}


def end(process, patience=30.0):
    """Asks a process to end, then makes it; nothing that was below it stays either."""
    seen = below(process.pid)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            seen |= below(process.pid)
            process.send_signal(number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                pass
    for pid, birth in seen.items():
        if born(pid) == birth:
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while any(born(pid) == birth for pid, birth in seen.items()) and time.monotonic() < until:
        time.sleep(0.05)
