"""Threads that let go of the GIL inside a call, and call again."""
import ctypes
import sys
import time

ctypes.CDLL(sys.argv[1]).start_detaching(4)
time.sleep(0.01)
