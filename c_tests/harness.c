#define _GNU_SOURCE 1
#define API_NONE
#include "harness.h"

#include <errno.h>
#include <stdarg.h>
#include <time.h>

/* --- Scenarios ----------------------------------------------------------------------------- */

static struct scenario *scenarios;

void harness_add(struct scenario *scenario)
{
    struct scenario **end = &scenarios;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = scenario;
}

/* Without an argument, lists the scenarios; with a name, runs that one. */
int main(int argc, char **argv)
{
    for (struct scenario *scenario = scenarios; scenario != NULL; scenario = scenario->next) {
        if (argc < 2) {
            puts(scenario->name);
        } else if (strcmp(argv[1], scenario->name) == 0) {
            scenario->body();
            return 0;
        }
    }
    if (argc < 2) {
        return 0;
    }
    fprintf(stderr, "no scenario `%s` in this program\n", argv[1]);
    return 64;
}

/* --- Checks -------------------------------------------------------------------------------- */

void check_failed(const char *file, int line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: check failed: ", file, line);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
#ifndef HARNESS_NO_PYTHON
    if (Py_IsInitialized() && attached() != NULL && PyErr_Occurred()) {
        PyErr_Print();
    }
#endif
    fflush(NULL);
    _exit(99);
}

void check_int(const char *file, int line, const char *what, long long actual, long long expected)
{
    if (actual != expected) {
        check_failed(file, line, "%s is %lld, expected %lld", what, actual, expected);
    }
}

void check_ptr(const char *file, int line, const char *what, const void *actual,
               const void *expected)
{
    if (actual != expected) {
        check_failed(file, line, "%s is %p, expected %p", what, actual, expected);
    }
}

/* --- Threads and events -------------------------------------------------------------------- */

struct start {
    void (*body)(void *);
    void *argument;
};

static void *thread_main(void *start)
{
    struct start own = *(struct start *)start;
    free(start);
    own.body(own.argument);
    return NULL;
}

pthread_t thread_start(void (*body)(void *), void *argument)
{
    struct start *start = malloc(sizeof *start);
    CHECK(start != NULL);
    *start = (struct start){body, argument};
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, thread_main, start), 0);
    return thread;
}

void thread_join(pthread_t thread)
{
    CHECK_INT(pthread_join(thread, NULL), 0);
}

void event_set(event *event)
{
    CHECK_INT(pthread_mutex_lock(&event->mutex), 0);
    event->happened = true;
    CHECK_INT(pthread_cond_broadcast(&event->condition), 0);
    CHECK_INT(pthread_mutex_unlock(&event->mutex), 0);
}

void event_wait(event *event)
{
    CHECK_INT(pthread_mutex_lock(&event->mutex), 0);
    while (!event->happened) {
        CHECK_INT(pthread_cond_wait(&event->condition, &event->mutex), 0);
    }
    CHECK_INT(pthread_mutex_unlock(&event->mutex), 0);
}

bool event_wait_ms(event *event, int milliseconds)
{
    struct timespec until;
    CHECK_INT(clock_gettime(CLOCK_REALTIME, &until), 0);
    until.tv_sec += milliseconds / 1000;
    until.tv_nsec += milliseconds % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec += 1;
        until.tv_nsec -= 1000000000L;
    }
    CHECK_INT(pthread_mutex_lock(&event->mutex), 0);
    int result = 0;
    while (!event->happened && result == 0) {
        result = pthread_cond_timedwait(&event->condition, &event->mutex, &until);
        CHECK(result == 0 || result == ETIMEDOUT);
    }
    bool happened = event->happened;
    CHECK_INT(pthread_mutex_unlock(&event->mutex), 0);
    return happened;
}

/* --- The order of things ------------------------------------------------------------------- */

static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static const char *log_entries[256];
static size_t log_length;

void log_event(const char *what)
{
    CHECK_INT(pthread_mutex_lock(&log_mutex), 0);
    CHECK(log_length < sizeof log_entries / sizeof *log_entries);
    log_entries[log_length++] = what;
    CHECK_INT(pthread_mutex_unlock(&log_mutex), 0);
}

void expect_log(const char *expected)
{
    char actual[4096] = "";
    CHECK_INT(pthread_mutex_lock(&log_mutex), 0);
    for (size_t i = 0; i < log_length; i++) {
        CHECK(strlen(actual) + strlen(log_entries[i]) + 2 < sizeof actual);
        strcat(strcat(actual, i == 0 ? "" : ","), log_entries[i]);
    }
    CHECK_INT(pthread_mutex_unlock(&log_mutex), 0);
    if (strcmp(actual, expected) != 0) {
        check_failed("log", 0, "happened: %s; expected: %s", actual, expected);
    }
}

