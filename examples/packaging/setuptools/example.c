/* A native thread calls a Python function until Python exits. */

#include <pep788.h>
#include <pthread.h>

static PyInterpreterView *view;
static PyObject *function;

static void *call_until_refused(void *unused)
{
    PyThreadStateToken *token;
    while ((token = PyThreadState_EnsureFromView(view)) != NULL) {
        PyObject *result = PyObject_CallObject(function, NULL);
        if (result == NULL) {
            PyErr_WriteUnraisable(function);
        }
        Py_XDECREF(result);
        PyThreadState_Release(token);
    }
    return unused; /* Python is gone; the function is not given back */
}

static PyObject *start(PyObject *module, PyObject *callable)
{
    pthread_t thread;
    (void)module;
    if (view != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "started already");
        return NULL;
    }
    if ((view = PyInterpreterView_FromCurrent()) == NULL) {
        return NULL;
    }
    Py_INCREF(callable);
    function = callable;
    if (pthread_create(&thread, NULL, call_until_refused, NULL) != 0) {
        return PyErr_NoMemory();
    }
    pthread_detach(thread);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"start", start, METH_O, "Has a native thread call the function until Python exits."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "example", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_example(void)
{
    return PyModule_Create(&definition);
}
