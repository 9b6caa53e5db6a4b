"""Several copies of libpep788 in one process: scenarios.py SCENARIO COPY[,COPY...]

The copies are used for the first time in the order given, so their exit callbacks run in the opposite
one. `run` builds the modules, and compares what is printed here with what it expects.
"""

import atexit
import importlib
import os
import sys
import threading

import driver

NATIVE = sys.version_info >= (3, 15) and os.environ.get("PEP788_ENGINE") != "backport"


def tables(names):
    return [importlib.import_module(name).table for name in names]


def first_use(names):
    """In alphabetical order; what comes after is in the order of `names`."""
    driver.nested(tables(sorted(names)))
    return tables(names)


def say(*words):
    """A line in one piece: threads print at the same time."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def report(calls={}):
    """A function that prints a copy's name when it is called for the 50th time for it."""

    def called(name):
        calls[name] = calls.get(name, 0) + 1
        if calls[name] == 50:
            say(name, calls[name])

    return called


def guards(names):
    """A thread of each copy works under its guard, once the exit has begun, one after the other."""
    driver.start("guards", first_use(names), report())
    atexit.register(driver.go)


def late(names):
    """The same, and what those threads start is joined."""
    begun = []

    def work_late(name):
        sum(range(1000000))
        say(name, "late")

    def called(name):
        if name not in begun:
            begun.append(name)
            threading.Thread(target=work_late, args=[name], daemon=False).start()

    driver.start("guards", first_use(names), called)
    atexit.register(driver.go)


def daemons(names):
    """A thread of each copy works with a thread state that it made non-daemon."""
    driver.start("daemons", first_use(names), report())
    atexit.register(driver.go)


class Dropped:
    """Calls it when `atexit` gives up its list. CPython does not call what is registered while exit callbacks run."""

    def __init__(self, function):
        self.function = function

    def __call__(self):
        raise AssertionError("called")

    def __del__(self):
        self.function()


def views(names):
    """A thread of each copy is served before the exit, and refused after; so is this thread after
    all copies have waited, where the library does."""
    if not NATIVE:
        atexit.register(lambda: atexit.register(Dropped(driver.check_refused)))
    driver.start("views", first_use(names), lambda name: say(name, "served"))


def nested(names):
    driver.nested(tables(names))
    say("nested")


def fork(names):
    """The child waits for nobody; the parent as if there had been none."""
    called = report()
    driver.start("guards", first_use(names), called)
    child = os.fork()
    if child == 0:
        driver.check_child()
        sys.exit(3)
    status = os.waitpid(child, 0)[1]
    say("child", os.WEXITSTATUS(status) if os.WIFEXITED(status) else status)
    atexit.register(driver.go)


def doctor(names):
    for name, table in zip(names, tables(names)):
        say(name + "\n" + driver.doctor(table))


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2].split(","))
