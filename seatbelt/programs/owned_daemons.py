"""Daemon threads of Python in a function that lets go of the GIL and takes it back; by each toolkit for extensions."""
# kind: D
# toolkits: pybind11 nanobind cython cffi pyo3 swig
# status: 7
import importlib
import sys
import threading
import time

module = importlib.import_module("owner_" + sys.argv[2])
for _ in range(4):
    threading.Thread(target=module.detach_for_ever, daemon=True).start()
time.sleep(0.01)
sys.exit(7)
