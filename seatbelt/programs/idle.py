"""Threads that called once, and wait for something ever since."""
# kind: G
import ctypes
import sys
import time

library = ctypes.CDLL(sys.argv[1])


@ctypes.CFUNCTYPE(None)
def callback():
    sum(range(50))


library.start_resting(callback, 4, -1)
time.sleep(0.05)
print("leaving", time.monotonic_ns(), file=sys.stderr, flush=True)
