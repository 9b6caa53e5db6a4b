"""Threads that call back, stopped and joined by an exit callback that is older than they are; by each toolkit for extensions."""
# kind: A
# toolkits: pybind11 nanobind cython cffi pyo3 swig
# status: 7
import atexit
import importlib
import sys
import time

module = importlib.import_module("owner_" + sys.argv[2])


def callback(work=sum, numbers=range(50)):
    work(numbers)


atexit.register(module.stop)
module.start(callback, 4)
time.sleep(0.01)
sys.exit(7)
