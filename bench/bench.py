#!/usr/bin/env python3
"""Measures every Python, or the one that is named, prints a table, and writes results/ and the chart.

    bench.py [PYTHON] [--rounds N] [--pairs-only]

PYTHON is a path, or a version: 3.12.1, 3.13t. N is how many rounds the least is taken of. Targets that
are missed are listed, and are no failure: the machine may be busy. With --pairs-only, what else is in
results/ stays as it is; that takes seconds, the rest minutes.
"""

import argparse
import csv
import os
import sys

sys.dont_write_bytecode = True

import chart
import promises
import pythons

RESULTS = os.path.join(pythons.PROJECT, "bench", "results")
FIELDS = ["python", "state", "caller", "pair", "threads", "measured", "unit", "reference", "ratio", "target", "met"]

# What native 3.15 takes for the two guard pairs, in attached PyGILState pairs, for Pythons without it.
NATIVE_GUARDS = {"Guard_FromView/Close": 23.2 / 5.4, "Guard_FromCurrent/Close": 13.4 / 5.4}

GUARD_TARGETS = {"Guard_FromView/Close": 0.5, "Guard_FromCurrent/Close": 0.8}
# What a pair may cost in two threads at once, where there is no GIL.
TWO_THREADS = 1.3
# What a pair costs in a thread that keeps its thread state, in pairs of one that has its own.
KEPT = 1.1


def protected_target(python, state):
    """What a protected pair may cost, in plain ones."""
    return {"attached": 0.9, "detached": 1.05, "fresh": 1.05 if python.version >= (3, 11) else 1.15}[state]


def target_of(python, state, pair):
    """The ratio that a pair of the accepted API may have at most, or None."""
    if pair in GUARD_TARGETS:
        return GUARD_TARGETS[pair]
    if python.version >= (3, 15):
        return None
    return {
        ("attached", "Ensure/Release"): 0.9 if python.version >= (3, 12) else 1.3,
        ("attached", "EnsureFromView/Release"): 1.8,
        ("detached", "Ensure/Release"): 1.1,
        ("fresh", "Ensure/Release"): 1.05,
        ("fresh", "EnsureFromView/Release"): 1.08,
    }.get((state, pair))


def judge(python, measured):
    """Rows with reference, ratio and target. `measured`: ns by (state, caller, pair, threads)."""
    references = {
        "attached": ("PyGILState", "Ensure/Release"),
        "detached": ("PyGILState", "Ensure/Release"),
        "fresh": ("CPython", "New+Restore+Clear+Delete"),
    }
    for (state, caller, pair, threads), ns in measured.items():
        row = {"python": python.label, "state": state, "caller": caller, "pair": pair, "threads": threads,
               "measured": ns, "unit": "ns"}

        def compared(to, reference, target=None):
            ratio = ns / reference
            met = "" if target is None else "met" if ratio <= target else "missed"
            return dict(row, reference=to, ratio=round(ratio, 3), target=target or "", met=met)

        raw = references[state]
        attached = measured["attached", "PyGILState", "Ensure/Release", 0]
        native = measured.get((state, "native", pair, threads))
        target = target_of(python, state, pair) if caller == "accepted" else None
        if caller == "protected":
            target = protected_target(python, state) if threads < 2 else None
            yield compared("PyGILState", measured[state, "PyGILState", pair, threads], target)
        elif caller == "kept":
            target = KEPT if threads < 2 else None
            yield compared("detached", measured["detached", "accepted", pair, threads], target)
            yield compared(raw[0], measured[(state, *raw, threads)])
        elif threads == 2:
            target = TWO_THREADS if caller == "accepted" else None
            yield compared("one thread", measured[state, caller, pair, 1], target)
            if state == "fresh" and caller == "accepted":
                # CPython's own calls take a lock that two threads fight for.
                yield compared(raw[0], measured[(state, *raw, threads)])
        elif pair in GUARD_TARGETS and caller == "accepted":
            if native is None:
                yield compared("native 3.15 *", NATIVE_GUARDS[pair] * attached, target)
            else:
                yield compared("native", native, target)
        elif pair.startswith(("Guard_", "Ref_", "WeakRef_")):
            yield compared("attached PyGILState", attached)
        else:
            yield compared(raw[0], measured[(state, *raw, threads)], target)
            if native is not None and caller == "accepted":
                yield compared("native", native, 1.0)


def pairs(python, rounds):
    program = python.compile("pairs.c")
    lines = python.run(program, pythons.LIBRARY, "time", str(rounds)).splitlines()
    measured = {}
    for state, caller, pair, threads, ns in csv.reader(lines):
        measured[state, caller, pair, int(threads)] = float(ns)
    return list(judge(python, measured))


def show(rows):
    """The table of one Python."""
    print("\n%s\n%-9s %-10s %-37s %-7s %9s %-5s %6s %7s  %-6s  %s"
          % (rows[0]["python"], "state", "caller", "pair", "threads", "measured", "", "ratio", "at most", "", "to"))
    for row in rows:
        print("%-9s %-10s %-37s %-7s %9s %-5s %6s %7s  %-6s  %s"
              % tuple(row[field] for field in
                      "state caller pair threads measured unit ratio target met reference".split()))
    sys.stdout.flush()


def kept(name):
    """What was measured before and is no pair."""
    try:
        with open(os.path.join(RESULTS, name + ".csv"), newline="") as file:
            return [row for row in csv.DictReader(file) if row["caller"] == ""]
    except FileNotFoundError:
        return []


def write(name, rows):
    os.makedirs(RESULTS, exist_ok=True)
    with open(os.path.join(RESULTS, name + ".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("python", nargs="?")
    parser.add_argument("--rounds", type=int, default=105)
    parser.add_argument("--pairs-only", action="store_true")
    options = parser.parse_args()

    every = []
    for python in pythons.find(options.python):
        rows = pairs(python, options.rounds)
        rows += kept(python.label) if options.pairs_only else promises.measure(python)
        write(python.label, rows)
        show(rows)
        every += rows
    rows = promises.of_library()
    write("library", rows)
    show(rows)
    every += rows
    chart.write(RESULTS)

    print("\nThreads: 0, in the main thread of a process without others; 1 or 2, so many others at once.")
    print("* Without native functions of its own; 3.15 takes %s attached PyGILState pairs."
          % " and ".join("%.1f (%s)" % (pairs, name) for name, pairs in NATIVE_GUARDS.items()))
    missed = [row for row in every if row["met"] == "missed"]
    print("\nMissed: %d" % len(missed))
    for row in missed:
        print("  %-8s %-9s %-37s %-7s %s, at most %s" % (row["python"], row["state"], row["pair"], row["threads"],
                                                       row["ratio"] or row["measured"], row["target"]))


if __name__ == "__main__":
    main()
