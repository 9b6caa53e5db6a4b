/* A native thread that calls a Python function ten times while the interpreter exits, which waits for
 * its guard. */
#include <pep788.h>

#include <stdlib.h>

#define JOINED_(a, b) a##b
#define JOINED(a, b) JOINED_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

static PyInterpreterGuard *guard;
static PyObject *callable;

static void work(void *unused)
{
    (void)unused;
    for (int i = 0; i < 10; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        if (token == NULL) {
            abort();
        }
        PyObject *result = PyObject_CallObject(callable, NULL);
        if (result == NULL) {
            PyErr_WriteUnraisable(callable);
        }
        Py_XDECREF(result);
        PyThreadState_Release(token);
    }
    PyInterpreterGuard_Close(guard);
}

static PyObject *start(PyObject *self, PyObject *argument)
{
    (void)self;
    guard = PyInterpreterGuard_FromCurrent();
    if (guard == NULL) {
        return NULL;
    }
    Py_INCREF(argument);
    callable = argument;
    /* A plain thread of the system's, on every system. */
    if (PyThread_start_new_thread(work, NULL) == PYTHREAD_INVALID_THREAD_ID) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"start", start, METH_O, NULL}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = TEXT(NAME),
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC JOINED(PyInit_, NAME)(void)
{
    return PyModule_Create(&definition);
}
