"""What was seen, on the disk as soon as it is: a JSON file and a log for each block, one archive of all, one page of Markdown.

A folder that cannot be written to loses nothing: what should have gone there is printed, and what comes later is tried again.
"""
import io
import json
import os
import pathlib
import tarfile

# So many files may lie in the folder of results, each of so many bytes: what does not fit is in the archive alone.
FILES = 8
BYTES = 16 << 20
# Of a log: its beginning and its end.
LOG_BYTES = 1 << 20

ARCHIVE = "results.tar.gz"
PAGE = "gpu.md"


class Store:
    """The folder of results, `out`. In `work` everything is kept whole until the check is over."""

    def __init__(self, out, work):
        self.out, self.work, self.loose, self.troubles, others = pathlib.Path(out), pathlib.Path(work), [], [], 0
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            for path in list(self.out.iterdir()):
                if path.name in (ARCHIVE, PAGE) or path.suffix in (".json", ".log"):
                    path.unlink()  # an earlier check's, not to be taken for this one's
                else:
                    others += 1
        except OSError as error:
            self.trouble(f"{self.out}: {error}")
        # Besides the archive and the page, two files a block.
        self.blocks = max(0, (FILES - others - 2) // 2)
        if others:
            print(f"RESULTS {self.out} holds {others} other files; {self.blocks} blocks have files of their own beside {ARCHIVE}",
                  flush=True)

    def trouble(self, what):
        """Something could not be written."""
        self.troubles.append(what)
        print(f"RESULTS {what}", flush=True)

    def log(self, name):
        """Where a block's programs write."""
        return self.work / f"{name}.log"

    def put(self, name, data):
        """A file in the folder, whole or not at all; whether it is there."""
        aside = self.out / f".{name}"
        try:
            aside.write_bytes(data)
            os.replace(aside, self.out / name)
            return True
        except OSError as error:
            try:
                aside.unlink(missing_ok=True)
            except OSError:
                pass
            self.trouble(f"{name} cannot be written: {error}")
            return False

    def page(self, text):
        """The page of all blocks; it is printed by whoever made it."""
        (self.work / PAGE).write_text(text)
        self.put(PAGE, text.encode())

    def block(self, record):
        """A block as far as it is: its JSON and its log. Where there is no room for more, the oldest block's are in the archive alone."""
        name, text = record["block"], json.dumps(record, indent=1)
        (self.work / f"{name}.json").write_text(text)
        while name not in self.loose and self.loose and len(self.loose) >= self.blocks:
            oldest = self.loose.pop(0)
            for kind in ("json", "log"):
                (self.out / f"{oldest}.{kind}").unlink(missing_ok=True)
        if name not in self.loose and self.blocks:
            self.loose.append(name)
        there = self.archive()
        if name in self.loose:
            self.put(f"{name}.log", clipped(self.log(name)))
            there |= self.put(f"{name}.json", text.encode())
        if not there:
            print(f"RESULTS {name}.json: {text}", flush=True)

    def archive(self):
        """All files of `work` in one archive; whether it is there."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=6) as tar:
            for path in sorted(path for path in self.work.iterdir() if path.is_file()):
                data = clipped(path) if path.suffix == ".log" else path.read_bytes()
                entry = tarfile.TarInfo(path.name)
                entry.size, entry.mtime = len(data), int(path.stat().st_mtime)
                tar.addfile(entry, io.BytesIO(data))
        if out.tell() > BYTES:
            self.trouble(f"{ARCHIVE} is {out.tell() >> 20} MiB, over {BYTES >> 20}")
        return self.put(ARCHIVE, out.getvalue())


def clipped(path):
    """The bytes of a log, its middle left out where it is long."""
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    if len(data) <= LOG_BYTES:
        return data
    half, left_out = LOG_BYTES // 2, len(data) - LOG_BYTES
    return data[:half] + f"\n... {left_out} bytes left out ...\n".encode() + data[-half:]
