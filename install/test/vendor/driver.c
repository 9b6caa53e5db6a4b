/* What the scenarios do with several copies of libpep788 in one process. It has none itself: it knows
 * the copies by their tables. */
#include <Python.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "copy.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            _exit(99);                                                                             \
        }                                                                                          \
    } while (0)

#define CALLS 50
#define MOST_COPIES 3

/* A native thread that uses one copy. */
struct worker {
    const struct copy *copy;
    int number;
    void *handle;
    pthread_t thread;
};

static struct worker workers[MOST_COPIES];
static int count;
/* Called with a copy's name. */
static PyObject *callable;
static void *(*work)(void *worker);
static pid_t process;

/* The workers take turns, in the order of the list. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int turn = -1;
static int ready;

static void advance(int *what)
{
    pthread_mutex_lock(&mutex);
    ++*what;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

static void wait_for(const int *what, int value)
{
    pthread_mutex_lock(&mutex);
    while (*what < value) {
        pthread_cond_wait(&changed, &mutex);
    }
    pthread_mutex_unlock(&mutex);
}

static void call(const struct worker *worker)
{
    PyObject *result = PyObject_CallFunction(callable, "s", worker->copy->name);
    CHECK(result != NULL);
    Py_DECREF(result);
}

/* Its guard is all that keeps the interpreter. */
static void *with_a_guard(void *argument)
{
    struct worker *self = argument;
    advance(&ready);
    wait_for(&turn, self->number);
    for (int i = 0; i < CALLS; i++) {
        void *token = self->copy->ensure(self->handle);
        CHECK(token != NULL);
        call(self);
        self->copy->release(token);
    }
    self->copy->close_guard(self->handle);
    advance(&turn);
    return NULL;
}

/* Its thread state is all that keeps the interpreter. */
static void *non_daemon(void *argument)
{
    struct worker *self = argument;
    PyGILState_STATE gil = PyGILState_Ensure();
    CHECK(self->copy->get_daemon() == 1);
    CHECK(self->copy->set_daemon(0) == 0);
    CHECK(self->copy->get_daemon() == 0);
    PyThreadState *state = PyEval_SaveThread();
    advance(&ready);
    wait_for(&turn, self->number);
    for (int i = 0; i < CALLS; i++) {
        PyEval_RestoreThread(state);
        call(self);
        PyEval_SaveThread();
    }
    PyEval_RestoreThread(state);
    PyGILState_Release(gil);
    advance(&turn);
    return NULL;
}

/* Nothing keeps the interpreter, and it is gone when the turn comes. */
static void *with_a_view(void *argument)
{
    struct worker *self = argument;
    void *token = self->copy->ensure_from_view(self->handle);
    CHECK(token != NULL);
    call(self);
    self->copy->release(token);
    advance(&ready);
    wait_for(&turn, self->number);
    CHECK(self->copy->ensure_from_view(self->handle) == NULL);
    CHECK(self->copy->guard_from_view(self->handle) == NULL);
    self->copy->close_view(self->handle);
    printf("%s refuses\n", self->copy->name);
    advance(&turn);
    return NULL;
}

