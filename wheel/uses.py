"""uses.py: imports the package and uses it, where a wheel cannot be installed and nothing can be compiled. Ends with status 7.

PEP 788's functions are called in the main thread. Then `PyGILState` is protected, and two threads of the C library's call Python back: one of
them ends before the exit, the other one is in Python when Python exits.
"""

import ctypes
import os
import sys
import time

import pep788

# PyDLL: the calling thread stays attached.
library = ctypes.PyDLL(pep788.get_library())
library.PyInterpreterView_FromCurrent.restype = ctypes.c_void_p
library.PyThreadState_EnsureFromView.argtypes = [ctypes.c_void_p]
library.PyThreadState_EnsureFromView.restype = ctypes.c_void_p
library.PyThreadState_Release.argtypes = [ctypes.c_void_p]
library.PyInterpreterView_Close.argtypes = [ctypes.c_void_p]
library.Pep788_Version.restype = ctypes.c_char_p

system = ctypes.CDLL(None)
routine = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
began = []


def attach_by_view():
    view = library.PyInterpreterView_FromCurrent()
    assert view, "there is no view"
    token = library.PyThreadState_EnsureFromView(view)
    assert token, "the interpreter refuses its own thread"
    library.PyThreadState_Release(token)
    library.PyInterpreterView_Close(view)


def start(function):
    thread = ctypes.c_void_p()
    assert system.pthread_create(ctypes.byref(thread), None, function, None) == 0, "there is no thread"
    return thread


@routine
def call_once(_):
    began.append("once")


@routine
def call_for_ever(_):
    began.append("for ever")
    while True:
        time.sleep(0.001)


attach_by_view()
pep788.protect_gilstate()
system.pthread_join(start(call_once), None)
assert began == ["once"], began
start(call_for_ever)
while len(began) < 2:
    time.sleep(0.001)
print("used by %s %d.%d on %s: %s" % (sys.implementation.name, *sys.version_info[:2], os.uname().machine, library.Pep788_Version().decode()), flush=True)
sys.exit(7)
