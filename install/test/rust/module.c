/* An extension module with two Rust libraries in it: libpep788's static one, and other.rs. */

#include <Python.h>

#include "pep788.h"

int other_catches(void);

static PyObject *serves(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    if (guard == NULL) {
        return NULL;
    }
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    if (token == NULL) {
        PyInterpreterGuard_Close(guard);
        return PyErr_NoMemory();
    }
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);
    return PyLong_FromLong(other_catches());
}

static PyMethodDef methods[] = {
    {"serves", serves, METH_NOARGS, "1: libpep788 serves, and the other library catches its panic."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "module", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_module(void)
{
    return PyModule_Create(&definition);
}
