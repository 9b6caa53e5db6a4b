"""Threads that are owned, through cffi."""
import sys

import cffi

ffi = cffi.FFI()
ffi.cdef("void start_owned_callbacks(void (*)(void), int); void stop_owned(void); int usleep(unsigned);")
library = ffi.dlopen(sys.argv[1])
libc = ffi.dlopen(None)
stop = library.stop_owned


def start(callback, threads):
    global kept
    kept = ffi.callback("void(void)", callback)
    library.start_owned_callbacks(kept, threads)


class Owner:
    def __init__(self, callback, threads):
        self.stop = stop
        start(callback, threads)

    def __del__(self):
        self.stop()


def detach_for_ever():
    while True:
        libc.usleep(20)
