# pep788.pxd: guards and views for Cython 3, over pep788.h, which says what each function does.
#
#     from pep788 cimport PyInterpreterView, PyInterpreterView_FromCurrent
#
# with the folder of this file and of the headers in Cython's and the C compiler's include paths.

cdef extern from "pep788.h" nogil:
    ctypedef struct PyInterpreterGuard:
        pass

    ctypedef struct PyInterpreterView:
        pass

    # void, by another name.
    ctypedef void PyThreadStateToken

    # Any thread may call these, attached or not. NULL comes without an exception.
    PyInterpreterGuard *PyInterpreterGuard_FromView(PyInterpreterView *view)
    void PyInterpreterGuard_Close(PyInterpreterGuard *guard)

    PyInterpreterView *PyInterpreterView_FromMain()
    void PyInterpreterView_Close(PyInterpreterView *view)

    # Cython does not know of what these attach: `with gil` in between, which finds it attached.
    PyThreadStateToken *PyThreadState_Ensure(PyInterpreterGuard *guard)
    PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *view)
    void PyThreadState_Release(PyThreadStateToken *token)

cdef extern from "pep788_keep.h" nogil:
    # The calling thread keeps the thread state that an Ensure makes for it (1), or no longer does (0). -1: it cannot be.
    int Pep788_KeepThreadState(int keep)

cdef extern from "pep788.h":
    # With an attached thread state only.
    PyInterpreterGuard *PyInterpreterGuard_FromCurrent() except NULL
    PyInterpreterView *PyInterpreterView_FromCurrent() except NULL
