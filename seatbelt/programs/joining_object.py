"""An object of the main module that owns threads which call back; its destructor stops and joins them."""
# kind: B
# status: 1
import ctypes
import sys
import time

library = ctypes.CDLL(sys.argv[1])


@ctypes.CFUNCTYPE(None)
def callback():
    sum(range(50))


class Owner:
    def __init__(self):
        self.callback, self.stop = callback, library.stop_owned
        library.start_owned_callbacks(callback, 4)

    def __del__(self):
        self.stop()


owner = Owner()
time.sleep(0.01)
raise KeyError("the status is 1")
