"""`python -m pep788 replay-exit`: provokes races at exit, and counts what becomes of them.

Each run is watched, as by `watch`, with a seed: some time after the first native thread has called Python, the main thread leaves, and
threads are delayed where that is dangerous. A maintainer who has mended a race proves it by this.
"""

import argparse
import json
import signal
import subprocess
import sys
from typing import Any, Optional

from pep788 import _watch

KINDS = {
    "crashed": "crashed", "hung": "hung", "lost": "calls that Python cut off, or that were left behind",
    "late": "threads came too late", "inside": "threads were inside Python at exit", "clean": "clean",
}
# The signal by which the library tells the main thread to leave: seldom used by others. The package's hook, _at_start.py, handles it.
LEAVE = signal.SIGRTMAX - 7
# What the status of the command counts as a failure.
FAILURES = ("crashed", "hung", "lost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="how often the program is run (default: 100)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first run; the others have those that follow (default: 1)")
    parser.add_argument("--within-ms", type=int, default=100, metavar="N",
                        help="the program is told to leave by SystemExit, so many milliseconds at most after its first native thread "
                             "has called Python (default: 100)")
    parser.add_argument("--protect", action="store_true", help="with PyGILState_Ensure protected, as by `run`")
    parser.add_argument("--hang-after", type=float, default=10, metavar="S", help="an exit of so many seconds hangs (default: 10)")
    parser.add_argument("--json", metavar="FILE", help="writes the counts, and one report for each kind; `-`: on stdout")


def main(asked: argparse.Namespace, command: list[str], environment: dict[str, str]) -> int:
    counts = dict.fromkeys(KINDS, 0)
    examples: dict[str, dict[str, Any]] = {}
    shown = asked.runs == 1
    for seed in range(asked.seed, asked.seed + asked.runs):
        disturbed = dict(environment, PEP788_DISTURB="%d,%d,%d" % (seed, asked.within_ms, LEAVE))
        told = _watch.watch(command, disturbed, asked.hang_after, None if shown else subprocess.DEVNULL)
        if told is None:
            sys.exit("python -m pep788 replay-exit: the program did not load the library, or is no Python")
        kind = kind_of(told)
        counts[kind] += 1
        if kind not in examples:
            examples[kind] = dict(told, seed=seed)
        if sys.stderr.isatty():
            print("\r%d of %d" % (seed - asked.seed + 1, asked.runs), end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    worst = next((examples[kind] for kind in KINDS if kind in examples and kind != "clean"), None)
    print("".join("pep788: %s\n" % line for line in text_lines(asked, counts, examples, worst, command)), file=sys.stderr, end="", flush=True)
    if asked.json:
        _watch.write(asked.json, json.dumps({"runs": asked.runs, "seed": asked.seed, "counts": counts, "examples": examples}, indent=1) + "\n")
    return int(any(counts[kind] for kind in FAILURES))


def kind_of(told: dict[str, Any]) -> str:
    """The worst of what happened."""
    verdict = told["verdict"]
    if verdict in ("crashed", "hung"):
        return str(verdict)
    if any(thread["is_inside"] and not thread["late"] for thread in told["threads"] if not thread["of_python"]):
        return "lost"
    return str(verdict)


def text_lines(asked: argparse.Namespace, counts: dict[str, int], examples: dict[str, dict[str, Any]], worst: Optional[dict[str, Any]],
               command: list[str]) -> Any:
    yield "%d exits%s:" % (asked.runs, ", protected" if asked.protect else "")
    for kind, what in KINDS.items():
        if counts[kind]:
            yield "  %5d  %s%s" % (counts[kind], what, " (the first: seed %d)" % examples[kind]["seed"] if kind != "clean" else "")
    for kind, told in examples.items():
        if kind == "clean":
            continue
        yield "%s, seed %d:" % (KINDS[kind], told["seed"])
        if told["where"]:
            yield from _watch.stack_lines(told["where"]["stack"])
        for culprit in told["culprits"]:
            yield "  %s: %s" % (culprit["library"], culprit["report"])
    if worst:
        again = ["python", "-m", "pep788", "replay-exit", "--runs", "1", "--seed", str(worst["seed"]), "--within-ms", str(asked.within_ms)]
        yield "the worst again, as far as threads run in the same order (with more runs, until it comes): " + " ".join(
            again + ["--protect"] * asked.protect + command[1:])
