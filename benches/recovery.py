#!/usr/bin/env python3
"""`make bench-recovery`: how long a run stands still when a trainer is killed with SIGKILL, beside torchrun on this machine.

began: four trainers on the CPU; one after the other is killed, rank 0 in its turn. All times but the kill's are the
coordinator's, read from the run's journal:

  detect       the kill to the event "lost"
  abort        to the event "generation": the survivors have left the old one, and the next is open
  rendezvous   the survivors' connecting, as the event "ready" says
  heal         bringing those up who do not hold the state, as the event "ready" says
  first step   "ready" to the first step that the new generation commits
  total        the kill to that step
  rejoin       the second interruption, when the replacement is there: the last step without it to the first one with it

torchrun: four workers over Gloo with a model of about that size, a checkpoint every 20 steps (benches/torchrun/kills.py, which
says what its two ways are). Its figure is the kill to the first step beyond the last one before the kill.
"""
import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

from torchrun import kills, processes

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "prepared" / "faces-16"
TRAINERS = 4
SHAPE = ["model.filters=4", "model.latent=8", "run.lanes=8", "run.batch=3", "run.steps=1000000", "run.checkpoint_every=200",
         "run.digest_every=50", "run.sample_every=0"]
# Steps that are taken in peace before a trainer is killed.
PEACE = 30
PARTS = ["detect", "abort", "rendezvous", "heal", "first step", "total", "rejoin"]


class Journal:
    """What `run.db` says, while the coordinator writes it."""

    def __init__(self, path):
        self.db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5, isolation_level=None)

    def is_laid_out(self):
        return self.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'starts'").fetchone()

    def event(self, kind, since, generation=0, text=""):
        """(time, generation, text) of the first event of its kind since then, of this generation or a later one."""
        rows = self.db.execute("SELECT time, generation, text FROM events WHERE kind = ? AND time >= ? AND generation >= ? "
                               "ORDER BY time, id", (kind, since, generation))
        return next((row for row in rows if re.search(text, row[2])), None)

    def first_step(self, generation):
        """(time, generation) of the first step that this generation or a later one committed."""
        rows = self.db.execute("SELECT time, generation FROM steps WHERE generation >= ? ORDER BY time LIMIT 1", (generation,))
        return rows.fetchone()

    def last_step_before(self, generation):
        return self.db.execute("SELECT max(time) FROM steps WHERE generation < ?", (generation,)).fetchone()[0]

    def steps(self, generation):
        """How many steps a generation has committed."""
        return self.db.execute("SELECT count(*) FROM steps WHERE generation = ?", (generation,)).fetchone()[0]

    def newest(self):
        """The newest generation that has committed a step."""
        return self.db.execute("SELECT coalesce(max(generation), 0) FROM steps").fetchone()[0]

    def pace(self):
        """Median seconds of a step over the whole run."""
        seconds = [row[0] for row in self.db.execute("SELECT seconds FROM steps")]
        return statistics.median(seconds) if seconds else None


def awaited(what, limit, ask, alive=lambda: True):
    """The first answer that is not empty; asked often, and never for longer than `limit` seconds."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        answer = ask()
        if answer:
            return answer
        if not alive():
            raise RuntimeError(f"the run ended while this was waited for: {what}")
        time.sleep(0.02)
    raise TimeoutError(f"not within {limit:.0f} s: {what}")


def said(text, pattern):
    """Seconds that an event's text gives, or None where it gives none."""
    found = re.search(pattern + r" after ([\d.]+) (ms|s)\b", text)
    return None if found is None else float(found[1]) * (1e-3 if found[2] == "ms" else 1)


def read_recovery(journal, at, limit, alive):
    """What the journal says became of a kill at `at`, as PARTS, and the generation that went on."""
    began = time.monotonic()
    left = lambda: max(0.1, limit - (time.monotonic() - began))
    lost = awaited("the event \"lost\"", left(), lambda: journal.event("lost", at), alive)
    opened = awaited("the next generation", left(), lambda: journal.event("generation", lost[0]), alive)
    step = awaited("a step of the next generation", left(), lambda: journal.first_step(opened[1]), alive)
    # Written in one order, so what led to the step is there when the step is.
    ready = journal.event("ready", opened[0], opened[1])
    parts = {"detect": lost[0] - at, "abort": opened[0] - lost[0], "total": step[0] - at, "generations": step[1] - opened[1] + 1}
    if ready:
        parts |= {"rendezvous": said(ready[2], "connected"), "heal": said(ready[2], r"hold step \d+"), "first step": step[0] - ready[0]}
    return parts, opened


def read_rejoin(journal, opened, limit, alive):
    """Seconds without a step when the replacement joined; None where it came in time for the recovery itself."""
    whole = rf"\b{TRAINERS} trainers"
    if re.search(whole, opened[2]):
        return None
    joined = awaited("the replacement's generation", limit, lambda: journal.event("generation", opened[0], opened[1] + 1, whole), alive)
    step = awaited("a step with the replacement", limit, lambda: journal.first_step(joined[1]), alive)
    return step[0] - journal.last_step_before(step[1])


