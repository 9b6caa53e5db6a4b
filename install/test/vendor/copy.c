/* An extension module that uses libpep788, in whichever way it is linked: its `table` is the address
 * of its `struct copy`. Built several times, with NAME for the module's name. */
#include <pep788.h>
#include <pep788_doctor.h>

#include "copy.h"

#define JOINED_(a, b) a##b
#define JOINED(a, b) JOINED_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

/* Of the extension's own: more thread-local storage than a C library keeps in reserve for late modules. */
__attribute__((used)) static __thread char storage[4096];

static void *guard(void) { return PyInterpreterGuard_FromCurrent(); }
static void *guard_from_view(void *view) { return PyInterpreterGuard_FromView(view); }
static void close_guard(void *guard) { PyInterpreterGuard_Close(guard); }
static void *view(void) { return PyInterpreterView_FromCurrent(); }
static void close_view(void *view) { PyInterpreterView_Close(view); }
static void *ensure(void *guard) { return PyThreadState_Ensure(guard); }
static void *ensure_from_view(void *view) { return PyThreadState_EnsureFromView(view); }
static void release(void *token) { PyThreadState_Release(token); }

static struct copy copy = {
    .name = TEXT(NAME),
    .guard = guard,
    .guard_from_view = guard_from_view,
    .close_guard = close_guard,
    .view = view,
    .close_view = close_view,
    .ensure = ensure,
    .ensure_from_view = ensure_from_view,
    .release = release,
    .doctor = Pep788_Doctor,
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = TEXT(NAME), .m_size = -1};

PyMODINIT_FUNC JOINED(PyInit_, NAME)(void)
{
    fill_in_draft(&copy);
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL
        && PyModule_AddObject(module, "table", PyLong_FromVoidPtr(&copy)) != 0) {
        Py_CLEAR(module);
    }
    return module;
}
