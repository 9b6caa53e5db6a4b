"""Threads that never come to their `PyGILState_Release`."""
# wait: 200
import ctypes
import sys
import time

ctypes.CDLL(sys.argv[1]).start_staying(4)
time.sleep(0.01)