int log_count(const char *what)
{
    int count = 0;
    CHECK_INT(pthread_mutex_lock(&log_mutex), 0);
    for (size_t i = 0; i < log_length; i++) {
        count += strcmp(log_entries[i], what) == 0;
    }
    CHECK_INT(pthread_mutex_unlock(&log_mutex), 0);
    return count;
}

#ifndef HARNESS_NO_PYTHON

/* --- Python -------------------------------------------------------------------------------- */

void py_init(void)
{
    Py_InitializeEx(0);
    CHECK(Py_IsInitialized());
}

void py_finalize(void)
{
    CHECK_INT(Py_FinalizeEx(), 0);
}

void py_finalize_beside(pthread_t thread, const char *log)
{
    py_finalize();
    log_event("finalized");
    thread_join(thread);
    expect_log(log);
}

void run(const char *code)
{
    CHECK_INT(PyRun_SimpleString(code), 0);
}

/* __main__'s dict, borrowed. */
static PyObject *main_dict(void)
{
    PyObject *module = PyImport_AddModule("__main__");
    CHECK(module != NULL);
    return PyModule_GetDict(module);
}

long eval_long(const char *expression)
{
    PyObject *dict = main_dict();
    PyObject *value = PyRun_String(expression, Py_eval_input, dict, dict);
    CHECK(value != NULL);
    long number = PyLong_AsLong(value);
    CHECK(number != -1 || !PyErr_Occurred());
    Py_DECREF(value);
    return number;
}

void py_event_wait(event *event)
{
    Py_BEGIN_ALLOW_THREADS
    event_wait(event);
    Py_END_ALLOW_THREADS
}

void py_thread_join(pthread_t thread)
{
    Py_BEGIN_ALLOW_THREADS
    thread_join(thread);
    Py_END_ALLOW_THREADS
}

/* Up to 3.11 it may be another thread's, which may be freed while it is read: harmless, but reported
 * by the sanitizers if they saw it. */
__attribute__((no_sanitize_address, no_sanitize_thread))
PyThreadState *attached(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked();
#elif PY_VERSION_HEX >= 0x030C0000
    return _PyThreadState_UncheckedGet();
#else
    /* Before 3.12 this is the thread state of whichever thread holds the GIL. */
    PyThreadState *state = _PyThreadState_UncheckedGet();
    return state != NULL && state->thread_id == PyThread_get_thread_ident() ? state : NULL;
#endif
}

PyInterpreterState *attached_interpreter(void)
{
    PyThreadState *state = attached();
    return state == NULL ? NULL : PyThreadState_GetInterpreter(state);
}

int count_thread_states(void)
{
    int count = 0;
    PyThreadState *state = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; state != NULL; state = PyThreadState_Next(state)) {
        count++;
    }
    return count;
}

/* A C function to call, wrapped for Python. */
struct callback {
    void (*function)(void *);
    void *argument;
};

static PyObject *capsule_of(void (*function)(void *), void *argument, PyCapsule_Destructor destroy)
{
    struct callback *callback = malloc(sizeof *callback);
    CHECK(callback != NULL);
    *callback = (struct callback){function, argument};
    PyObject *capsule = PyCapsule_New(callback, NULL, destroy);
    CHECK(capsule != NULL);
    return capsule;
}

static PyObject *call_callback(PyObject *capsule, PyObject *unused)
{
    (void)unused;
    struct callback *callback = PyCapsule_GetPointer(capsule, NULL);
    CHECK(callback != NULL);
    callback->function(callback->argument);
    Py_RETURN_NONE;
}

static PyMethodDef callback_method = {"callback", call_callback, METH_NOARGS, NULL};

static PyObject *call_nothing(PyObject *capsule, PyObject *unused)
{
    (void)capsule, (void)unused;
    Py_RETURN_NONE;
}

static PyMethodDef nothing_method = {"nothing", call_nothing, METH_NOARGS, NULL};

/* Has `atexit` call the method, and destroy the capsule once all are called; takes the capsule. */
static void register_callback(PyMethodDef *method, PyObject *capsule)
{
    PyObject *callable = PyCFunction_New(method, capsule);
    CHECK(callable != NULL);
    PyObject *module = PyImport_ImportModule("atexit");
    CHECK(module != NULL);
    PyObject *result = PyObject_CallMethod(module, "register", "O", callable);
    CHECK(result != NULL);
    Py_DECREF(result);
    Py_DECREF(module);
    Py_DECREF(callable);
    Py_DECREF(capsule);
}

