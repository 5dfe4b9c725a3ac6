"""The blocks of the check, in their order: what each looks at, and how long it may take."""
import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import sys
import time
import typing

import traces
from programs import BIN, HERE, Failed, Running, line_with, run, torch_folder

DOUBLE = HERE / "lib/libnccl_double.so"
PYTHON = sys.executable
# Of the runs that are compared to the bit. Processes that share a GPU take turns on it: a step of four takes a tenth of a second.
STEPS = 80
# What a test prints where there is no GPU; on a machine without one that is expected.
NO_GPU = "skipped: no GPU"


class OnlyOnGpu(Exception):
    """What a machine without a GPU cannot show; `found` is what was rehearsed instead."""

    def __init__(self, why, found=None):
        super().__init__(why)
        self.found = found


class Setting:
    """What is checked, on what: a GPU, or tiny sizes on a CPU."""

    def __init__(self, device, quick, folder, store):
        self.device, self.quick, self.folder, self.store = device, quick, folder, store
        self.cuda = device == "cuda"
        # Programs at a time where they are not timed.
        self.together = 6 if self.cuda else 2
        # A CPU with two cores is given more time.
        self.patience = 1 if self.cuda else 6
        self.shape = dict(zip(("size", "filters", "latent"), (128, 128, 64) if self.cuda else (32, 4, 8)))
        self.batches = (16, 64) if self.cuda else (2, 3)
        self.steps = STEPS if self.cuda else 40
        # The digest of the undisturbed run of one trainer.
        self.golden = None

    def environment(self):
        """Of trainers: on a CPU the double stands in for NCCL, and the kernels of the GPU run on the host."""
        return {} if self.cuda else {"BEGAN_BACKEND": "nccl", "BEGAN_NCCL": str(DOUBLE), "BEGAN_FUSED": "host"}

    def flags(self):
        """--size 128 --filters 128 ..."""
        return [word for name, value in self.shape.items() for word in (f"--{name}", value)]


@dataclasses.dataclass
class Plan:
    """A block to be: seconds it may take at most, and that are kept for it at least."""

    name: str
    about: str
    bound: float
    least: float
    work: typing.Callable
    quick: bool = False


# --- machine ---------------------------------------------------------------------------------------------------------------------

def machine(block, setting):
    block.check("the pack is whole", 20, lambda _: whole())
    found = block.check("the machine", 60 * setting.patience, lambda seconds: about(seconds, block, setting))
    if found:
        block.check("cuDNN's description of the device", 5, lambda _: described(found, setting))


def manifest():
    return json.loads((HERE / "manifest.json").read_text())


def whole():
    """Every file of the pack is as it was packed."""
    wrong = []
    for name, digest in manifest()["files"].items():
        path = HERE / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            wrong.append(f"{name} was changed")
    if wrong:
        raise Failed("; ".join(wrong))
    return {key: value for key, value in manifest().items() if key != "files"}


def about(seconds, block, setting):
    if torch_folder() is None:
        raise Failed(f"{PYTHON} has no torch: install torch=={manifest()['torch']} there, or put a Python that has it first in PATH")
    command = [PYTHON, HERE / "machine.py", "--device", setting.device, "--cudnn", setting.store.work / "cudnn-device.json"]
    found = run(command, seconds, block.log).well().rows()[-1] | {"commit": manifest()["commit"]}
    if not found["torch"].startswith(manifest()["torch"]):
        raise Failed(f"Python's torch is {found['torch']}; the programs are built for {manifest()['torch']}", found)
    return found


def described(found, setting):
    path = setting.store.work / "cudnn-device.json"
    if path.is_file():
        return found["cudnn_device"]
    raise (Failed if setting.cuda else OnlyOnGpu)(found["cudnn_device"])


# --- correctness -----------------------------------------------------------------------------------------------------------------

# How to upsample and how to take the skip in; a GPU's own way first.
WAYS = [(upsampling, skip) for upsampling in ("transposed", "phases", "direct") for skip in ("folded", "concat")]


def flags_of(way):
    return ["--upsampling", way[0], "--skip", way[1]]


