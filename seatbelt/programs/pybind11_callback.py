"""pybind11's `gil_scoped_acquire`, as it was released."""
# needs: pybind11
# module: pybind11_module.cc
import sys
import time

import pybind11_module


def callback():
    sum(range(50))


pybind11_module.start(callback, 4)
time.sleep(0.01)
