# distutils: language = c++
# cython: language_level = 3
"""Threads that are owned, in Cython."""
cdef extern from "<functional>" namespace "std" nogil:
    cdef cppclass Call "std::function<void()>":
        pass

cdef extern from *:
    """
    #include "owner.h"

    typedef void (*Calls)(void *);
    static std::function<void()> calling(Calls calls, void *function)
    {
        return [=] { calls(function); };
    }

    // Destroyed after Python's end, unless it was stopped before.
    static Owner owner;
    """
    ctypedef void (*Calls)(void *) noexcept
    Call calling(Calls, void *)
    cdef cppclass Threads "Owner":
        Threads()
        void start(Call, int) nogil
        void stop() nogil
    Threads owner

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned)

cdef extern from "Python.h":
    void Py_INCREF(object)


cdef void calls(void *function) noexcept with gil:
    try:
        (<object>function)()
    except BaseException:
        pass


cdef class Owner:
    cdef Threads threads

    def __init__(self, function, int count):
        Py_INCREF(function)     # never given back: its threads may have the last reference
        self.threads.start(calling(calls, <void *>function), count)

    def __dealloc__(self):
        with nogil:
            self.threads.stop()


def start(function, int count):
    Py_INCREF(function)
    owner.start(calling(calls, <void *>function), count)


def stop():
    with nogil:
        owner.stop()


def detach_for_ever():
    while True:
        with nogil:
            usleep(20)
