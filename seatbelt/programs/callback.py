"""A `ctypes` callback that a C++ library calls from its threads."""
import ctypes
import sys
import time

library = ctypes.PyDLL(sys.argv[1])


@ctypes.CFUNCTYPE(None)
def callback():
    library.call_begun()
    sum(range(50))
    library.call_ended()


library.start_callbacks(callback, 4)
time.sleep(0.01)
