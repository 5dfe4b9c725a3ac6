#!/usr/bin/env python3
"""Checks the Dockerfiles without an engine to build them: hadolint's rules, and rules of our own. What is copied in is there, what is
copied from a stage was made in it, every command is a program of the image or a target of the Makefile, and nothing runs as root."""
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# In the images that stages begin with, or what they install.
PROGRAMS = {"apt-get", "cp", "groupadd", "python3", "rm", "useradd"}
# Made by `make setup` and `make image`, below the working directory.
MADE = {"image/bin": "make image", "third_party/libtorch/torch/lib": "make setup", "third_party/libtorch/nvidia": "make setup"}


def instructions(text):
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


def targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def wrong_in(file):
    stages, users, place, said = [], [], "/", list(instructions(file.read_text()))
    for word, rest in said:
        if word == "FROM":
            name = re.search(r"\bAS (\S+)", rest)
            stages.append({"name": name and name[1], "ran": [], "image": rest.split()[0]})
            users.append(None)
            if ":" not in rest.split()[0] or rest.split()[0].endswith(":latest"):
                yield f"FROM {rest}: the version is left open"
        elif word == "WORKDIR":
            place = rest
        elif word == "USER":
            users[-1] = rest
        elif word == "RUN":
            for command in re.split(r"&&|;|\|", rest):
                words = shlex.split(command)
                stages[-1]["ran"].append(" ".join(words))
                if words[0] == "make":
                    yield from (f"RUN {command}: the Makefile has no {target}" for target in words[1:] if target not in targets())
                elif words[0] not in PROGRAMS:
                    yield f"RUN {command}: {words[0]} is no program of the image"
                for path in re.findall(r"(?:--requirement|-r) (\S+)", command):
                    if not (ROOT / path).is_file():
                        yield f"RUN {command}: there is no {path}"
        elif word in ("COPY", "ADD"):
            stage = re.match(r"--from=(\S+)\s+", rest)
            *sources, target = shlex.split(rest[stage.end():] if stage else rest)
            if word == "ADD":
                yield f"ADD {rest}: COPY does it"
            for source in sources:
                if not stage:
                    if not (ROOT / source).exists():
                        yield f"COPY {rest}: there is no {source}"
                    continue
                made = next((path for path in MADE if source == f"/opt/began/{path}"), None)
                ran = next((one["ran"] for one in stages if one["name"] == stage[1]), None)
                if ran is None or made is None or MADE[made] not in ran:
                    yield f"COPY {rest}: nothing makes {source} in the stage {stage[1]}"
                # Binaries remember where libtorch was.
                if source != target and made != "image/bin":
                    yield f"COPY {rest}: libtorch lies elsewhere than where it was linked"
        elif word == "ENTRYPOINT":
            if not isinstance(json.loads(rest), list):
                yield f"ENTRYPOINT {rest}: a shell would stand between the signals and the launcher"
    if not users[-1] or users[-1].split(":")[0] in ("root", "0"):
        yield "it runs as root"


def main():
    linter = shutil.which("hadolint", path=pathlib.Path(sys.executable).parent) or shutil.which("hadolint")
    if linter is None:
        sys.exit("check: hadolint is not there; `make test-kubernetes` installs it")
    wrong = []
    for file in sorted(HERE.glob("Dockerfile*")):
        wrong += [f"{file.name}: {what}" for what in wrong_in(file)]
        linted = subprocess.run([linter, "--no-color", str(file)], capture_output=True, text=True, timeout=60)
        if linted.returncode:
            wrong.append(linted.stdout + linted.stderr)
    ignored = (ROOT / ".dockerignore").read_text().split()
    for copied in ("Makefile", "setup", "deploy"):
        if copied in ignored:
            wrong.append(f".dockerignore leaves out {copied}, which is copied")
    for what in wrong:
        print(f"wrong: {what}", file=sys.stderr)
    print("check: the Dockerfiles hold, as far as can be seen without building them")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
