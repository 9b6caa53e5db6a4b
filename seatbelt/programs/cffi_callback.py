"""The same through `cffi`."""
# needs: cffi
import ctypes
import sys
import time

import cffi

library = ctypes.PyDLL(sys.argv[1])
ffi = cffi.FFI()
ffi.cdef("void start_callbacks(void (*)(void), int);")


@ffi.callback("void(void)")
def callback():
    library.call_begun()
    sum(range(50))
    library.call_ended()


ffi.dlopen(sys.argv[1]).start_callbacks(callback, 4)
time.sleep(0.01)