void at_exit(void (*function)(void *), void *argument)
{
    register_callback(&callback_method, capsule_of(function, argument, NULL));
}

void set_event(void *argument)
{
    event_set((event *)argument);
}

static void destroy_callback(PyObject *capsule)
{
    struct callback *callback = PyCapsule_GetPointer(capsule, NULL);
    CHECK(callback != NULL);
    callback->function(callback->argument);
    free(callback);
}

void at_teardown(void (*function)(void *), void *argument)
{
    static int count;
    char name[32];
    snprintf(name, sizeof name, "_teardown_%d", count++);
    PyObject *capsule = capsule_of(function, argument, destroy_callback);
    CHECK_INT(PyDict_SetItemString(main_dict(), name, capsule), 0);
    Py_DECREF(capsule);
}

void when_exit_callbacks_have_run(void (*function)(void *), void *argument)
{
    register_callback(&nothing_method, capsule_of(function, argument, destroy_callback));
}

/* CPython does not call what is registered while exit callbacks run, but destroys it after them. */
static void register_to_be_dropped(void *dropped)
{
    struct callback *callback = dropped;
    when_exit_callbacks_have_run(callback->function, callback->argument);
    free(callback);
}

void after_exit_callbacks(void (*function)(void *), void *argument)
{
    struct callback *callback = malloc(sizeof *callback);
    CHECK(callback != NULL);
    callback->function = function;
    callback->argument = argument;
    at_exit(register_to_be_dropped, callback);
}

static void call_plain(void *function)
{
    (*(void (**)(void))function)();
}

void expose(const char *name, void (*function)(void))
{
    /* A function pointer does not fit a void pointer by the letter of C. */
    void (**slot)(void) = malloc(sizeof *slot);
    CHECK(slot != NULL);
    *slot = function;
    PyObject *capsule = capsule_of(call_plain, slot, NULL);
    PyObject *callable = PyCFunction_New(&callback_method, capsule);
    CHECK(callable != NULL);
    CHECK_INT(PyDict_SetItemString(main_dict(), name, callable), 0);
    Py_DECREF(callable);
    Py_DECREF(capsule);
}

void check_finalization_error(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    CHECK(PyErr_ExceptionMatches(PyExc_PythonFinalizationError));
#else
    CHECK(PyErr_ExceptionMatches(PyExc_RuntimeError));
#endif
    PyErr_Clear();
}

PyThreadState *sub_new(void)
{
    PyThreadState *caller = PyThreadState_Get();
    PyThreadState *sub = Py_NewInterpreter();
    CHECK(sub != NULL);
    swap(sub, caller);
    return sub;
}

PyThreadState *sub_new_isolated(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyThreadState *caller = PyThreadState_Get();
    PyThreadState *sub = NULL;
    PyInterpreterConfig config = {
        .use_main_obmalloc = 0,
        .allow_fork = 0,
        .allow_exec = 0,
        .allow_threads = 1,
        .allow_daemon_threads = 0,
        .check_multi_interp_extensions = 1,
        .gil = PyInterpreterConfig_OWN_GIL,
    };
    PyStatus status = Py_NewInterpreterFromConfig(&sub, &config);
    CHECK(!PyStatus_Exception(status));
    swap(sub, caller);
    return sub;
#else
    check_failed(__FILE__, __LINE__, "no isolated interpreters before 3.12");
#endif
}

void sub_end(PyThreadState *sub)
{
    PyThreadState *caller = PyThreadState_Get();
    swap(caller, sub);
    Py_EndInterpreter(sub);
    CHECK_PTR(PyThreadState_Swap(caller), NULL);
}

void swap(PyThreadState *from, PyThreadState *to)
{
    CHECK_PTR(PyThreadState_Swap(to), from);
}

/* --- Out of memory --------------------------------------------------------------------------------- */

static PyMemAllocatorEx original;
_Thread_local bool memory_fails;

static void *fail_or_malloc(void *context, size_t size)
{
    return memory_fails ? NULL : original.malloc(context, size);
}

static void *fail_or_calloc(void *context, size_t count, size_t size)
{
    return memory_fails ? NULL : original.calloc(context, count, size);
}

static void *fail_or_realloc(void *context, void *memory, size_t size)
{
    return memory_fails ? NULL : original.realloc(context, memory, size);
}

void let_memory_fail(void)
{
    unsetenv("PYTHONMALLOC"); /* has Py_Initialize replace the allocator */
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &original);
    PyMemAllocatorEx replacement = {original.ctx, fail_or_malloc, fail_or_calloc, fail_or_realloc,
                                    original.free};
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &replacement);
}

#endif /* HARNESS_NO_PYTHON */
