/* What the library costs besides its calls. Each line that is printed is `what,value,unit`.
 *
 *   promises LIBRARY first              the first use in an interpreter
 *   promises LIBRARY first-threads      ... in a process with other threads
 *   promises LIBRARY exit               an exit with no guard out
 *   promises LIBRARY crowd              an exit while 5,000 threads call by views, beyond the grace for these
 *   promises LIBRARY protected-crowd    an exit while 5,000 threads call PyGILState_Ensure, protected
 *   promises LIBRARY threads            memory that 10,000 threads leave behind
 *   promises LIBRARY subinterpreters    memory that a subinterpreter leaves behind, of 1,000 one after another
 *
 * Memory is what `malloc` has given out, to the byte, of one arena and without caches for threads: see
 * promises.py for the settings. */

#include <Python.h>
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

typedef void *handle;

static handle (*guard_from_current)(void);
static void (*guard_close)(handle);
static handle (*view_from_current)(void);
static void (*view_close)(handle);
static handle (*ensure_from_view)(handle);
static void (*release)(handle);
static int (*protect)(void);

static void die(const char *what)
{
    fprintf(stderr, "promises: %s\n", what);
    exit(2);
}

static void *symbol(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (found == NULL) {
        die(name);
    }
    return found;
}

static void load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        die(dlerror());
    }
    guard_from_current = symbol(library, "PyInterpreterGuard_FromCurrent");
    guard_close = symbol(library, "PyInterpreterGuard_Close");
    view_from_current = symbol(library, "PyInterpreterView_FromCurrent");
    view_close = symbol(library, "PyInterpreterView_Close");
    ensure_from_view = symbol(library, "PyThreadState_EnsureFromView");
    release = symbol(library, "PyThreadState_Release");
    protect = symbol(library, "Pep788_ProtectGILState");
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void use(void)
{
    handle guard = guard_from_current();
    if (guard == NULL) {
        die("no guard");
    }
    guard_close(guard);
}

static double time_use(void)
{
    double began = now();
    use();
    return now() - began;
}

static double least(double a, double b)
{
    return b < a ? b : a;
}

static void run(const char *code)
{
    if (PyRun_SimpleString(code) != 0) {
        die(code);
    }
}

/* --- The first use ------------------------------------------------------------------------- */

static void first(void)
{
    Py_Initialize();
    run("import sys; before = set(sys.modules)");
    printf("first use,%.1f,us\n", time_use());
    run("print('modules imported by the first use,%d,' % len(set(sys.modules) - before - {'atexit'}), flush=True)");
    double in_subinterpreter = 1e9, again = 1e9;
    for (int i = 0; i < 10; i++) {
        PyThreadState *outer = PyThreadState_Get();
        PyThreadState *inner = Py_NewInterpreter();
        if (inner == NULL) {
            die("no subinterpreter");
        }
        in_subinterpreter = least(in_subinterpreter, time_use());
        again = least(again, time_use());
        Py_EndInterpreter(inner);
        PyThreadState_Swap(outer);
    }
    printf("first use in a subinterpreter,%.1f,us\n", in_subinterpreter);
    printf("second use in a subinterpreter,%.1f,us\n", again);
    Py_FinalizeEx();
}

static void *idle(void *mutex)
{
    pthread_mutex_lock(mutex);
    return NULL;
}

/* Where the kernel has to be told something for all threads, a process with more than one waits for it. */
static void first_with_threads(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < 4; i++) {
        pthread_t id;
        if (pthread_create(&id, NULL, idle, &mutex) != 0) {
            die("pthread_create");
        }
    }
    Py_Initialize();
    printf("first use beside other threads,%.1f,us\n", time_use());
    Py_FinalizeEx();
}

/* --- An exit ------------------------------------------------------------------------------- */

static double exit_began, exit_took;

static PyObject *begins(PyObject *self, PyObject *ignored)
{
    (void)self;
    (void)ignored;
    exit_began = now();
    Py_RETURN_NONE;
}

static PyObject *ends(PyObject *self, PyObject *ignored)
{
    (void)self;
    (void)ignored;
    exit_took = now() - exit_began;
    Py_RETURN_NONE;
}

static PyMethodDef begins_def = {"begins", begins, METH_NOARGS, NULL};
static PyMethodDef ends_def = {"ends", ends, METH_NOARGS, NULL};

static void at_exit(PyMethodDef *def)
{
    PyObject *module = PyImport_ImportModule("atexit");
    PyObject *function = PyCFunction_New(def, NULL);
    PyObject *done = PyObject_CallMethod(module, "register", "O", function);
    if (done == NULL) {
        die("atexit.register");
    }
    Py_DECREF(done);
    Py_DECREF(function);
    Py_DECREF(module);
}

/* The time between a callback before the library's and one after it, less that with no library there. */
static double exit_once(int with_library)
{
    Py_Initialize();
    at_exit(&ends_def);
    if (with_library) {
        use();
    }
    at_exit(&begins_def);
    Py_FinalizeEx();
    return exit_took;
}

static void exits(void)
{
    double with = 1e9, without = 1e9;
    for (int i = 0; i < 20; i++) {
        without = least(without, exit_once(0));
        with = least(with, exit_once(1));
    }
    printf("exit with no guard out,%.1f,us\n", with - without);
}

