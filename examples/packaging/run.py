#!/usr/bin/env python3
"""Builds each project here with its backend, as pip does, and has it exit many times: run.py [PYTHON]

Needs the wheel of `make wheel` or `make dist`, a C compiler, cargo, and PyPI and crates.io.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "wheel"))
from latest import TARGET, latest

PROJECTS = ["setuptools", "scikit-build-core", "meson-python", "maturin"]
EXITS = 20
PROGRAM = "import example, threading; called = threading.Event(); example.start(called.set); called.wait()"


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit("FAILED: %s: %d\n%s" % (" ".join(map(str, command)), done.returncode, done.stdout))
    return done.stdout


def check_same_sources():
    """The projects in C are complete, each by itself, and differ in how they are built only."""
    texts = {(HERE / name / "example.c").read_text() for name in PROJECTS if name != "maturin"}
    if len(texts) != 1:
        sys.exit("FAILED: the three example.c differ")


def main():
    interpreter = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    check_same_sources()
    wheel = latest()
    with tempfile.TemporaryDirectory(prefix="pep788-packaging-") as temporary:
        for name in PROJECTS:
            folder = Path(temporary) / name
            run(interpreter, "-m", "venv", folder)
            python = folder / "bin" / "python"
            # Not where the sources are: some backends write beside them. The crate is found from there.
            source = folder / "project"
            shutil.copytree(HERE / name, source, ignore=shutil.ignore_patterns("target", "Cargo.lock"))
            if (source / "Cargo.toml").exists():
                manifest = (source / "Cargo.toml").read_text()
                (source / "Cargo.toml").write_text(manifest.replace('"../../.."', '"%s"' % ROOT))
            environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET / "packaging"))
            run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--find-links", wheel.parent, source,
                env=environment)
            for _ in range(EXITS):
                run(python, "-X", "faulthandler", "-c", PROGRAM, cwd=folder, timeout=60)
            listed = run(python, "-m", "pip", "list", "--disable-pip-version-check")
            if "pep788" in listed:
                sys.exit("FAILED: %s: the library is still needed:\n%s" % (name, listed))
            print("ok  %s: built in isolation, %d exits" % (name, EXITS), flush=True)


main()
