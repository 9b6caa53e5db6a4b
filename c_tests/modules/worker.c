/* An extension module as one would write it with the accepted API: native threads that call Python
 * functions. The scripts in ../scripts use it. */

#include "../api.h"

#include <pthread.h>
#include <stdlib.h>

/* What a thread needs: how to get in, and what to call. */
struct job {
    PyInterpreterGuard *guard;
    PyInterpreterView *view;
    PyObject *callable;
};

/* Set by go(). */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int gone;

#ifndef _WIN32 /* which has no fork */
/* In a forked child, which has none of the threads that wait there: in musl it would be they whom a broadcast wakes,
 * and they wake the others. */
static void forget_parents_threads(void)
{
    mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    condition = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_parents_threads);
}
#endif

static void wait_for_go(void)
{
    pthread_mutex_lock(&mutex);
    while (!gone) {
        pthread_cond_wait(&condition, &mutex);
    }
    pthread_mutex_unlock(&mutex);
}

static void call(PyObject *callable)
{
    PyObject *result = PyObject_CallObject(callable, NULL);
    if (result == NULL) {
        PyErr_WriteUnraisable(callable);
    }
    Py_XDECREF(result);
}

static void *work_main(void *argument)
{
    struct job *job = argument;
    wait_for_go();
    for (int i = 0; i < 50; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(job->guard);
        if (token == NULL) {
            abort();
        }
        call(job->callable);
        if (i == 49) {
            Py_CLEAR(job->callable);
        }
        PyThreadState_Release(token);
    }
    PyInterpreterGuard_Close(job->guard);
    free(job);
    return NULL;
}

static void *knock_main(void *argument)
{
    struct job *job = argument;
    PyThreadStateToken *token;
    while ((token = PyThreadState_EnsureFromView(job->view)) != NULL) {
        call(job->callable);
        PyThreadState_Release(token);
    }
    /* The callable is lost: there is no interpreter to give it back to. */
    PyInterpreterView_Close(job->view);
    free(job);
    return NULL;
}

static PyObject *start_thread(void *(*body)(void *), struct job *job)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, job) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    pthread_detach(thread);
    Py_RETURN_NONE;
}

static struct job *new_job(PyObject *callable)
{
    struct job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    Py_INCREF(callable);
    job->callable = callable;
    return job;
}

static PyObject *work(PyObject *self, PyObject *callable)
{
    (void)self;
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    if (guard == NULL) {
        return NULL;
    }
    struct job *job = new_job(callable);
    if (job == NULL) {
        PyInterpreterGuard_Close(guard);
        return NULL;
    }
    job->guard = guard;
    return start_thread(work_main, job);
}

static PyObject *knock(PyObject *self, PyObject *callable)
{
    (void)self;
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    if (view == NULL) {
        return NULL;
    }
    struct job *job = new_job(callable);
    if (job == NULL) {
        PyInterpreterView_Close(view);
        return NULL;
    }
    job->view = view;
    return start_thread(knock_main, job);
}

static PyObject *go(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    pthread_mutex_lock(&mutex);
    gone = 1;
    pthread_cond_broadcast(&condition);
    pthread_mutex_unlock(&mutex);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"work", work, METH_O, "A native thread with a guard calls the callable 50 times, once go() was called."},
    {"knock", knock, METH_O, "A native thread with a view calls the callable until it is refused."},
    {"go", go, METH_NOARGS, "Lets the threads of work() begin; meant for atexit."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "worker",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_worker(void)
{
    return PyModuleDef_Init(&definition);
}
