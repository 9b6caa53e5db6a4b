"""Threads that call `PyGILState_Ensure` inside one another."""
import ctypes
import sys
import time

ctypes.CDLL(sys.argv[1]).start_nesting(4)
time.sleep(0.01)
