"""A fork while threads call back; the child calls back from threads of its own."""
# not for: free-threaded, a fork leaves CPython's lock of stop-the-world taken in the child now and then (3.13.5)
import ctypes
import os
import sys
import time
import warnings

warnings.simplefilter("ignore")
library = ctypes.PyDLL(sys.argv[1])


@ctypes.CFUNCTYPE(None)
def callback():
    sum(range(50))


library.start_callbacks(callback, 4)
time.sleep(0.005)
child = os.fork()
if child == 0:
    library.start_callbacks(callback, 2)
time.sleep(0.01)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)
