#!/usr/bin/env python3
"""Fetches axe-core, which the tests of the page check accessibility with, from PyPI into third_party/axe/.

It is only for tests, and not a part of the project: one that cannot be fetched is said, and those checks are skipped.
"""
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

REQUIREMENT = "axe-playwright-python==0.1.8"
SHA256 = "fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8"
INSIDE = "axe_playwright_python/axe.min.js"
PLACE = pathlib.Path(__file__).resolve().parent.parent / "third_party" / "axe" / "axe.min.js"


def main():
    if PLACE.is_file():
        return
    print(f"set-up: fetching {REQUIREMENT} from PyPI, for the accessibility tests of the page")
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
        if subprocess.run(pip + [REQUIREMENT]).returncode:
            return print("set-up: it could not be fetched; the accessibility tests will be skipped")
        wheel = next(pathlib.Path(folder).glob("*.whl"))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != SHA256:
            sys.exit(f"set-up: {wheel.name} has SHA-256 {found}, expected {SHA256}")
        with zipfile.ZipFile(wheel) as archive:
            text = archive.read(INSIDE)
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    aside = PLACE.with_suffix(".tmp")
    aside.write_bytes(text)
    aside.rename(PLACE)


if __name__ == "__main__":
    main()
