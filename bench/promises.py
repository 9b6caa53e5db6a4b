"""What the library promises besides the price of its calls, measured."""

import os
import re
import shutil
import subprocess

import pythons

# What is measured, the unit, and the most it may be.
TARGETS = {
    "first use": 200,
    "first use beside other threads": 200,
    "first use in a subinterpreter": 200,
    "second use in a subinterpreter": 200,
    "modules imported by the first use": 0,
    "exit with no guard out": 100,
    "exit among 5000 threads beyond the grace": 1000,
    "exit among 5000 protected threads": 1000,
    "heap of 10000 threads": 4096,
    # Flat: what differs by less is the noise of CPython's own leaks.
    "heap for each of 1000 subinterpreters": 100,
    "library, stripped": 320,
    "libraries needed beside libc": 0,
}

# `malloc` for everything, and nothing kept back by its caches, so that the heap can be compared to the byte.
EXACT_HEAP = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
# Free-threaded Pythons have an allocator that cannot be replaced; the library's own share is still seen.
EXACT_HEAP_FREE_THREADED = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


def measure(python):
    """Rows for one Python."""
    program = python.compile("promises.c")
    exact = EXACT_HEAP_FREE_THREADED if python.free_threaded else EXACT_HEAP
    least = {}
    # A first use comes once in a process: the least of several.
    runs = [("first", {}), ("first-threads", {})] * 7
    runs += [("exit", {}), ("crowd", {}), ("protected-crowd", {}), ("threads", exact), ("subinterpreters", exact)]
    for what, settings in runs:
        for line in python.run(program, pythons.LIBRARY, what, PYTHONHASHSEED="0", **settings).splitlines():
            name, value, unit = line.split(",")
            least[name, unit] = min(float(value), least.get((name, unit), float("inf")))
    return [row(python.label, name, value, unit) for (name, unit), value in least.items()]


def of_library():
    """Rows for the library, which is the same for all Pythons."""
    rows = []
    if shutil.which("strip") and shutil.which("readelf"):
        stripped = os.path.join(pythons.TARGET, "bench", "stripped.so")
        subprocess.run(["strip", "-o", stripped, pythons.LIBRARY], check=True)
        rows.append(row("all", "library, stripped", round(os.path.getsize(stripped) / 1024, 1), "KiB"))
        dynamic = subprocess.run(["readelf", "-d", pythons.LIBRARY], check=True, stdout=subprocess.PIPE, text=True)
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic.stdout)
        others = [name for name in needed if not re.match(r"(libc\.so|ld-linux)", name)]
        rows.append(row("all", "libraries needed beside libc", len(others), " ".join(others)))
    return rows


def row(python, name, value, unit):
    target = TARGETS[name]
    return {"python": python, "state": "", "caller": "", "pair": name, "threads": "", "measured": value,
            "unit": unit, "reference": "", "ratio": "", "target": target, "met": "met" if value <= target else "missed"}