/* --- An exit among many threads ------------------------------------------------------------ */

enum { CROWD = 5000 };

static atomic_int begun;

static void *call_by_view(void *view)
{
    atomic_fetch_add(&begun, 1);
    for (handle token; (token = ensure_from_view(view)) != NULL; release(token)) {
    }
    return NULL;
}

/* Protected, a thread does not come back from a call that is too late. */
static void *call_gilstate(void *unused)
{
    atomic_fetch_add(&begun, 1);
    for (;;) {
        PyGILState_Release(PyGILState_Ensure());
    }
    return unused;
}

/* Milliseconds of an exit, when all threads have begun to call. */
static double exit_among(void *(*routine)(void *), handle view)
{
    PyThreadState *state = PyEval_SaveThread();
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 17);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (int i = 0; i < CROWD; i++) {
        pthread_t id;
        if (pthread_create(&id, &attributes, routine, view) != 0) {
            die("pthread_create");
        }
    }
    while (atomic_load(&begun) < CROWD) {
        usleep(1000);
    }
    PyEval_RestoreThread(state);
    double began = now();
    Py_FinalizeEx();
    return (now() - began) / 1e3;
}

static void crowd(void)
{
    Py_Initialize();
    const char *grace = getenv("PEP788_DRAIN_GRACE_MS");
    double took = exit_among(call_by_view, view_from_current());
    printf("exit among 5000 threads beyond the grace,%.1f,ms\n", took - (grace != NULL ? atof(grace) : 1000));
}

static void protected_crowd(void)
{
    Py_Initialize();
    if (protect() != 0) {
        die("not protected");
    }
    printf("exit among 5000 protected threads,%.1f,ms\n", exit_among(call_gilstate, NULL));
}

/* --- Memory -------------------------------------------------------------------------------- */

static long heap(void)
{
    struct mallinfo2 info = mallinfo2();
    return (long)(info.uordblks + info.hblkhd);
}

static void *visit(void *view)
{
    handle token = ensure_from_view(view);
    if (token == NULL) {
        die("refused");
    }
    release(token);
    return NULL;
}

static void threads_come_and_go(handle view, int number)
{
    for (int i = 0; i < number; i++) {
        pthread_t ids[2];
        for (int n = 0; n < 2; n++) {
            if (pthread_create(&ids[n], NULL, visit, view) != 0) {
                die("pthread_create");
            }
        }
        for (int n = 0; n < 2; n++) {
            pthread_join(ids[n], NULL);
        }
    }
}

static void threads(void)
{
    Py_Initialize();
    handle view = view_from_current();
    PyThreadState *state = PyEval_SaveThread();
    threads_come_and_go(view, 500);
    long before = heap();
    threads_come_and_go(view, 5000);
    printf("heap of 10000 threads,%ld,bytes\n", heap() - before);
    PyEval_RestoreThread(state);
    view_close(view);
    Py_FinalizeEx();
}

/* The bytes that a subinterpreter leaves behind. CPython leaks much itself, and some more where `atexit` is
 * used; what the library leaks is the difference between using it and using `atexit`. */
static long subinterpreter(int with_library)
{
    PyThreadState *outer = PyThreadState_Get();
    long before = heap();
    PyThreadState *inner = Py_NewInterpreter();
    if (inner == NULL) {
        die("no subinterpreter");
    }
    if (with_library) {
        handle view = view_from_current();
        use();
        view_close(view);
    } else {
        at_exit(&ends_def);
    }
    Py_EndInterpreter(inner);
    PyThreadState_Swap(outer);
    return heap() - before;
}

static int compare(const void *a, const void *b)
{
    long left = *(const long *)a, right = *(const long *)b;
    return (left > right) - (left < right);
}

static void subinterpreters(void)
{
    enum { WITH = 1000, OTHERS = 100 };
    static long with[WITH], without[OTHERS];
    Py_Initialize();
    for (int i = 0; i < 10; i++) {
        subinterpreter(1);
    }
    for (int i = 0; i < WITH; i++) {
        with[i] = subinterpreter(1);
        if (i % (WITH / OTHERS) == 0) {
            without[i / (WITH / OTHERS)] = subinterpreter(0);
        }
    }
    qsort(with, WITH, sizeof *with, compare);
    qsort(without, OTHERS, sizeof *without, compare);
    printf("heap for each of 1000 subinterpreters,%ld,bytes\n", with[WITH / 2] - without[OTHERS / 2]);
    Py_FinalizeEx();
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*measure)(void);
    } all[] = {{"first", first}, {"first-threads", first_with_threads}, {"exit", exits}, {"crowd", crowd}, {"protected-crowd", protected_crowd}, {"threads", threads}, {"subinterpreters", subinterpreters}};
    mallopt(M_ARENA_MAX, 1);
    for (size_t i = 0; argc == 3 && i < sizeof all / sizeof *all; i++) {
        if (strcmp(argv[2], all[i].name) == 0) {
            load(argv[1]);
            all[i].measure();
            fflush(stdout);
            /* Threads of a crowd may still be about to end. */
            _exit(0);
        }
    }
    die("usage: promises LIBRARY first|first-threads|exit|crowd|protected-crowd|threads|subinterpreters");
}
