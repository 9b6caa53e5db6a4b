"""Programs that mix everything (stress.c), each ended at a random moment: stress.py [PYTHON]

PYTHON: a path, or a version of one that is found, also in the roots of `make matrix`; else all there are.
EXITS: how many exits of each; 50. STRESS_SEED=n replays that seed, EXITS times (else once).
STRESS_LIMIT: seconds after which an exit is taken for hung; 30 unless said.
Needs the library in target/release; `make stress` builds it first.
"""

import os
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "bench"))
import pythons  # noqa: E402


def build(python, folder):
    program = os.path.join(folder, "stress")
    library = os.path.dirname(pythons.LIBRARY)
    compiler = os.environ.get("CC", "cc") if python.root is None else "cc"
    command = [compiler, "-O2", "-g", "-Wall", "-Wextra", "-pthread", *shlex.split(python.facts["cflags"])]
    command += ["-I" + os.path.join(pythons.PROJECT, "include")]
    command += [os.path.join(HERE, "stress.c"), os.path.join(HERE, "stress_draft.c"), "-o", program]
    command += ["-L" + library, "-Wl,-rpath," + library, "-lpep788", *shlex.split(python.facts["ldflags_embed"])]
    subprocess.run(python.command(*command), check=True, env=pythons.visible())
    return program


def stress(python, exits, seed):
    """Whether all went well."""
    folder = os.path.join(pythons.TARGET, "stress", python.label)
    os.makedirs(folder, exist_ok=True)
    settings = {"PYTHONHOME": python.facts["home"], "PEP788_ENGINE": "backport"}
    if "STRESS_LIMIT" in os.environ:
        settings["STRESS_LIMIT"] = os.environ["STRESS_LIMIT"]
    command = python.command(build(python, folder), python.label, exits, *seed, **settings)
    log = os.path.join(folder, "log.txt")
    with open(log, "w") as errors:
        failed = subprocess.run(command, stderr=errors, env=pythons.visible()).returncode != 0
    if failed:
        print("    what happened: %s\n    again: make stress PYTHON=%s EXITS=100 STRESS_SEED=<seed>" %
              (log, python.label if python.root else python.executable), flush=True)
    return not failed


def main():
    if not os.path.exists(pythons.LIBRARY):
        raise SystemExit("stress: there is no library yet: run make")
    wanted = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] else None
    seed = [os.environ["STRESS_SEED"]] if os.environ.get("STRESS_SEED") else []
    exits = os.environ.get("EXITS") or ("1" if seed else "50")
    print("Python        exits crashed   hung lost calls      calls  refused   subs  forks    time  from seed", flush=True)
    results = [stress(python, exits, seed) for python in pythons.find(wanted)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
