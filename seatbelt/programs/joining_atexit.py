"""Threads that are joined by a handler of exit(), after Python has ended."""
# kind: C
import ctypes
import sys
import time

library = ctypes.CDLL(sys.argv[1])
library.stop_owned_at_exit()
library.start_owned_detaching(4)
time.sleep(0.01)
