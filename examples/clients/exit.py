"""A script that exits while native threads call it: exit.py MODULE FUNCTION.

MODULE.FUNCTION(callback) starts the threads; a MODULE that is a path is a plain shared library.
"""

import ctypes
import itertools
import json
import os
import sys
import threading
import time

CALLS_BEFORE_EXIT = 20

calls = itertools.count(1)
warmed_up = threading.Event()
log = open(os.devnull, "w")


def callback():
    record = json.dumps({"samples": list(range(1000))})
    if next(calls) == CALLS_BEFORE_EXIT:
        warmed_up.set()
        time.sleep(0.1)  # so that the exit finds at least this call
    else:
        time.sleep(0.001)  # for a device, say
    print(record, file=log, flush=True)


module, function = sys.argv[1:]
if os.sep in module:
    start = getattr(ctypes.PyDLL(module), function)
    start.argtypes, start.restype = [ctypes.py_object], None
else:
    start = getattr(__import__(module), function)
start(callback)
warmed_up.wait()