/* When the process exits; Python is gone. */
static void finish(void)
{
    if (getpid() != process) {
        return;
    }
    if (work == with_a_view) {
        advance(&turn);
    }
    for (int i = 0; i < count; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    puts("finalized");
    fflush(stdout);
}

static int take_copies(PyObject *tables)
{
    count = (int)PyList_Size(tables);
    CHECK(count <= MOST_COPIES);
    for (int i = 0; i < count; i++) {
        workers[i].copy = PyLong_AsVoidPtr(PyList_GetItem(tables, i));
        workers[i].number = i;
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* start(what, tables, callable): a thread for each copy, ready when it returns. */
static PyObject *start(PyObject *self, PyObject *arguments)
{
    const char *what;
    PyObject *tables;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "sO!O", &what, &PyList_Type, &tables, &callable)
        || take_copies(tables) != 0) {
        return NULL;
    }
    Py_INCREF(callable);
    process = getpid();
    work = strcmp(what, "guards") == 0 ? with_a_guard
        : strcmp(what, "views") == 0   ? with_a_view
                                       : non_daemon;
    CHECK(atexit(finish) == 0);
    for (int i = 0; i < count; i++) {
        struct worker *worker = &workers[i];
        worker->handle = work == with_a_guard ? worker->copy->guard()
            : work == with_a_view             ? worker->copy->view()
                                              : worker;
        CHECK(worker->handle != NULL);
        CHECK(pthread_create(&worker->thread, NULL, work, worker) == 0);
    }
    Py_BEGIN_ALLOW_THREADS
    wait_for(&ready, count);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* go(): the first worker's turn. */
static PyObject *go(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    advance(&turn);
    Py_RETURN_NONE;
}

/* check_refused(): in a Python that every copy is done with. */
static PyObject *check_refused(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    for (int i = 0; i < count; i++) {
        CHECK(workers[i].copy->ensure_from_view(workers[i].handle) == NULL);
        CHECK(workers[i].copy->guard() == NULL);
        PyErr_Clear();
    }
    puts("all refuse");
    fflush(stdout);
    Py_RETURN_NONE;
}

/* check_child(): in a forked child. The guards of the parent's threads are none here, and every copy
 * works. */
static PyObject *check_child(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    for (int i = 0; i < count; i++) {
        const struct copy *copy = workers[i].copy;
        copy->close_guard(workers[i].handle);
        void *guard = copy->guard();
        CHECK(guard != NULL);
        void *token = copy->ensure(guard);
        CHECK(token != NULL);
        call(&workers[i]);
        copy->release(token);
        copy->close_guard(guard);
    }
    Py_RETURN_NONE;
}

/* --- Ensures of one copy inside those of another --- */

static const int orders[][MOST_COPIES] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                          {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
static void *main_views[MOST_COPIES], *sub_views[MOST_COPIES];
static PyInterpreterState *main_interpreter, *sub_interpreter;

/* All three get the same thread state; each Release leaves it attached, the last one deletes it. */
static void nest_attached(const int *order, int with_references)
{
    void *tokens[MOST_COPIES];
    PyThreadState *state = NULL;
    for (int i = 0; i < count; i++) {
        const struct copy *copy = workers[order[i]].copy;
        if (with_references && i == 1) {
            void *reference = copy->reference();
            CHECK(reference != NULL);
            CHECK(copy->ensure_reference(reference) == 0);
            copy->close_reference(reference);
            CHECK(copy->get_daemon() == 0);
        } else {
            tokens[i] = copy->ensure_from_view(main_views[order[i]]);
            CHECK(tokens[i] != NULL);
        }
        CHECK(state == NULL || state == PyThreadState_Get());
        state = PyThreadState_Get();
    }
    for (int i = count - 1; i >= 0; i--) {
        CHECK(PyThreadState_Get() == state);
        if (with_references && i == 1) {
            workers[order[i]].copy->release_reference();
        } else {
            workers[order[i]].copy->release(tokens[i]);
        }
    }
    CHECK(PyGILState_GetThisThreadState() == NULL);
}

/* Each detaches, and the next attaches the same one again. */
static void nest_detached(const int *order)
{
    void *tokens[MOST_COPIES];
    PyThreadState *states[MOST_COPIES];
    for (int i = 0; i < count; i++) {
        tokens[i] = workers[order[i]].copy->ensure_from_view(main_views[order[i]]);
        CHECK(tokens[i] != NULL);
        states[i] = PyEval_SaveThread();
        CHECK(states[i] == states[0]);
    }
    for (int i = count - 1; i >= 0; i--) {
        PyEval_RestoreThread(states[i]);
        workers[order[i]].copy->release(tokens[i]);
    }
    CHECK(PyGILState_GetThisThreadState() == NULL);
}

/* To and fro between two interpreters. */
static void nest_in_two(const int *order)
{
    enum { LEVELS = 6 };
    void *tokens[LEVELS];
    PyThreadState *states[LEVELS];
    for (int i = 0; i < LEVELS; i++) {
        int copy = order[i % count];
        void *view = i % 2 ? sub_views[copy] : main_views[copy];
        tokens[i] = workers[copy].copy->ensure_from_view(view);
        CHECK(tokens[i] != NULL);
        states[i] = PyThreadState_Get();
        CHECK(PyThreadState_GetInterpreter(states[i])
              == (i % 2 ? sub_interpreter : main_interpreter));
        CHECK(PyRun_SimpleString("import sys") == 0);
        PyGILState_Release(PyGILState_Ensure());
    }
    for (int i = LEVELS - 1; i >= 0; i--) {
        CHECK(PyThreadState_Get() == states[i]);
        workers[order[i % count]].copy->release(tokens[i]);
    }
    CHECK(PyGILState_GetThisThreadState() == NULL);
}

/* One thread state: each copy knows what was asked of it, and of it alone. */
static void hold_apart(void)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    for (int i = 0; i < count; i++) {
        CHECK(workers[i].copy->get_daemon() == 1);
        CHECK(workers[i].copy->set_daemon(0) == 0);
    }
    for (int i = 0; i < count; i++) {
        CHECK(workers[i].copy->get_daemon() == 0);
        CHECK(workers[i].copy->set_daemon(1) == 0);
        CHECK(workers[i].copy->get_daemon() == 1);
    }
    PyGILState_Release(gil);
}

static void *nest(void *unused)
{
    hold_apart();
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        nest_attached(orders[i], 0);
        nest_attached(orders[i], 1);
        nest_detached(orders[i]);
#if !defined(Py_DEBUG) || PY_VERSION_HEX >= 0x030C0000 /* CPython's rule: one for each interpreter */
        nest_in_two(orders[i]);
#endif
    }
    return unused;
}

/* nested(tables): a native thread, in all orders; then the subinterpreter ends. */
static PyObject *nested(PyObject *self, PyObject *tables)
{
    pthread_t thread;
    (void)self;
    if (take_copies(tables) != 0) {
        return NULL;
    }
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub_state = Py_NewInterpreter();
    CHECK(sub_state != NULL);
    main_interpreter = PyThreadState_GetInterpreter(main_state);
    sub_interpreter = PyThreadState_GetInterpreter(sub_state);
    for (int i = 0; i < count; i++) {
        CHECK((sub_views[i] = workers[i].copy->view()) != NULL);
    }
    PyThreadState_Swap(main_state);
    for (int i = 0; i < count; i++) {
        CHECK((main_views[i] = workers[i].copy->view()) != NULL);
    }
    Py_BEGIN_ALLOW_THREADS
    CHECK(pthread_create(&thread, NULL, nest, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    Py_END_ALLOW_THREADS
    PyThreadState_Swap(sub_state);
    Py_EndInterpreter(sub_state);
    PyThreadState_Swap(main_state);
    for (int i = 0; i < count; i++) {
        CHECK(workers[i].copy->ensure_from_view(sub_views[i]) == NULL);
        workers[i].copy->close_view(sub_views[i]);
        workers[i].copy->close_view(main_views[i]);
    }
    Py_RETURN_NONE;
}

/* doctor(table): what that copy says of itself. */
static PyObject *doctor(PyObject *self, PyObject *table)
{
    char text[1000];
    const struct copy *copy = PyLong_AsVoidPtr(table);
    (void)self;
    if (copy == NULL) {
        return NULL;
    }
    CHECK(copy->doctor(text, sizeof text) < sizeof text);
    return PyUnicode_FromString(text);
}

static PyMethodDef methods[] = {
    {"start", start, METH_VARARGS, NULL},
    {"go", go, METH_NOARGS, NULL},
    {"check_refused", check_refused, METH_NOARGS, NULL},
    {"check_child", check_child, METH_NOARGS, NULL},
    {"nested", nested, METH_O, NULL},
    {"doctor", doctor, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "driver",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_driver(void)
{
    return PyModule_Create(&definition);
}