def correctness(block, setting):
    block.check("the kernels' tests", 60 * setting.patience, lambda seconds: tests("kernels-tests", seconds, block, setting))
    block.check("NCCL's tests", 40 * setting.patience, lambda seconds: tests("nccl-device-tests", seconds, block, setting))
    precisions = ("f64", "f32", "bf16") + ("tf32",) * setting.cuda
    cases = [(path, precision, None) for path in sorted((HERE / "fixtures").glob("*.safetensors")) for precision in precisions]
    # Of these the one where a skip can be folded: from 32 px on.
    cases += [(HERE / "fixtures/clip-64.safetensors", precision, way) for precision in ("f64", "bf16") for way in WAYS[1:]]
    made = block.check(f"a fixture of {setting.shape['size']} px", 60 * setting.patience, lambda seconds: fixture(seconds, block, setting))
    if made:
        cases += [(pathlib.Path(made), precision, None) for precision in precisions]
    if setting.quick:
        cases = [case for case in cases if not case[2]]
    conforms(block, setting, cases)
    if not setting.cuda:
        block.check("conform in tf32", 1, only_on_gpu("TF32 is a mode of NVIDIA's matrix units"))


def only_on_gpu(why):
    def work(_):
        raise OnlyOnGpu(why)
    return work


def tests(name, seconds, block, setting):
    """A program of tests: they ran, and none was skipped for want of something that should be there."""
    ended = run([BIN / name, "--nocapture", "--test-threads=1"], seconds, block.log, **setting.environment()).well()
    passed = sum(int(count) for count in re.findall(r"test result: ok\. (\d+) passed", ended.out))
    skips = [line.strip() for line in ended.out.splitlines() if "skipped:" in line]
    bad = [line for line in skips if setting.cuda or NO_GPU not in line]
    found = {"passed": passed, "skipped": skips}
    if bad:
        raise Failed(f"a skip is a failure here: {'; '.join(bad)[:600]}", found)
    if not passed:
        raise Failed(f"{name} ran no test", found)
    return found


def fixture(seconds, block, setting):
    """A step of the reference in f64 at the size that is trained; made on the CPU."""
    path = setting.folder / f"made-{setting.shape['size']}.safetensors"
    filters, latent = (16, 16) if setting.cuda else (4, 8)
    run([PYTHON, HERE / "began_torch.py", "fixture", path, "--size", setting.shape["size"], "--filters", filters, "--latent", latent,
         "--batch", 2, "--steps", 1], seconds, block.log).well()
    return str(path)


def conforms(block, setting, cases):
    """`trainer conform` for each case, several at a time."""
    for at in range(0, len(cases), setting.together):
        if block.left() < 1:
            block.add(f"{len(cases) - at} more of conform", "skipped", "no time is left in this block", 0.0, None)
            return
        running = []
        for number, (path, precision, way) in enumerate(cases[at:at + setting.together]):
            command = [BIN / "trainer", "conform", path, "--quiet", "--device", setting.device, "--precision", precision]
            command += (flags_of(way) if way else []) + ["--fused"] * (not setting.cuda)
            name = f"conform {path.stem} in {precision}" + (f", {way[0]} and {way[1]}" if way else "")
            running.append((name, Running(command, setting.folder / f"conform-{number}.log", **setting.environment())))
        for name, program in running:
            block.check(name, 60 * setting.patience, lambda seconds, program=program: conformed(program, seconds, block))


def conformed(program, seconds, block):
    ended = program.wait(seconds)
    block.say(f"$ {ended.command}\n{ended.out}")
    program.log.unlink(missing_ok=True)
    worst = {kind: float(error) for error, kind in re.findall(r"^ *(\S+) of \S+ +the worst of ([^:]+):", ended.out, re.M)}
    if ended.code == 1 and " OVER" in ended.out:
        over = [line.strip() for line in ended.out.splitlines() if line.rstrip().endswith("OVER")]
        raise Failed(f"{len(over)} tensors differ by more than their bounds: {'; '.join(over[:3])}; {line_with('tensors within', ended.out)}", worst)
    ended.well()
    if not worst:
        raise Failed(f"conform said nothing of what it compared: {ended.out[-300:]}")
    return worst


# --- runs that are compared to the bit -------------------------------------------------------------------------------------------

