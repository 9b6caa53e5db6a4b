"""Threads that call back, joined by the destructor of a static object, after Python has ended; by each toolkit for extensions.

Not by PyO3: `JoinHandle::join` panics where a thread left no result (docs/semantics.md).
"""
# kind: C
# toolkits: pybind11 nanobind cython cffi swig
# status: 7
import importlib
import sys
import time

module = importlib.import_module("owner_" + sys.argv[2])


def callback(work=sum, numbers=range(50)):
    work(numbers)


module.start(callback, 4)
time.sleep(0.01)
sys.exit(7)
