"""pybind11's `gil_scoped_acquire`, as it was released."""
# module: callback_pybind11
import sys
import time

import callback_pybind11


def callback():
    sum(range(50))


callback_pybind11.start(callback, 4)
time.sleep(0.01)