def command_of(setting, name, data, trainers, settings):
    """The command of a run; its folder is `name`."""
    command = [BIN / "launcher", "--nodes", 1, "--gpus", trainers, "--device", setting.device, "--data", data, "--run",
               setting.folder / name, "--set", "run.sample_every=0"]
    return command + [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def training(setting, name, trainers):
    """A run of 32 px."""
    return command_of(setting, name, HERE / "data/faces-32", trainers, {
        "run.lanes": 4, "run.batch": 4, "run.steps": setting.steps, "model.filters": 16, "model.latent": 16, "run.digest_every": 10,
        "run.checkpoint_every": 20}) + ["--share-gpu"]


def large(setting, name):
    """A run at the size that is trained, in bf16."""
    return command_of(setting, name, setting.folder / "faces", 1, {
        "run.lanes": 1, "run.batch": setting.batches[0], "run.steps": 20, "model.filters": setting.shape["filters"],
        "model.latent": setting.shape["latent"], "run.precision": "bf16", "run.digest_every": 5, "run.checkpoint_every": 0})


def trained(command, seconds, block, setting):
    """Runs it; its digest. The logs of its processes are kept where it did not end well."""
    folder = pathlib.Path(command[command.index("--run") + 1])
    ended = run(command, seconds, block.log, **setting.environment())
    if ended.why():
        keep_logs(folder, block)
    ended.well()
    return digest(folder, block, setting)


def keep_logs(folder, block):
    for path in sorted((folder / "logs").rglob("*.log")):
        block.say(f"--- {path.relative_to(folder)}\n{path.read_bytes()[-20000:].decode(errors='replace')}")


def digest(folder, block, setting):
    return run([BIN / "launcher", "digest", folder], 20, block.log, **setting.environment()).well().out.split("\n$", 1)[0].strip()


def golden(block, setting):
    """The digest of the undisturbed run of one trainer; computed where no block before has."""
    if setting.golden is None:
        shutil.rmtree(setting.folder / "of-1", ignore_errors=True)
        setting.golden = trained(training(setting, "of-1", 1), 60 * setting.patience, block, setting)
    return setting.golden


def same(found, expected, what):
    if found != expected:
        raise Failed(f"{what}: {found}; it should be {expected}", {"found": found, "expected": expected})
    return found


def digests(block, setting):
    first = block.check("one trainer, 32 px, f32", 40 * setting.patience, lambda _: golden(block, setting))
    if first:
        block.check("the same again", 40 * setting.patience, lambda seconds: same(
            trained(training(setting, "again", 1), seconds, block, setting), first, "a second run"))
    size = setting.shape["size"]
    data = block.check(f"faces of {size} px", 30 * setting.patience, lambda seconds: run(
        [BIN / "trainer", "prepare", "synthetic:faces", "--out", setting.folder / "faces", "--size", size, "--count", 128, "--seed", 1],
        seconds, block.log).well().seconds)
    if data:
        first = block.check(f"one trainer, {size} px, bf16", 40 * setting.patience,
                            lambda seconds: trained(large(setting, "large"), seconds, block, setting))
        if first:
            block.check("the same again, bf16", 40 * setting.patience, lambda seconds: same(
                trained(large(setting, "large-again"), seconds, block, setting), first, "a second run in bf16"))


def sharing(block, setting):
    """Several trainers on one GPU, and a kill: the last of what is about correctness, for it may hang."""
    first = block.check("one trainer", 60 * setting.patience, lambda _: golden(block, setting))
    if not first:
        return
    for trainers in (2, 4):
        block.check(f"the same bits from {trainers} trainers", 40 * setting.patience, lambda seconds, trainers=trainers: same(
            trained(training(setting, f"of-{trainers}", trainers), seconds, block, setting), first, f"{trainers} trainers"))
    block.check("the same bits after a kill -9 of one of four", 50 * setting.patience, lambda seconds: killed(seconds, first, block, setting))


def killed(seconds, expected, block, setting):
    folder = setting.folder / "killed"
    program, struck = Running(training(setting, "killed", 4), block.log, **setting.environment()), None
    deadline = time.monotonic() + seconds
    while program.process.poll() is None and time.monotonic() < deadline:
        if struck is None and recorded(folder) >= setting.steps // 5:
            for pid in trainers_of(folder)[1:2]:
                os.kill(pid, signal.SIGKILL)
                struck = recorded(folder)
        time.sleep(0.02)
    ended = program.wait(max(deadline - time.monotonic(), 0.1))
    if ended.why() or struck is None:
        keep_logs(folder, block)
    ended.well()
    if struck is None:
        raise Failed("no trainer was struck: the run was over before")
    return {"killed_at_step": struck, "digest": same(digest(folder, block, setting), expected, "after a kill")}


def recorded(folder):
    """Steps in the journal of a run."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder}/run.db?mode=ro", uri=True)) as journal:
            return journal.execute("select count(*) from steps").fetchone()[0]
    except sqlite3.Error:
        return 0


def trainers_of(folder):
    """Processes of trainers of this run, by their command lines."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if len(words) > 1 and words[0].endswith(b"trainer") and words[1] == b"run" and str(folder).encode() in words:
            found.append(int(entry.name))
    return sorted(found)


# --- speed -----------------------------------------------------------------------------------------------------------------------

# So many of PyTorch's variants are timed at the larger batch too.
STRONGEST = 4


def bench(block, setting):
    """The step by each way there is; the device's own way first, with its stages."""
    for way in WAYS[:1] if setting.quick else WAYS:
        for batch in setting.batches[:1] if setting.quick else setting.batches:
            flags = flags_of(way) + ["--brief"] * (way != WAYS[0])
            block.check(f"bf16, batch {batch}, {way[0]} and {way[1]}", 30 * setting.patience, lambda seconds, batch=batch, flags=flags:
                        benched("bf16", batch, seconds, block, setting, *flags))
    if not setting.quick:
        for precision in ("tf32", "f32")[not setting.cuda:]:
            block.check(f"{precision}, batch {setting.batches[0]}", 30 * setting.patience, lambda seconds, precision=precision:
                        benched(precision, setting.batches[0], seconds, block, setting, "--brief"))


def benched(precision, batch, seconds, block, setting, *flags):
    times = ("--warmup", 5, "--iters", 10, "--rounds", 5) if setting.cuda else ("--warmup", 1, "--iters", 1, "--rounds", 2)
    command = [BIN / "trainer", "bench", "--device", setting.device, "--precision", precision, "--no-coordinator", *setting.flags(),
               "--batch", batch, *times, *flags]
    ended = run(command, seconds, block.log, **setting.environment()).well()
    rows = [row for row in ended.rows() if row.get("images_per_s", 0) > 0]
    if not rows:
        raise Failed(f"the bench gave no figure: {ended.out[-300:]}")
    return rows


def convolutions(block, setting):
    sizes = ["--size", setting.shape["size"], "--filters", setting.shape["filters"]]
    if not setting.cuda:  # 19 shapes take four scales
        sizes = ["--size", 128, "--filters", 2, "--batches", "1,2", "--seconds", 0.001]
    block.check("19 shapes", block.limit, lambda seconds: listed(run(
        [PYTHON, HERE / "convolutions.py", "--device", setting.device, *sizes], seconds, block.log)))


def listed(ended):
    """The rows of a program that gives them one by one: those that it has given are kept whatever became of it."""
    rows, why = ended.rows(), ended.why()
    errors = [row for row in rows if "error" in row]
    if errors:
        why = f"{len(errors)} of {len(rows)} raised, the first: {errors[0]}"
    if why or not rows:
        raise Failed(f"{len(rows)} rows; {why or 'nothing was printed'}", rows)
    return rows


def pytorch(block, setting):
    """The reference's variants, each in a process of its own; what they compile is compiled beforehand, several at a time."""
    names = block.check("the variants", 60 * setting.patience, lambda seconds: run(
        [PYTHON, HERE / "began_torch.py", "variants", "--device", setting.device], seconds, block.log).well().out.split())
    if names and not setting.cuda:
        names.append("single-backward/bf16w+nhwc+foreach+graph")
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(setting.folder / "inductor")}
    # The strongest first, at each batch; on a CPU, where compiling takes most of the time, at one.
    batches = setting.batches[:2 if setting.cuda else 1]
    plans = [(batch, name) for name in reversed(names or []) for batch in batches]
    # Of the larger batch the strongest alone.
    plans = [plan for at, plan in enumerate(plans) if plan[0] == batches[0] or at < 2 * STRONGEST]
    compiled = to_compile(plans)
    block.check(f"compiling {len(compiled)} of them", min(90 * setting.patience, 0.45 * block.left()),
                lambda seconds: warmed(compiled, seconds, block, setting, cache))
    for batch, name in plans:
        times = ("--warmup", 5, "--iters", 10, "--rounds", 5) if setting.cuda else ("--warmup", 1, "--iters", 1, "--rounds", 1)
        block.check(f"{name}, batch {batch}", 40 * setting.patience, lambda seconds, batch=batch, name=name, times=times: variant(run(
            reference(setting, name, batch, times), seconds, block.log, **cache), setting))


