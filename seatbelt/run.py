"""run.py [--exits N] [--plain N] [--kinds A,B] [--programs NAME,...] [--load N] [PYTHON...]: programs that nobody adapted, with and without protection.

Each is ended N times (200) in the middle of its threads' calls, on every Python that is found, plain (--plain: fewer times, since those that
hang take long) and with libpep788 preloaded and PEP788_GILSTATE=protect. Prints a table, and another by kinds; fails if a protected exit crashed, hung, or had another status than the program
asked for, or if those of kind G, whose threads are not in Python, take 10 ms longer. With --load, so many processes keep the machine busy meanwhile.
"""
import argparse
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "bench"))
import packages  # noqa: E402
import pythons  # noqa: E402
import toolkits  # noqa: E402


def say(text):
    print("seatbelt: " + text, file=sys.stderr, flush=True)


class Skip(Exception):
    """Why a program is not run."""


def programs(chosen, kinds):
    for name in sorted(os.listdir(os.path.join(HERE, "programs"))):
        if name.endswith(".py") and (not chosen or name[:-3] in chosen):
            path = os.path.join(HERE, "programs", name)
            with open(path) as file:
                text = file.read()
            says = {key: re.findall(r"^# %s: (.+)$" % key, text, re.M) for key in ("kind", "needs", "module", "toolkits", "not for", "wait", "status")}
            if not kinds or kinds & set(says["kind"]):
                for toolkit in " ".join(says["toolkits"]).split() or [None]:
                    yield name[:-3] + ("_" + toolkit if toolkit else ""), path, says, toolkit


def compile_library(python):
    library = os.path.join(packages.OUT, python.label, "libnative.so")
    os.makedirs(os.path.dirname(library), exist_ok=True)
    command = ["c++", "-std=c++17", "-O1", "-g", "-shared", "-fPIC", "-pthread", os.path.join(HERE, "native.cc"), "-o", library]
    subprocess.run(python.command(*command), check=True, env=pythons.visible())
    return library


def exits(python, program, preloaded, number, library):
    """Of so many exits of a program, what `exits.py` counts."""
    name, path, says, toolkit = program
    for words in says["not for"]:
        kind, why = words.split(", ", 1)
        if kind == "free-threaded" and python.free_threaded:
            raise Skip(why)
    for package in " ".join(says["needs"]).split():
        try:
            packages.bring(python, package)
        except packages.Missing as why:
            raise Skip(why)
    modules = says["module"] + (["owner_" + toolkit] if toolkit else [])
    for module in modules:
        try:
            toolkits.make(python, module)
        except packages.Missing as why:
            raise Skip(why)
    wait = (says["wait"] or ["3000"])[0]
    status = (says["status"] or ["0"])[0]
    command = [python.executable, os.path.join(HERE, "exits.py"), str(number), preloaded, wait, status, path, library, toolkit or ""]
    environment = {"PYTHONPATH": packages.folder(python)} if says["needs"] or modules else {}
    done = subprocess.run(python.command(*command, **environment), check=True, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=pythons.visible())
    if preloaded != "-" and done.stderr.strip():
        say("%s, %s, protected: the last failure: %s" % (python.label, name, done.stderr.strip()[-1000:]))
    return [int(word) for word in done.stdout.split()]


COUNTED = ["crashed", "hung", "calls lost", "other status", "ended"]


def by_kind(rows):
    """The sums of a Python's rows for each kind, and the median of what protection adds to a program's milliseconds."""
    for kind in sorted({row[2] for row in rows}):
        of_kind = [row for row in rows if row[2] == kind]
        sums = [sum(row[column] for row in of_kind) for column in range(3, 17)]
        # Programs whose plain exits crash or hang take no time that could be compared.
        added = sorted(row[16] - row[9] for row in of_kind if row[9] and row[16] and not row[4] + row[5])
        yield [rows[0][0], kind or "none", len(of_kind), *sums[:6], *sums[7:13], added[len(added) // 2] if added else ""]


def show(row):
    print("| " + " | ".join(map(str, row)) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exits", type=int, default=200)
    parser.add_argument("--plain", type=int)
    parser.add_argument("--kinds", type=lambda kinds: set(kinds.split(",")))
    parser.add_argument("--programs", type=lambda names: names.split(","))
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("python", nargs="*")
    asked = parser.parse_args()
    plainly = asked.exits if asked.plain is None else asked.plain
    found = [python for name in asked.python for python in pythons.find(name)] or pythons.find()
    failed = 0
    rows = []
    show(["Python", "program", "kind", "plain exits", *COUNTED, "ms", "protected exits", *COUNTED, "ms"])
    show(["---"] * 3 + ["---:"] * 14)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(asked.load)]
    try:
        for python in found:
            library = compile_library(python)
            for program in programs(asked.programs, asked.kinds):
                try:
                    plain, protected = [exits(python, program, preloaded, number, library)
                                        for preloaded, number in (("-", plainly), (pythons.LIBRARY, asked.exits))]
                except Skip as why:
                    say("%s: %s is skipped: %s" % (python.label, program[0], why))
                    continue
                failed += protected[0] + protected[1] + protected[3]
                if "G" in program[2]["kind"] and protected[5] > plain[5] + 10:
                    say("%s: %s: a protected exit takes %d ms, without %d" % (python.label, program[0], protected[5], plain[5]))
                    failed += 1
                rows.append([python.label, program[0], "".join(program[2]["kind"]), plainly, *plain, asked.exits, *protected])
                show(rows[-1])
    finally:
        for process in busy:
            process.kill()
    print()
    show(["Python", "kind", "programs", "plain exits", *COUNTED, "protected exits", *COUNTED, "ms added"])
    show(["---"] * 2 + ["---:"] * 14)
    for python in found:
        for row in by_kind([row for row in rows if row[0] == python.label]):
            show(row)
    if failed:
        sys.exit("seatbelt: %d protected exits crashed, hung, or had another status" % failed)


main()
