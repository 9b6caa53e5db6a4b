"""`python -m pep788 watch`: runs a program, and says at its end which threads called Python, and what its exit did with them.

The library, preloaded, notes what threads do in a file (`_watch_file.py`), which is read when the process is gone: so there is a report
of a crash too. Without `--protect` the library changes nothing else: the program ends, crashes or hangs as it would have.
"""

import argparse
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Optional

import pep788
from pep788 import _stacks, _watch_file
from pep788._stacks import Frame, Stacks
from pep788._watch_file import Noted, Thread

# What is told of each part of an exit.
PARTS = {
    "joining": "threading joins its threads", "callbacks": "exit callbacks", "waiting": "waiting for calls under way, and for guards",
    "closed": "Python is taken down", "callbacks_over": "Python is taken down", "process_ends": "static destructors, and the process's end",
}
# CPython's functions by which a thread comes back, as they are on stacks.
WAYS = ("PyEval_RestoreThread", "PyEval_AcquireThread", "PyEval_AcquireLock", "PyThreadState_Swap", "_PyEval_EvalFrameDefault")
# From here on CPython has late threads sleep. Before, it unwinds their stacks.
SLEEPS_SINCE = (3, 13, 8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protect", action="store_true", help="with PyGILState_Ensure protected, as by `run`")
    parser.add_argument("--json", metavar="FILE", help="writes the report there too, for programs; `-`: on stdout")
    parser.add_argument("--html", metavar="FILE", help="writes the exit as a page, with a line for each thread")
    parser.add_argument("--perfetto", metavar="FILE", help="writes a trace for ui.perfetto.dev and chrome://tracing")
    parser.add_argument("--hang-after", type=float, default=30, metavar="S",
                        help="ends a program whose exit takes so many seconds once its callbacks have begun, and says where it is; "
                             "0: never (default: 30)")


def main(asked: argparse.Namespace, command: list[str], environment: dict[str, str]) -> int:
    """Runs the command. Returns the exit status of its program, as a shell has it."""
    told = watch(command, environment, asked.hang_after)
    if told is None:
        sys.exit("python -m pep788 watch: the program did not load the library, or is no Python")
    print(text(told), file=sys.stderr, end="", flush=True)
    if asked.json:
        write(asked.json, json.dumps(told, indent=1) + "\n")
    if asked.html or asked.perfetto:
        from pep788 import _timeline

        if asked.html:
            write(asked.html, _timeline.page(told))
        if asked.perfetto:
            write(asked.perfetto, _timeline.perfetto(told))
    ended = told["ended"]
    return 128 + signal.SIGKILL if ended["hung"] else 128 + ended["number"] if "signal" in ended else ended["status"]


def watch(command: list[str], environment: dict[str, str], hang_after: float, output: Optional[int] = None) -> Optional[dict[str, Any]]:
    """Runs the command, with its streams as they are or in `output`. Returns the report, or `None` if there are no notes."""
    with tempfile.NamedTemporaryFile(prefix="pep788-watch-") as file:
        environment = dict(environment, PEP788_WATCH=os.path.realpath(file.name))
        began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        with subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
            hung = wait(process, file.name, hang_after)
        ended = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        with open(file.name, "rb") as data:
            noted = _watch_file.read(memoryview(data.read()))
    return None if noted is None else report(noted, command, process.returncode, hung, began, ended)


def write(path: str, what: str) -> None:
    if path == "-":
        print(what, end="")
        return
    with open(path, "w", encoding="utf-8") as file:
        file.write(what)


# --- Running ------------------------------------------------------------------------------------------


def wait(process: subprocess.Popen, path: str, hang_after: float) -> bool:
    """Waits for the program. Returns whether its exit hung, and was ended."""
    interrupts = 0

    def interrupt(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1

    def passes_on(number: int, _: object) -> None:
        process.send_signal(number)

    # Ctrl-C goes to the program as well. The second one is for an exit that hangs.
    before = {signal.SIGINT: signal.signal(signal.SIGINT, interrupt), signal.SIGTERM: signal.signal(signal.SIGTERM, passes_on)}
    try:
        while True:
            try:
                process.wait(0.1)
                return False
            except subprocess.TimeoutExpired:
                pass
            if has_hung(path, hang_after) or interrupts > 1:
                look(process, path)
                process.kill()
                process.wait()
                return True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def mapped(path: str) -> Optional[memoryview]:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return None
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def has_hung(path: str, hang_after: float) -> bool:
    data = mapped(path)
    header = _watch_file.header(data) if data is not None else None
    # Threads that `threading` joins may work for as long as they like.
    phases = [when for name, when in header.phases.items() if name != "joining"] if header else []
    waited = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - max(phases) if phases else 0
    return hang_after > 0 and waited > hang_after * 1e9


def look(process: subprocess.Popen, path: str) -> None:
    """Has the main thread note where it is, if it takes signals."""
    data = mapped(path)
    header = _watch_file.header(data) if data is not None else None
    if data is None or header is None or not header.look_signal:
        return
    os.kill(process.pid, header.look_signal)
    until = time.monotonic() + 2
    while _watch_file.look(data) is None and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


# --- What the notes say --------------------------------------------------------------------------------


def report(noted: Noted, command: list[str], returncode: int, hung: bool, began: int, ended: int) -> dict[str, Any]:
    """What `--json` writes. Times are in milliseconds since the program began."""
    stops = [stop for stop in (noted.crash, noted.look) if stop]
    stacks = Stacks(noted.modules, [address for thread in noted.threads for address in thread.stack + thread.late_stack]
                    + [address for stop in stops for address in stop.stack])

    def since(when: int) -> Optional[float]:
        return round((when - began) / 1e6, 3) if when else None

    threads = [told_of(thread, noted, stacks, since) for thread in noted.threads]
    stop = noted.look if hung else noted.crash if returncode < 0 else None
    told: dict[str, Any] = {
        "format": 1,
        "python": ".".join(map(str, sys.version_info[:3])),
        "protected": noted.header.is_protected,
        "command": command,
        "process": noted.header.process,
        "ended": {"ms": since(ended), "hung": hung, **({"signal": signal_name(-returncode), "number": -returncode} if returncode < 0 and not hung
                                                     else {"status": returncode if not hung else None})},
        "exit": parts(noted.header.phases, since, ended),
        "where": {"thread": stop.thread, "at_ms": since(stop.when), "stack": [frame._asdict() for frame in stacks.of(stop.stack)]} if stop else None,
        "threads_seen": noted.header.threads_seen,
        "threads": threads,
    }
    told["culprits"] = culprits(told)
    told["verdict"] = verdict(told)
    return told


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def parts(phases: dict[str, int], since: Any, ended: int) -> list[dict[str, Any]]:
    # With the seatbelt, the wait comes in between.
    known = {name: when for name, when in phases.items() if name != "callbacks_over" or "waiting" not in phases}
    order = sorted(known.items(), key=lambda item: item[1])
    ends = [when for _, when in order[1:]] + [ended]
    return [{"part": name, "what": PARTS[name], "at_ms": since(when), "ms": round((end - when) / 1e6, 3)}
            for (name, when), end in zip(order, ends)]


def told_of(thread: Thread, noted: Noted, stacks: Stacks, since: Any) -> dict[str, Any]:
    stack, late_stack = stacks.of(thread.stack), stacks.of(thread.late_stack)
    flags = thread.flags
    exit_began = noted.header.phases.get("waiting") or noted.header.phases.get("callbacks_over") or 0
    late = None
    if thread.late:
        fate = next((name for flag, name in ((_watch_file.ENDED, "ended"), (_watch_file.UNWOUND, "unwound"),
                                             (_watch_file.SLEEPS, "sleeps")) if flags & flag), "unknown")
        late = {"at_ms": since(thread.late), "way": way_of(thread, late_stack), "fate": fate,
                "caller": told_frame(caller_of(late_stack)), "stack": [frame._asdict() for frame in late_stack]}
    is_inside_at_exit = bool(flags & _watch_file.INSIDE_AT_EXIT)
    is_waited_for = is_inside_at_exit and thread.left and (noted.header.is_protected or flags & _watch_file.BY_PEP788)
    # The exit may have given up before.
    waited_until = min(thread.left, noted.header.phases.get("closed", thread.left))
    return {
        "id": thread.id,
        "name": thread.name,
        "of_python": bool(flags & _watch_file.OF_PYTHON),
        "way": own_way_of(thread),
        "is_guarded": bool(flags & _watch_file.BY_PEP788),
        "calls": thread.calls,
        "first_ms": since(thread.first),
        "last_ms": since(thread.last),
        "starter": told_frame(starter_of(stack or late_stack)),
        "caller": told_frame(caller_of(stack or late_stack)),
        "first_function": thread.first_function._asdict() if thread.first_function else None,
        "last_function": thread.last_function._asdict() if thread.last_function else None,
        "inside_at_exit": is_inside_at_exit,
        "left_ms": since(thread.left) if is_inside_at_exit else None,
        "waited_ms": round(max(0, waited_until - exit_began) / 1e6, 3) if is_waited_for else None,
        "is_inside": thread.is_inside,
        "late": late,
        "crashed": bool(noted.crash and noted.crash.thread == thread.id),
        "stack": [frame._asdict() for frame in stack],
    }


def told_frame(frame: Optional[Frame]) -> Optional[dict[str, Any]]:
    return None if frame is None else {"function": frame.function, "library": frame.library, "path": frame.path, "source": frame.source,
                                       "is": str(frame)}


def caller_of(stack: list[Frame]) -> Optional[Frame]:
    """The innermost frame of neither Python nor this library: who calls Python."""
    return next((frame for frame in stack if not frame.is_python() and not frame.is_runtime()), None)


def starter_of(stack: list[Frame]) -> Optional[Frame]:
    """The outermost frame after those in which any thread begins: who made the thread. `None`: Python did."""
    frames = [frame for frame in reversed(stack) if not frame.is_runtime()]
    if not frames or frames[0].is_python():
        return None
    # What C++ and Rust compile into the library to begin a thread tells nothing.
    own = (frame for frame in frames if frame.library == frames[0].library and not frame.is_standard())
    return next(own, frames[0])


def way_of(thread: Thread, stack: list[Frame]) -> str:
    for frame, outer in zip(stack, stack[1:]):
        # The library, too, calls CPython's functions for those that it stands for.
        if frame.is_python() and frame.function in WAYS and not outer.library.startswith("libpep788"):
            return "Python code" if frame.function == "_PyEval_EvalFrameDefault" else str(frame.function)
        if not frame.is_python() and not frame.is_runtime():
            break
    innermost = next((frame for frame in stack if not frame.is_runtime()), None)
    is_by_cpython = innermost is not None and innermost.is_python()
    # From 3.13 on the function is not on the stack: it ends in a jump.
    return "PyEval_RestoreThread" if is_by_cpython and not thread.calls else own_way_of(thread)


def own_way_of(thread: Thread) -> str:
    return "PyEval_AcquireThread" if thread.flags & _watch_file.BY_SCOPE else \
        "PyThreadState_Ensure" if thread.flags & _watch_file.BY_PEP788 else "PyGILState_Ensure"


# --- Verdicts ------------------------------------------------------------------------------------------


def kind_of(thread: dict[str, Any]) -> Optional[str]:
    """What was wrong with a thread: `crashed`, `late`, `inside`. `None`: nothing."""
    if thread["late"]:
        return "late"
    if thread["crashed"]:
        return "crashed"
    if thread["is_guarded"] and (thread["waited_ms"] is not None or not thread["is_inside"]):
        # The exit waits for it, as it should.
        return None
    return "inside" if thread["inside_at_exit"] or thread["is_inside"] else None


def verdict(told: dict[str, Any]) -> str:
    """One word for programs: `crashed`, `hung`, `late`, `inside`, `clean`."""
    if told["ended"]["hung"]:
        return "hung"
    if told["ended"].get("signal") in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"):
        return "crashed"
    kinds = {culprit["kind"] for culprit in told["culprits"]}
    return next((kind for kind in ("late", "inside") if kind in kinds), "clean")


def culprits(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Threads that were wrong in the same way, by the library that made them, and the one that calls Python."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for thread in told["threads"]:
        kind = kind_of(thread)
        if kind:
            caller = (thread["late"] or thread)["caller"] or thread["caller"]
            starter = thread["starter"]
            key = (kind, starter and starter["path"], caller and caller["path"], caller and caller["function"], (thread["late"] or thread)["way"])
            groups.setdefault(key, []).append(thread)
    return [culprit(told, kind, threads) for (kind, *_), threads in groups.items()]


def culprit(told: dict[str, Any], kind: str, threads: list[dict[str, Any]]) -> dict[str, Any]:
    one = threads[0]
    caller = (one["late"] or one)["caller"] or one["caller"]
    starter = one["starter"]
    library = (starter or caller or {"library": "Python's threading"})["library"]
    return {
        "kind": kind, "library": library, "starter": starter, "caller": caller, "way": (one["late"] or one)["way"],
        "threads": [thread["id"] for thread in threads], "report": " ".join(sentences(told, kind, threads, caller, starter)),
    }


def sentences(told: dict[str, Any], kind: str, threads: list[dict[str, Any]], caller: Any, starter: Any) -> Iterator[str]:
    """The line for a bug report."""
    one, many = threads[0], len(threads)
    it = "them" if many > 1 else "it"
    threads_of = "thread%s" % ("s" if many > 1 else "")
    yield "%d native %s, started by %s," % (many, threads_of, starter["is"]) if starter else "%d %s of Python's threading" % (many, threads_of)
    by = (one["late"] or one)["way"]
    through = " in %s" % caller["is"] if caller and (starter is None or caller["is"] != starter["is"]) else ""
    if kind == "late":
        yield "came back to Python by %s%s when it was finalizing, or gone." % (by, through)
        yield crash_of(told) if any(thread["crashed"] for thread in threads) else FATES[one["late"]["fate"]](told) % {"it": it}
        if one["late"]["fate"] == "ended":
            yield without_protection(told) % {"it": it}
    elif kind == "crashed":
        yield "called Python by %s%s." % (by, through)
        yield crash_of(told)
    else:
        yield "%s inside a call (%s%s) when Python exited." % ("were" if many > 1 else "was", by, through)
        waited = [thread["waited_ms"] for thread in threads if thread["waited_ms"] is not None]
        if waited:
            yield "The exit waited %.0f ms for %s." % (max(waited), it)
        elif told["protected"]:
            yield "The exit did not wait any longer."


def without_protection(told: dict[str, Any]) -> str:
    if version(told) >= SLEEPS_SINCE:
        return "Without the seatbelt CPython %s lets %%(it)s sleep without end, and whoever joins %%(it)s." % told["python"]
    return ("Without the seatbelt CPython %s unwinds %%(it)s (pthread_exit): `noexcept` and Rust turn that into an abort, and destructors run in the "
            "middle of work." % told["python"])


def version(told: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(number) for number in told["python"].split("."))


def crash_of(told: dict[str, Any]) -> str:
    how = told["ended"].get("signal")
    return "It ended the process by %s." % how if how else "It crashed."


FATES = {
    "ended": lambda told: "The seatbelt ended %(it)s, without unwinding.",
    "unwound": lambda told: "CPython %s unwound %%(it)s (pthread_exit): `noexcept` and Rust turn that into an abort." % told["python"]
    + (" The process ended by %s." % told["ended"]["signal"] if told["ended"].get("signal") else ""),
    "sleeps": lambda told: "CPython %s lets %%(it)s sleep without end, and whoever joins %%(it)s." % told["python"]
    + (" This exit hung." if told["ended"]["hung"] else ""),
    "unknown": lambda told: "What became of %(it)s is not known."
    + (" The process ended by %s." % told["ended"]["signal"] if told["ended"].get("signal") else ""),
}


# --- Text ----------------------------------------------------------------------------------------------

SHOWN = 20


def text(told: dict[str, Any]) -> str:
    return "".join("pep788: %s\n" % line for line in text_lines(told))


def text_lines(told: dict[str, Any]) -> Iterator[str]:
    ended = told["ended"]
    how = "hung in its exit, and was ended" if ended["hung"] else "was ended by %s" % ended["signal"] if "signal" in ended \
        else "ended with status %d" % ended["status"]
    yield "the program %s, after %.1f s, on Python %s%s" % (how, ended["ms"] / 1e3, told["python"],
                                                            ", protected" if told["protected"] else "")
    if told["where"]:
        yield "it was in (thread %d):" % told["where"]["thread"]
        yield from stack_lines(told["where"]["stack"])
    native = [thread for thread in told["threads"] if not thread["of_python"] or kind_of(thread)]
    if native:
        yield "threads that called Python:"
    groups = alike(native)
    for threads in groups[:SHOWN]:
        thread = threads[0]
        calls = sum(one["calls"] for one in threads)
        yield "  %s%s%s" % (named(threads), ", %d calls by %s" % (calls, thread["way"]) if calls else "", state(thread))
        if thread["starter"]:
            yield "      started by %s" % thread["starter"]["is"]
        if thread["caller"] and thread["caller"] != thread["starter"]:
            yield "      calls from %s" % thread["caller"]["is"]
        for which, function in (("first", thread["first_function"]), ("last", thread["last_function"])):
            if function and (which == "first" or function != thread["first_function"]):
                yield "      %s Python function noted: %s, %s:%d" % (which, function["name"], function["file"], function["line"])
    more = sum(map(len, groups[SHOWN:])) + told["threads_seen"] - len(told["threads"])
    if more > 0:
        yield "  and %d more" % more
    if told["exit"]:
        yield "the exit took %.1f ms:" % sum(part["ms"] for part in told["exit"])
        for part in told["exit"]:
            yield "  %8.1f ms  %s" % (part["ms"], part["what"])
    if told["culprits"]:
        yield "for a bug report:"
        for culprit in told["culprits"]:
            yield "  %s: %s" % (culprit["library"], culprit["report"])
    elif told["verdict"] == "clean":
        yield "no thread was inside Python when it exited, and none came too late"
    if not _stacks.HAS_ELFTOOLS:
        yield "functions have no names here without pyelftools: pip install 'pep788[scan]'"


def stack_lines(stack: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of the innermost frames, without those of the library."""
    frames = [Frame(**frame) for frame in stack if not frame["library"].startswith("libpep788")]
    return ("    " + str(frame) for frame in frames[:SHOWN])


def alike(threads: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Those together of which the same is to be told."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for thread in threads:
        function = thread["first_function"]
        key = (thread["name"], thread["way"], state(thread), *(thread[end] and thread[end]["is"] for end in ("starter", "caller")),
               function and function["name"])
        groups.setdefault(key, []).append(thread)
    return list(groups.values())


def named(threads: list[dict[str, Any]]) -> str:
    ids = ", ".join(str(thread["id"]) for thread in threads[:SHOWN]) + (", ..." if len(threads) > SHOWN else "")
    kind = "native" if threads[0]["starter"] else "Python"
    return "%d %s thread%s \"%s\" (id%s %s)" % (len(threads), kind, "s"[len(threads) < 2:], threads[0]["name"], "s"[len(threads) < 2:], ids)


def state(thread: dict[str, Any]) -> str:
    if thread["crashed"]:
        return ": CRASHED"
    if thread["late"]:
        return ": came TOO LATE (%s)" % thread["late"]["fate"]
    if thread["inside_at_exit"] or thread["is_inside"]:
        waited = thread["waited_ms"]
        return ": INSIDE when Python exited" + (", which waited %.0f ms for it" % waited if waited is not None else "")
    return ""
