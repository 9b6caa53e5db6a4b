#!/usr/bin/env python3
"""Compares what each pair of the library costs in instructions with instructions.csv.

    check.py [PYTHON]                    fails where a pair costs over 5 % more than committed
    check.py --update [PYTHON]           commits what it costs now
    check.py --functions STATE [PYTHON]  which function they are spent in: attached, detached, fresh

Instructions are counted by callgrind and repeat exactly, whatever else the machine does. Two figures for
each pair: those in the library itself (`library`), and all, with those in CPython and libc (`total`).
Without PYTHON: all that are here and have figures.
"""

import argparse
import collections
import csv
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

import pythons

FIGURES = os.path.join(pythons.PROJECT, "bench", "instructions.csv")
FIELDS = ["python", "state", "caller", "pair", "library", "total"]
ROOM = 0.05


def count(python):
    """[(state, caller, pair, {(object, function): instructions per pair})] in the order of pairs.c."""
    program = python.compile("pairs.c", "-DCOUNT")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        lines = python.run(
            "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", "--smc-check=all",
            "--callgrind-out-file=" + out,
            program, pythons.LIBRARY, "count", PYTHONHASHSEED="0").splitlines()
        dumps = sorted(glob.glob(out + ".*"), key=lambda path: int(path.rpartition(".")[2]))
        if len(dumps) != len(lines):
            raise SystemExit("bench-check: %d pairs, but %d dumps of callgrind" % (len(lines), len(dumps)))
        for line, dump in zip(lines, dumps):
            state, caller, pair, pairs = line.split(",")
            costs = {where: cost / int(pairs) for where, cost in parse(dump).items()}
            yield state, caller, pair, costs


def parse(path):
    """Instructions in each function itself, by (file name of the object, function), of a callgrind dump.

    Without those of pairs.c, the loops around the pairs.
    """
    names, costs, place = {}, collections.Counter(), {}
    of_call = False
    with open(path) as file:
        for line in file:
            # `fn=(12) name` for the first time, `fn=(12)` from then on. `cfn` and `cob` are of what is
            # called, `fi` and `fe` of what is inlined; they name as well.
            named = re.match(r"(c?)(ob|f.)=\((\d+)\)(?: (.*))?$", line)
            if named:
                of_callee, kind, number, name = named.groups()
                space = kind if kind in ("ob", "fn") else "file"
                if name:
                    names[space, number] = name
                if not of_callee:
                    place[kind] = names[space, number]
            elif line.startswith("calls="):
                of_call = True  # the next line has the cost of what was called
            elif re.match(r"[+*\d-]", line):
                if not of_call and " " in line and not place["fl"].endswith("pairs.c"):
                    costs[os.path.basename(place["ob"]), place["fn"]] += int(line.split()[1])
                of_call = False
    return costs


def figures_of(python):
    for state, caller, pair, costs in count(python):
        if caller in ("accepted", "draft", "protected"):
            library = sum(cost for (place, _), cost in costs.items() if place.startswith("libpep788"))
            yield dict(python=python.label, state=state, caller=caller, pair=pair,
                       library=round(library), total=round(sum(costs.values())))


def key(row):
    return tuple(row[field] for field in FIELDS[:4])


def compare(python, committed):
    """Prints the table of one Python, and returns what it has to complain of."""
    complaints = []
    print("\n%s\n%-9s %-9s %-25s %-16s %-16s" % (python.label, "state", "caller", "pair", "in the library", "in all"))
    for row in figures_of(python):
        before = committed.get(key(row))
        cells, worse = [], False
        for field in "library", "total":
            now, then = row[field], int(before[field]) if before else None
            cells.append("%5d (%s)" % (now, "new" if then is None else "%+d" % (now - then)))
            # Half an instruction a pair is rounding.
            worse |= then is None or now > then * (1 + ROOM) + 0.5
        print("%-9s %-9s %-25s %-16s %-16s %s" % (*key(row)[1:], *cells, "WORSE" if worse else ""))
        if worse:
            then = "%(library)s and %(total)s" % before if before else "nothing"
            complaints.append("%s, %s, %s %s: %d in the library and %d in all; committed: %s" % (
                *key(row), row["library"], row["total"], then))
    return complaints


def functions(python, wanted):
    for state, caller, pair, costs in count(python):
        if state == wanted:
            print("\n%s, %s %s %s" % (python.label, state, caller, pair))
            for (place, function), cost in sorted(costs.items(), key=lambda item: -item[1]):
                if cost >= 0.5:
                    print("  %8.1f  %-24s %s" % (cost, place, function))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("python", nargs="?")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--functions", choices=["attached", "detached", "fresh"], metavar="STATE")
    options = parser.parse_args()
    if not (shutil.which("valgrind") and os.path.exists("/usr/include/valgrind/callgrind.h")):
        raise SystemExit("bench-check: valgrind is missing (Debian: apt install valgrind)")

    committed = {}
    if os.path.exists(FIGURES):
        with open(FIGURES, newline="") as file:
            committed = {key(row): row for row in csv.DictReader(file)}
    known = {row["python"] for row in committed.values()}
    here = pythons.find(options.python, matrix=False)
    # To update or to look at one, it need not have figures.
    adds = options.python and (options.update or options.functions)
    chosen = [python for python in here if adds or python.label in known]
    if not chosen:
        raise SystemExit("bench-check: there are figures for Python %s, and none of these is here; "
                         "`make bench-update PYTHON=...` adds those of another" % ", ".join(sorted(known)))

    if options.functions:
        for python in chosen:
            functions(python, options.functions)
    elif options.update:
        for python in chosen:
            committed = {place: row for place, row in committed.items() if place[0] != python.label}
            committed.update((key(row), row) for row in figures_of(python))
        with open(FIGURES, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(committed.values(), key=lambda row: [int(n) for n in
                                    re.findall(r"\d+", row["python"])]))
        print("bench-update: %s, for %s" % (os.path.relpath(FIGURES), ", ".join(p.label for p in chosen)))
    else:
        complaints = [complaint for python in chosen for complaint in compare(python, committed)]
        print()
        if complaints:
            print("bench-check: these pairs cost over %d %% more instructions than bench/instructions.csv says:"
                  % (ROOM * 100))
            for complaint in complaints:
                print("  " + complaint)
            print("Where they are spent: bench/check.py --functions STATE. If the price is right, or a new compiler\n"
                  "or Python counts otherwise: `make bench-update`, and say in the commit what it buys.")
            sys.exit(1)
        print("bench-check: no pair costs over %d %% more than it did" % (ROOM * 100))


if __name__ == "__main__":
    main()