class Run:
    """A run that was started for this, in a folder of its own."""

    def __init__(self, more):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="began-recovery-"))
        self.path = self.folder / "run"
        command = [str(ROOT / "bin/launcher"), "--nodes", "1", "--gpus", str(TRAINERS), "--device", "cpu", "--quiet",
                   "--data", str(DATA), "--run", str(self.path), *(word for key in SHAPE for word in ("--set", key)), *more]
        with open(self.folder / "output", "wb") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)

    def alive(self):
        return self.process.poll() is None

    def status(self):
        out = subprocess.run([str(ROOT / "bin/launcher"), "status", str(self.path), "--json"], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True, timeout=30, check=False)
        try:
            return json.loads(out.stdout)
        except json.JSONDecodeError:
            return {}

    def world(self):
        """Process by rank, once all trainers have one."""
        found = {trainer["rank"]: trainer["pid"] for trainer in self.status().get("trainers", []) if trainer["rank"] is not None}
        return found if len(found) == TRAINERS else None

    def tail(self):
        return (self.folder / "output").read_text(errors="replace")[-3000:]

    def end(self):
        processes.end(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


def kill_trainers(count, limit, more):
    """What became of each of `count` kills, and the pace of a step."""
    draw, found, run = random.Random(1), [], Run(more)
    try:
        awaited("the journal", 120, (run.path / "run.db").exists, run.alive)
        journal = Journal(run.path / "run.db")
        awaited("the journal's tables", 120, journal.is_laid_out, run.alive)
        for number in range(count):
            awaited(f"{PEACE} steps in peace", 120, lambda: journal.steps(journal.newest()) >= PEACE, run.alive)
            world = awaited(f"{TRAINERS} trainers with a rank", 120, run.world, run.alive)
            time.sleep(draw.random())
            rank = number % TRAINERS
            print(f"bench: kill {number + 1} of {count}, rank {rank}", file=sys.stderr)
            at = time.time()
            os.kill(world[rank], signal.SIGKILL)
            parts, opened = read_recovery(journal, at, limit, run.alive)
            found.append({"rank": rank, **parts})
            found[-1]["rejoin"] = read_rejoin(journal, opened, 120, run.alive)
        return found, journal.pace()
    except (RuntimeError, TimeoutError, OSError, sqlite3.Error) as error:
        print(f"bench: {error}; {len(found)} of {count} kills were measured; the launcher said:\n{run.tail()}", file=sys.stderr)
        return found, None
    finally:
        run.end()


def summed(found):
    """Median and worst of each part."""
    out = {}
    for part in PARTS:
        values = [one[part] for one in found if one.get(part) is not None]
        if values:
            out[part] = {"median": round(statistics.median(values), 4), "worst": round(max(values), 4), "of": len(values)}
    return out


def show(name, median, worst, note=""):
    print(f"{name:<34} {median:>9.3f} {worst:>9.3f}   {note}".rstrip())


def torchrun(count, limit):
    """torchrun's figures for the same kill, by its two ways."""
    out = {}
    for way in kills.WAYS:
        print(f"bench: torchrun, {way}", file=sys.stderr)
        numbers = out[way] = kills.summary(kills.measure(way, count, limit), limit)
        good, bad = numbers["kills"] - numbers["not_recovered"], numbers["not_recovered"]
        if good:
            show(f"torchrun, {way}", numbers["median"], numbers["worst"], f"of {good}")
        if bad:
            print(f"torchrun, {way}: {bad} of {numbers['kills']} not recovered within {limit:.0f} s ({numbers['gave_up']} gave up)")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--torchrun-kills", type=int, default=3)
    parser.add_argument("--no-torchrun", action="store_true", help="leave torchrun out")
    parser.add_argument("--limit", type=float, default=120, help="seconds after which a kill counts as not recovered from")
    parser.add_argument("more", nargs="*", metavar="FLAG", help="more flags for the launcher, behind --")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not (ROOT / "bin/launcher").exists():
        sys.exit("bench: there is no bin/launcher; `make build` makes it")
    if not (DATA / "manifest.json").is_file():
        subprocess.run([str(ROOT / "bin/trainer"), "prepare", "synthetic:faces", "--out", str(DATA), "--size", "16",
                        "--count", "2000", "--seed", "1"], check=True)
    found, pace = kill_trainers(a.kills, a.limit, a.more)
    began = summed(found)
    result = {"began": began, "kills": len(found), "asked": a.kills, "step": pace}
    at_pace = f", {pace * 1e3:.1f} ms a step" if pace else ""
    print(f"{len(found)} of {a.kills} kills of one of {TRAINERS} trainers recovered from, {os.cpu_count()} cores{at_pace}")
    print(f"{'seconds':<34} {'median':>9} {'worst':>9}")
    for part, numbers in began.items():
        show(f"began, {part}", numbers["median"], numbers["worst"], "" if numbers["of"] == len(found) else f"of {numbers['of']}")
    for name, own in (("rank 0", True), ("other ranks", False)):
        totals = [one["total"] for one in found if (one["rank"] == 0) == own]
        if totals:
            show(f"began, total, {name}", statistics.median(totals), max(totals), f"of {len(totals)}")
    if not a.no_torchrun:
        try:
            result["torchrun"] = torchrun(a.torchrun_kills, a.limit)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            result["torchrun"] = None
            print(f"bench: torchrun could not be measured: {error}", file=sys.stderr)
    print(json.dumps(result))
    return 0 if len(found) == a.kills else 1


if __name__ == "__main__":
    sys.exit(main())
