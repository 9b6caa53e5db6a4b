// An extension module in C++, without a binding library: native threads call a Python function.
#include <pep788.hpp> // includes Python.h, and so comes first

#include <events.h>

namespace {

PyObject *function;          // what Python wants called; kept for ever
pep788::view *interpreter;   // so is this: threads may ask for it at any time

void call()
{
    PyObject *result = PyObject_CallNoArgs(function);
    if (result == nullptr) {
        PyErr_WriteUnraisable(function);
    }
    Py_XDECREF(result);
}

void before(void *)
{
    PyGILState_STATE state = PyGILState_Ensure(); // may crash, or never come back
    call();                                       // so may this
    PyGILState_Release(state);
}

void after(void *)
{
    pep788::attach attached{*interpreter};
    if (attached) {
        call(); // the exit waits for it
    }           // else Python is exiting, or gone
}

PyObject *start(PyObject *callable, void (*callback)(void *))
{
    Py_INCREF(callable);
    function = callable;
    events_start(callback, nullptr);
    Py_RETURN_NONE;
}

PyObject *start_before(PyObject *, PyObject *callable) { return start(callable, before); }

PyObject *start_after(PyObject *, PyObject *callable)
{
    interpreter = new pep788::view(pep788::view::from_current());
    if (!*interpreter) {
        return nullptr;
    }
    return start(callable, after);
}

PyMethodDef methods[] = {
    {"start_before", start_before, METH_O, "With PyGILState_Ensure."},
    {"start", start_after, METH_O, "With PEP 788."},
    {},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "client_cpp", nullptr, -1, methods,
                      nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit_client_cpp()
{
    PyObject *module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED
    if (module != nullptr) {
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
    }
#endif
    return module;
}
