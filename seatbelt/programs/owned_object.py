"""An object of the main module that owns threads which call back, and joins them as it goes; by each toolkit for extensions."""
# kind: B
# toolkits: pybind11 nanobind cython cffi pyo3 swig
# status: 1
import importlib
import sys
import time

module = importlib.import_module("owner_" + sys.argv[2])


def callback(work=sum, numbers=range(50)):
    work(numbers)


owner = module.Owner(callback, 4)
time.sleep(0.01)
raise KeyError("the status is 1")
