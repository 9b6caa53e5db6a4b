"""Threads that are joined by the destructor of a static object, after Python has ended."""
# kind: C
# status: 7
import ctypes
import sys
import time

ctypes.CDLL(sys.argv[1]).start_owned_nesting(4)
time.sleep(0.01)
sys.exit(7)