def to_compile(plans):
    """One variant of those that compile the same: a CUDA graph is recorded of what is compiled, and cannot be kept."""
    found = {}
    for batch, name in plans:
        words = name.split("+")
        if {"compile", "autotune", "whole"} & set(words):
            found.setdefault((batch, *(word for word in words if word not in ("graph", "capturable"))), (batch, name))
    # Those of one batch together: it decides how much memory they take.
    return sorted(found.values())


def reference(setting, name, batch, times):
    return [PYTHON, HERE / "began_torch.py", "bench", "--device", setting.device, *setting.flags(), "--batch", batch, *times, "--variants", name]


def warmed(plans, seconds, block, setting, cache):
    """Compiles the variants; one that cannot be is seen when it is timed."""
    deadline, late = time.monotonic() + seconds, []
    together = min(setting.together, 4)
    for at in range(0, len(plans), together):
        running = [(name, Running(reference(setting, name, batch, ("--warmup", 1, "--iters", 1, "--rounds", 1)),
                                  setting.folder / f"warm-{number}.log", **cache))
                   for number, (batch, name) in enumerate(plans[at:at + together])]
        for name, program in running:
            ended = program.wait(max(deadline - time.monotonic(), 0.1))
            block.say(f"$ {ended.command}\n{ended.out}")
            late += [name] * (ended.bound is not None)
    if late:
        raise Failed(f"not compiled in {seconds:.0f} s: {', '.join(late)}")
    return len(plans)


