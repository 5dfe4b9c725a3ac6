"""Running a program within a bound: its output goes to a log as it comes, and nothing that it started is left afterwards."""
import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import time
import uuid

HERE = pathlib.Path(__file__).resolve().parent
BIN = HERE / "bin"
# In the environment of every program that is started here: what is left of them is found by it.
MARK = f"BEGAN_GPU_CHECK={uuid.uuid4()}"
# Seconds between being asked to end and being ended.
GRACE = 5.0


class Failed(Exception):
    """A check that did not hold; `found` is what was seen all the same."""

    def __init__(self, why, found=None):
        super().__init__(why)
        self.found = found


@dataclasses.dataclass
class Ended:
    """A program that ended or was ended."""

    command: str
    code: int
    out: str
    seconds: float
    # The bound that it did not keep, in seconds; none if it kept it.
    bound: float | None = None

    def why(self):
        """Why it did not end well; empty if it did."""
        tail = self.out.strip()[-1500:]
        if self.bound is not None:
            return f"not over after {self.bound:.0f} s: {self.command}: {tail[-600:] or 'it printed nothing'}"
        if self.code < 0:
            name = signal.Signals(-self.code).name if -self.code in set(signal.Signals) else f"signal {-self.code}"
            return f"ended by {name}: {self.command}: {tail}"
        if self.code:
            return f"ended with {self.code}: {self.command}: {tail}"
        if "go in two passes" in self.out:
            return f"the kernels compiled at run time were not used: {line_with('go in two passes', self.out)}"
        return ""

    def well(self):
        """Itself; an error if it did not end well."""
        why = self.why()
        if why:
            raise Failed(why, self.rows() or None)
        return self

    def rows(self):
        """The JSON objects that it printed, one a line."""
        found = []
        for line in self.out.splitlines():
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:  # cut in the middle
                    pass
        return found


def line_with(words, text):
    return next((line.strip() for line in text.splitlines() if words in line), "")


def torch_folder():
    """Where Python's torch is, without loading it; nothing where there is none."""
    found = importlib.util.find_spec("torch")
    return pathlib.Path(found.origin).parent if found and found.origin else None


def environment(**more):
    """Of every program: libtorch and NCCL from Python's torch, and none of the caller's BEGAN_ variables."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("BEGAN_")}
    paths = []
    torch = torch_folder()
    if torch:
        paths += [torch / "lib", torch.parent / "nvidia/nccl/lib"]
        env["LIBTORCH"] = str(torch)
    paths += [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    key, _, value = MARK.partition("=")
    return env | {"LD_LIBRARY_PATH": ":".join(map(str, paths)), "NCCL_DEBUG": "WARN", "PYTHONUNBUFFERED": "1", key: value} | more


class Running:
    """A program under way."""

    def __init__(self, command, log, **more):
        self.command = " ".join(str(word) for word in command)
        self.log, self.began = log, time.monotonic()
        named = " ".join(f"{key}={value}" for key, value in more.items())
        with open(log, "ab") as out:
            out.write(f"\n$ {named} {self.command}\n".encode())
            out.flush()
            self.start = out.tell()
            self.process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, env=environment(**more), start_new_session=True)

    def wait(self, seconds):
        """Until it ends, or for so long; it is gone afterwards."""
        bound = None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            bound = seconds
        self.end()
        with open(self.log, "rb") as text:
            text.seek(self.start)
            out = text.read().decode(errors="replace")
        return Ended(self.command, self.process.returncode, out, time.monotonic() - self.began, bound)

    def end(self):
        """Ends it and the processes of its group."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, kind)
            except ProcessLookupError:
                return
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                pass


def run(command, seconds, log, **more):
    """Runs a program to its end or for so many seconds; `more` is added to its environment."""
    return Running(command, log, **more).wait(max(seconds, 0.1))


def left_over():
    """Processes that a program started here has left behind, by id."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and MARK.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def end_left_over():
    """Ends them; their number."""
    found = left_over()
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(found)
