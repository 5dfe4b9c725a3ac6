#!/usr/bin/env python3
"""All that needs a GPU, on one GPU with torch 2.11, in blocks: each with a bound of its own, its results written as soon as it is over.

Writes into --out, at most 8 files: NAME.json and NAME.log of the last blocks, results.tar.gz with those of all blocks, and gpu.md, the
table that is printed last. A block that fails, hangs or is killed does not keep the others from running. Ends with 0 if everything
held, with 1 if something did not, with 2 if the command is wrong.
"""
import argparse
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback

import blocks
import page
import programs
from results import Store

# Seconds for everything, and for --quick.
BUDGET, QUICK = 540.0, 150.0


class Interrupted(BaseException):
    """Somebody wants this to end."""


class Block:
    """A block while it runs: its checks, its log and its time."""

    def __init__(self, name, limit, store):
        self.name, self.limit, self.store, self.began = name, limit, store, time.monotonic()
        self.log, self.checks = store.log(name), []
        self.log.touch()

    def left(self):
        """Seconds of the block's own bound."""
        return self.limit - (time.monotonic() - self.began)

    def check(self, name, seconds, work):
        """One check in at most so many seconds: `work(seconds)` gives what was found. What was found, or nothing."""
        began, given, found = time.monotonic(), min(seconds, self.left()), None
        if given < min(1.0, seconds / 2):
            self.add(name, "skipped", f"no time is left of the block's {self.limit:.0f} s", 0.0, None)
            return None
        try:
            found, outcome, why = work(given), "passed", ""
        except blocks.OnlyOnGpu as reason:
            outcome, why, found = "needs a GPU", str(reason), reason.found
        except programs.Failed as error:
            outcome, why, found = "failed", str(error), error.found
        except Exception as error:  # a fault of the check itself is a result too
            outcome, why = "failed", f"{type(error).__name__}: {error}"
            self.say(traceback.format_exc())
        self.add(name, outcome, why, time.monotonic() - began, found)
        return found if outcome == "passed" else None

    def add(self, name, outcome, why, seconds, found):
        """A check that is over; the block's files know of it at once."""
        row = {"check": name, "outcome": outcome, "why": why, "seconds": round(seconds, 1), "found": found}
        self.checks.append(row)
        print(f"  {outcome:<11} {name} ({seconds:.1f} s) {why[:300]}", flush=True)
        self.store.block(self.record())

    def say(self, text):
        """Into the block's log."""
        with open(self.log, "a") as log:
            log.write(f"{text}\n")

    def record(self):
        """What is known of it."""
        bad = [check for check in self.checks if check["outcome"] in ("failed", "skipped")]
        outcome = "failed" if bad else "passed"
        if not bad and self.checks and all(check["outcome"] == "needs a GPU" for check in self.checks):
            outcome = "needs a GPU"
        why = "; ".join(f"{check['check']}: {check['why']}" for check in bad)
        return {"block": self.name, "outcome": outcome, "why": why, "seconds": round(time.monotonic() - self.began, 1),
                "bound_s": round(self.limit, 1), "checks": self.checks}


def run_block(plan, limit, store, setting, records):
    """Runs a block; its record is one more of `records`, whatever becomes of it."""
    block = Block(plan.name, limit, store)
    print(f"BLOCK {plan.name}: {plan.about}, at most {limit:.0f} s", flush=True)
    try:
        plan.work(block, setting)
    except Interrupted:
        block.add("the whole of it", "failed", "interrupted", time.monotonic() - block.began, None)
        raise
    except Exception as error:  # nothing may hide the blocks that follow
        block.say(traceback.format_exc())
        block.add("the whole of it", "failed", f"{type(error).__name__}: {error}", time.monotonic() - block.began, None)
    finally:
        left = programs.end_left_over()
        if left:
            block.say(f"{left} processes were left behind and have been ended")
        record = block.record()
        records.append(record)
        store.block(record)
        print(f"{record['outcome'].upper()} {plan.name} in {record['seconds']} s {record['why'][:300]}", flush=True)


def skipped(plan, why, store):
    """A block that was not begun."""
    record = {"block": plan.name, "outcome": "skipped", "why": why, "seconds": 0.0, "bound_s": 0.0, "checks": []}
    print(f"SKIPPED {plan.name}: {why}", flush=True)
    store.block(record)
    return record


def run_all(plans, budget, store, setting):
    """Every block in its order. None takes the time that those after it need at least."""
    deadline, records = time.monotonic() + budget, []
    try:
        for at, plan in enumerate(plans):
            left = deadline - time.monotonic()
            reserved = sum(later.least for later in plans[at + 1:])
            # Where there is less than all need, each has its share.
            share = max(left * plan.least / (plan.least + reserved), min(left, 2.0))
            limit = min(plan.bound * setting.patience, max(left - reserved, share))
            if limit < 1.0:
                records.append(skipped(plan, f"no time is left of {budget:.0f} s", store))
            else:
                run_block(plan, limit, store, setting, records)
    except Interrupted:
        records += [skipped(plan, "interrupted", store) for plan in plans[len(records):]]
    return records


def chosen(parser, arguments):
    """The blocks that were asked for."""
    names = [plan.name for plan in blocks.PLANS]
    if arguments.only:
        wanted = arguments.only.split(",")
        unknown = [name for name in wanted if name not in names]
        if unknown:
            parser.error(f"--only: no block is called {', '.join(unknown)}; there are {', '.join(names)}")
        return [plan for plan in blocks.PLANS if plan.name in wanted]
    return [plan for plan in blocks.PLANS if plan.quick or not arguments.quick]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where results go")
    parser.add_argument("--budget", type=float, help=f"seconds for everything ({BUDGET:.0f}; with --quick {QUICK:.0f})")
    parser.add_argument("--only", metavar="NAME,...", help="these blocks alone: " + ", ".join(plan.name for plan in blocks.PLANS))
    parser.add_argument("--quick", action="store_true", help="machine, correctness and one bench alone")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda",
                        help="cpu: rehearse every block on tiny sizes, the double of NCCL standing in for it")
    a = parser.parse_args()
    budget = a.budget if a.budget is not None else QUICK if a.quick else BUDGET
    if not budget > 0:
        parser.error(f"--budget must be above 0, got {budget:g}")
    plans = chosen(parser, a)

    def interrupt(*_):
        raise Interrupted

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="began-gpu-"))
    try:
        (folder / "results").mkdir()
        store = Store(a.out, folder / "results")
        setting = blocks.Setting(a.device, a.quick, folder, store)
        records = run_all(plans, budget, store, setting)
        try:
            text = page.page(records, setting)
        except Exception:  # the archive has everything all the same
            text = f"## GPU check\n\nThe page could not be made:\n\n{traceback.format_exc()}"
            store.trouble("the page could not be made")
        store.page(text)
        store.archive()
        # The blocks once more at the end, where a page that is cut off still has them.
        print("\n".join(["", text, *page.summary(records)]), flush=True)
    finally:
        programs.end_left_over()
        shutil.rmtree(folder, ignore_errors=True)
    bad = [record["block"] for record in records if record["outcome"] in ("failed", "skipped")]
    if bad or store.troubles:
        what = ([f"blocks: {', '.join(bad)}"] if bad else []) + [f"results: {trouble}" for trouble in store.troubles[:1]]
        print(f"check: not everything held: {'; '.join(what)}")
        sys.exit(1)
    print("check: everything held" + ("" if a.device == "cuda" else " that a CPU can show"))


if __name__ == "__main__":
    main()