def variant(ended, setting):
    rows = ended.rows()
    for row in rows:
        if "error" in row:
            raise Failed(row["error"], rows)
        if "skipped" in row:
            raise (Failed if setting.cuda else OnlyOnGpu)(row["skipped"], rows)
    ended.well()
    if not rows:
        raise Failed("it gave no figure")
    return rows


def profile(block, setting):
    """One step of training, launch by launch: libtorch's trace for the time between launches, ncu for what each kernel does."""
    path = setting.folder / "trace.json"
    step = block.check("a trace of one step", 40 * setting.patience, lambda seconds: traced(path, seconds, block, setting))
    launches = step["launches"] if step else 1000
    block.check("ncu over one step", 60 * setting.patience, lambda seconds: counted(launches, seconds, block, setting))


def traced(path, seconds, block, setting):
    rows = benched("bf16", setting.batches[0], seconds, block, setting, "--brief", "--trace", path)
    text = path.read_text()
    with gzip.open(setting.store.work / "trace.json.gz", "wt") as out:
        out.write(text)
    return traces.of_trace(text, setting.device) | {"ms_per_step": rows[0]["ms_per_step"]}


def counted(launches, seconds, block, setting):
    """ncu over as many launches as a step has, from the third step on."""
    step = [BIN / "trainer", "bench", "--device", setting.device, "--precision", "bf16", "--no-coordinator", "--brief", *setting.flags(),
            "--batch", setting.batches[0], "--warmup", 2, "--iters", 1, "--rounds", 2]
    ncu = shutil.which("ncu")
    options = ["--target-processes", "all", "--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base", "--metrics",
               ",".join(traces.METRICS), "--launch-skip", 2 * launches, "--launch-count", launches]
    if not setting.cuda:  # its table stands in for ncu's
        ended = run([PYTHON, HERE / "made_up_ncu.py", *options, *step], seconds, block.log, **setting.environment()).well()
        raise OnlyOnGpu("ncu reads a GPU's counters", traces.of_ncu(ended.out))
    if not ncu:
        raise Failed("ncu is not on the PATH")
    # ncu prints its table when the program ends: so the program is ended, if need be, and not ncu.
    ended = run([ncu, *options, "timeout", "-s", "KILL", max(int(seconds - 8), 5), *step], seconds, block.log)
    (setting.store.work / "ncu.csv.gz").write_bytes(gzip.compress(ended.out.encode()))
    if '"ID"' not in ended.out:
        ended.well()
    return traces.of_ncu(ended.out)


PLANS = [
    Plan("machine", "what the machine is and can do", 70, 20, machine, quick=True),
    Plan("correctness", "kernels, NCCL, every tensor of the step against PyTorch's f64", 110, 45, correctness, quick=True),
    Plan("digest", "one trainer twice: the same bits", 70, 25, digests),
    Plan("bench", "began's step", 110, 40, bench, quick=True),
    Plan("convolutions", "19 shapes, three operations, two ways to choose the kernel", 110, 40, convolutions),
    Plan("sharing", "two and four trainers on one GPU, and a kill", 90, 45, sharing),
    Plan("pytorch", "the same step in PyTorch", 190, 130, pytorch),
    Plan("profile", "one step, launch by launch", 70, 45, profile),
]
