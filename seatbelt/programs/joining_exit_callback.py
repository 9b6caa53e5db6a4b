"""Threads that call back, stopped and joined by an exit callback that is older than they are."""
# kind: A
# status: 7
import atexit
import ctypes
import sys
import time

library = ctypes.CDLL(sys.argv[1])
counts = ctypes.PyDLL(sys.argv[1])


@ctypes.CFUNCTYPE(None)
def callback():
    counts.call_begun()
    sum(range(50))
    counts.call_ended()


atexit.register(library.stop_owned)
library.start_owned_callbacks(callback, 4)
time.sleep(0.01)
sys.exit(7)
