"""The CPythons of this machine that can be built for: the one in the environment variable PYTHON, or
all from 3.9 on, as `c_tests/pyinfo.py` describes them."""

import glob
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find():
    """Their facts as dicts, the oldest first. What is not used is said, and why."""
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    named = os.environ.get("PYTHON")
    candidates = [named] if named else ["python3"] + glob.glob(pyenv + "/versions/*/bin/python")
    if not named:
        candidates += [
            name
            for name in glob.glob("/usr/bin/python3.*") + glob.glob("/usr/local/bin/python3.*")
            if not name.endswith("-config")
        ]
    found = {}
    for candidate in candidates:
        facts = inspect(candidate)
        if "skipped" in facts:
            print("skipped  %s: %s" % (candidate, facts["skipped"]))
        else:
            found.setdefault(facts["executable"], facts)
    if not found:
        sys.exit("there is no CPython from 3.9 on with headers")
    return sorted(found.values(), key=lambda facts: int(facts["hexversion"], 16))


def inspect(python):
    try:
        done = subprocess.run(
            [python, "-B", str(ROOT / "c_tests" / "pyinfo.py")], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
    except OSError as error:
        return {"skipped": error}
    if done.returncode != 0:
        return {"skipped": "does not run c_tests/pyinfo.py"}
    facts = dict(line.split("=", 1) for line in done.stdout.splitlines())
    if facts["implementation"] != "CPython" or int(facts["hexversion"], 16) < 0x03090000:
        return {"skipped": "%(implementation)s %(version)s" % facts}
    if facts["has_headers"] != "1":
        return {"skipped": "has no headers"}
    return facts
