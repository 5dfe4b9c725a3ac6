#!/usr/bin/env python3
"""How long torchrun takes to be past the step at which one of its workers was killed with SIGKILL.

`train.py` beside this runs under `torchrun --standalone`, four workers over Gloo. Recovered is the moment when a step beyond
the last one before the kill is committed again; what does not recover within the limit is counted as that.

Two ways, because the first does not recover: as it comes, torchrun 2.11 gives all restarts one store, in which the restarted
workers find the addresses of the dead ones (pytorch issue 135712). With TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 each restart
has a store of its own.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

if __package__:
    from . import environment, processes
else:
    import environment
    import processes

HERE = pathlib.Path(__file__).resolve().parent
WORKERS = 4
# Steps that are taken in peace before a worker is killed.
PEACE = 30
WAYS = {"as it comes": {}, "a store for each restart": {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}}


class Torchrun:
    """A run under torchrun, and what it has said so far."""

    def __init__(self, folder, restarts, way):
        self.lines, self.folder = [], folder
        command = [environment.python(), "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}",
                   f"--max-restarts={restarts}", str(HERE / "train.py"), "--checkpoint", str(folder / "checkpoint.pt")]
        env = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"} | WAYS[way]
        with open(folder / "stderr", "ab") as errors:
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=errors, text=True, start_new_session=True)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            try:
                self.lines.append(json.loads(line))
            except json.JSONDecodeError:
                pass

    def wait(self, found, limit, begin=0):
        """The first line from `begin` on for which `found` holds, or None after `limit` seconds or at the run's end."""
        until = time.monotonic() + limit
        while True:
            over = time.monotonic() > until or self.process.poll() is not None
            while begin < len(self.lines):
                begin += 1
                if found(self.lines[begin - 1]):
                    return self.lines[begin - 1]
            if over:
                return None
            time.sleep(0.005)

    def in_peace(self, restart):
        """Whether it takes steps after so many restarts."""
        first = self.wait(lambda line: "step" in line and line["restart"] == restart, 120)
        return first and self.wait(lambda line: line.get("step", -1) >= first["step"] + PEACE and line["restart"] == restart, 120)

    def kill(self, rank, restart, limit):
        """Kills the worker of this rank; what came of it."""
        pid = next(line["pid"] for line in self.lines if "pid" in line and (line["rank"], line["restart"]) == (rank, restart))
        begin, at = len(self.lines), time.time()
        os.kill(pid, signal.SIGKILL)
        again = self.wait(lambda line: "step" in line and line["restart"] > restart, limit, begin)
        # The last step before the kill took effect, wherever in the pipe its line was.
        last = max(line["step"] for line in self.lines if "step" in line and line["restart"] == restart)
        left = limit - (time.time() - at)
        past = again and self.wait(lambda line: line.get("step", -1) > last and line["restart"] > restart, left, begin)
        if not past:
            gave_up = self.process.poll() is not None
            return {"rank": rank, "recovered": None, "after": time.time() - at, "gave_up": gave_up}
        started = self.wait(lambda line: "pid" in line and line["restart"] > restart, 0, begin)
        return {"rank": rank, "restarted": started["time"] - at, "first_step": again["time"] - at,
                "again": last + 1 - again["step"], "recovered": past["time"] - at}


def measure(way, kills, limit, seed=1):
    """As many kills as asked for, one after the other; a run that does not recover is ended, and another one begun."""
    draw, found, run, folder = random.Random(seed), [], None, None
    try:
        for number in range(kills):
            if run is None:
                folder, restart = pathlib.Path(tempfile.mkdtemp(prefix="began-torchrun-")), 0
                run = Torchrun(folder, max(kills, 3), way)
            if not run.in_peace(restart):
                tail = (folder / "stderr").read_text()[-2000:]
                raise RuntimeError(f"torchrun took no {PEACE} steps within 240 s; it said:\n{tail}")
            time.sleep(draw.random())
            found.append(run.kill((number + 2) % WORKERS, restart, limit))
            restart += 1
            if found[-1]["recovered"] is None:
                processes.end(run.process)
                shutil.rmtree(folder, ignore_errors=True)
                run = None
    finally:
        if run is not None:
            processes.end(run.process)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def summary(found, limit):
    """Median and worst of what recovered, how many did not, and in how many of those torchrun gave up before the limit."""
    good = [one["recovered"] for one in found if one["recovered"] is not None]
    gave_up = sum(one.get("gave_up", False) for one in found)
    out = {"kills": len(found), "not_recovered": len(found) - len(good), "gave_up": gave_up, "limit": limit}
    if good:
        out |= {"median": round(statistics.median(good), 3), "worst": round(max(good), 3)}
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--limit", type=float, default=120, help="seconds after which a kill counts as not recovered from")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for way in WAYS:
        found = measure(way, a.kills, a.limit)
        for one in found:
            print(json.dumps({"way": way, **one}), flush=True)
        print(json.dumps({"way": way, **summary(found, a.limit)}), flush=True)


if __name__ == "__main__":
    main()
