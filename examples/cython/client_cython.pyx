# cython: language_level=3, freethreading_compatible=True
# An extension module in Cython: native threads call a Python function.
from pep788 cimport (
    PyInterpreterView, PyInterpreterView_FromCurrent,
    PyThreadState_EnsureFromView, PyThreadState_Release, PyThreadStateToken,
)

cdef extern from "events.h" nogil:
    void events_start(void (*callback)(void *) noexcept nogil, void *arg)

cdef object function                    # what Python wants called
cdef PyInterpreterView *interpreter     # kept for ever: threads may ask for it at any time


cdef void before(void *arg) noexcept nogil:
    with gil:                           # may crash, or never come back
        function()                      # so may this


cdef void after(void *arg) noexcept nogil:
    cdef PyThreadStateToken *token = PyThreadState_EnsureFromView(interpreter)
    if token == NULL:
        return                          # Python is exiting, or gone
    with gil:                           # is attached already, says this to Cython
        function()                      # the exit waits for it
    PyThreadState_Release(token)


def start_before(callable):
    global function
    function = callable
    events_start(before, NULL)


def start(callable):
    global function, interpreter
    function = callable
    interpreter = PyInterpreterView_FromCurrent()
    events_start(after, NULL)
