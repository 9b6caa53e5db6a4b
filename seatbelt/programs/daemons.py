"""Daemon threads of Python inside a C++ function that lets go of the GIL and takes it back."""
# kind: D
# status: 7
import ctypes
import sys
import threading
import time

library = ctypes.PyDLL(sys.argv[1])
for _ in range(4):
    threading.Thread(target=library.detach_for_ever, daemon=True).start()
time.sleep(0.01)
sys.exit(7)
