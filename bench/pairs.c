/* What a pair of calls costs, beside the calls that it replaces, in one process.
 *
 *   pairs LIBRARY time ROUNDS    nanoseconds per pair, the least of so many rounds
 *   pairs LIBRARY count          N pairs of each kind between two marks for callgrind (see check.py)
 *
 * A round runs every kind of pair once, so that whatever else the machine does hits all of them. All
 * functions are called by pointer, ours and CPython's, as extension modules call them. Each
 * line that is printed is `state,caller,pair,threads,ns`. Threads: 0, the main thread of a process
 * that has no other (locks are cheaper then); 1 or 2, as many others, each on a core of its own. */

#include <Python.h> /* asks for _GNU_SOURCE */
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef COUNT
#  include <valgrind/callgrind.h>
#else
#  define CALLGRIND_START_INSTRUMENTATION
#  define CALLGRIND_ZERO_STATS
#  define CALLGRIND_DUMP_STATS_AT(name) (void)(name)
#endif

/* --- Functions ----------------------------------------------------------------------------- */

/* Handles and tokens are pointers in every dialect. */
typedef void *handle;

struct accepted {
    handle (*FromCurrent)(void);
    handle (*FromView)(handle);
    void (*Close)(handle);
    handle (*View)(void);
    void (*ViewClose)(handle);
    handle (*Ensure)(handle);
    handle (*EnsureFromView)(handle);
    void (*Release)(handle);
    handle guard;
    handle view;
};

static struct accepted ours, native;

static struct {
    handle (*Get)(void);
    handle (*Dup)(handle);
    void (*Close)(handle);
    handle (*Weak)(void);
    void (*WeakClose)(handle);
    int (*AsStrong)(handle, handle *);
    int (*Ensure)(handle);
    void (*Release)(void);
    handle ref;
    handle weak;
} draft;

static struct {
    PyGILState_STATE (*GILEnsure)(void);
    void (*GILRelease)(PyGILState_STATE);
    PyThreadState *(*New)(PyInterpreterState *);
    void (*Clear)(PyThreadState *);
    void (*DeleteCurrent)(void);
    void (*Restore)(PyThreadState *);
    PyThreadState *(*Save)(void);
    PyInterpreterState *interpreter;
} py;

static int (*protect)(void);
static int (*keep)(int);

static void die(const char *what)
{
    fprintf(stderr, "pairs: %s\n", what);
    exit(2);
}

static void *symbol(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (found == NULL) {
        fprintf(stderr, "pairs: there is no %s\n", name);
        exit(2);
    }
    return found;
}

static void find_accepted(struct accepted *api, void *library)
{
    api->FromCurrent = symbol(library, "PyInterpreterGuard_FromCurrent");
    api->FromView = symbol(library, "PyInterpreterGuard_FromView");
    api->Close = symbol(library, "PyInterpreterGuard_Close");
    api->View = symbol(library, "PyInterpreterView_FromCurrent");
    api->ViewClose = symbol(library, "PyInterpreterView_Close");
    api->Ensure = symbol(library, "PyThreadState_Ensure");
    api->EnsureFromView = symbol(library, "PyThreadState_EnsureFromView");
    api->Release = symbol(library, "PyThreadState_Release");
    api->guard = api->FromCurrent();
    api->view = api->View();
    if (api->guard == NULL || api->view == NULL) {
        die("no guard or no view");
    }
}

static void find_all(const char *path)
{
    py.GILEnsure = symbol(RTLD_DEFAULT, "PyGILState_Ensure");
    py.GILRelease = symbol(RTLD_DEFAULT, "PyGILState_Release");
    py.New = symbol(RTLD_DEFAULT, "PyThreadState_New");
    py.Clear = symbol(RTLD_DEFAULT, "PyThreadState_Clear");
    py.DeleteCurrent = symbol(RTLD_DEFAULT, "PyThreadState_DeleteCurrent");
    py.Restore = symbol(RTLD_DEFAULT, "PyEval_RestoreThread");
    py.Save = symbol(RTLD_DEFAULT, "PyEval_SaveThread");
    py.interpreter = PyInterpreterState_Get();

    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        die(dlerror());
    }
    find_accepted(&ours, library);
    protect = symbol(library, "Pep788_ProtectGILState");
    keep = symbol(library, "Pep788_KeepThreadState");
    draft.Get = symbol(library, "PyInterpreterRef_Get");
    draft.Dup = symbol(library, "PyInterpreterRef_Dup");
    draft.Close = symbol(library, "PyInterpreterRef_Close");
    draft.Weak = symbol(library, "PyInterpreterWeakRef_Get");
    draft.WeakClose = symbol(library, "PyInterpreterWeakRef_Close");
    draft.AsStrong = symbol(library, "PyInterpreterWeakRef_AsStrong");
    draft.Ensure = symbol(library, "PyThreadState_Ensure");
    draft.Release = symbol(library, "PyThreadState_Release");
    draft.ref = draft.Get();
    draft.weak = draft.Weak();
    if (draft.ref == NULL || draft.weak == NULL) {
        die("no reference");
    }
    if (PY_VERSION_HEX >= 0x030F0000) {
        find_accepted(&native, RTLD_DEFAULT);
    }
}

static void close_accepted(struct accepted *api)
{
    api->Close(api->guard);
    api->ViewClose(api->view);
}

static void close_all(void)
{
    close_accepted(&ours);
    if (native.guard != NULL) {
        close_accepted(&native);
    }
    draft.Close(draft.ref);
    draft.WeakClose(draft.weak);
}

/* --- Pairs --------------------------------------------------------------------------------- */

#define LOOP(name, ...)                      \
    static void name(long pairs)             \
    {                                        \
        for (long i = 0; i < pairs; i++) {   \
            __VA_ARGS__;                     \
        }                                    \
    }

LOOP(gilstate, py.GILRelease(py.GILEnsure()))
LOOP(new_and_delete, PyThreadState *state = py.New(py.interpreter); py.Restore(state);
     py.Clear(state); py.DeleteCurrent())

static void restore_and_save(long pairs)
{
    PyThreadState *state = PyGILState_GetThisThreadState();
    for (long i = 0; i < pairs; i++) {
        py.Restore(state);
        state = py.Save();
    }
}

LOOP(our_ensure, ours.Release(ours.Ensure(ours.guard)))
LOOP(our_ensure_view, ours.Release(ours.EnsureFromView(ours.view)))
LOOP(our_from_view, ours.Close(ours.FromView(ours.view)))
LOOP(our_from_current, ours.Close(ours.FromCurrent()))
LOOP(native_ensure, native.Release(native.Ensure(native.guard)))
LOOP(native_ensure_view, native.Release(native.EnsureFromView(native.view)))
LOOP(native_from_view, native.Close(native.FromView(native.view)))
LOOP(native_from_current, native.Close(native.FromCurrent()))
LOOP(draft_ensure, draft.Ensure(draft.ref); draft.Release())
LOOP(draft_get, draft.Close(draft.Get()))
LOOP(draft_dup, draft.Close(draft.Dup(draft.ref)))
LOOP(draft_as_strong, handle ref; draft.AsStrong(draft.weak, &ref); draft.Close(ref))

enum state { ATTACHED, DETACHED, FRESH };

/* Less than half a millisecond each, so that many rounds are run between two interruptions. */
static const struct {
    const char *name;
    long pairs;
} states[] = {{"attached", 20000}, {"detached", 8000}, {"fresh", 2000}};

static struct row {
    enum state state;
    const char *caller;
    const char *pair;
    void (*run)(long);
    double ns[3]; /* by the number of threads */
} rows[] = {
    {ATTACHED, "PyGILState", "Ensure/Release", gilstate, {0}},
    {ATTACHED, "accepted", "Ensure/Release", our_ensure, {0}},
    {ATTACHED, "accepted", "EnsureFromView/Release", our_ensure_view, {0}},
    {ATTACHED, "accepted", "Guard_FromView/Close", our_from_view, {0}},
    {ATTACHED, "accepted", "Guard_FromCurrent/Close", our_from_current, {0}},
    {ATTACHED, "draft", "Ensure/Release", draft_ensure, {0}},
    {ATTACHED, "draft", "Ref_Get/Close", draft_get, {0}},
    {ATTACHED, "draft", "Ref_Dup/Close", draft_dup, {0}},
    {ATTACHED, "draft", "WeakRef_AsStrong/Close", draft_as_strong, {0}},
    {ATTACHED, "native", "Ensure/Release", native_ensure, {0}},
    {ATTACHED, "native", "EnsureFromView/Release", native_ensure_view, {0}},
    {ATTACHED, "native", "Guard_FromView/Close", native_from_view, {0}},
    {ATTACHED, "native", "Guard_FromCurrent/Close", native_from_current, {0}},
    {DETACHED, "PyGILState", "Ensure/Release", gilstate, {0}},
    {DETACHED, "CPython", "RestoreThread/SaveThread", restore_and_save, {0}},
    {DETACHED, "accepted", "Ensure/Release", our_ensure, {0}},
    {DETACHED, "accepted", "EnsureFromView/Release", our_ensure_view, {0}},
    {DETACHED, "accepted", "Guard_FromView/Close", our_from_view, {0}},
    {DETACHED, "draft", "Ensure/Release", draft_ensure, {0}},
    {DETACHED, "draft", "WeakRef_AsStrong/Close", draft_as_strong, {0}},
    {DETACHED, "native", "Ensure/Release", native_ensure, {0}},
    {DETACHED, "native", "EnsureFromView/Release", native_ensure_view, {0}},
    {DETACHED, "native", "Guard_FromView/Close", native_from_view, {0}},
    {FRESH, "CPython", "New+Restore+Clear+Delete", new_and_delete, {0}},
    {FRESH, "PyGILState", "Ensure/Release", gilstate, {0}},
    {FRESH, "accepted", "Ensure/Release", our_ensure, {0}},
    {FRESH, "accepted", "EnsureFromView/Release", our_ensure_view, {0}},
    {FRESH, "kept", "Ensure/Release", our_ensure, {0}},
    {FRESH, "kept", "EnsureFromView/Release", our_ensure_view, {0}},
    {FRESH, "draft", "Ensure/Release", draft_ensure, {0}},
    {FRESH, "native", "Ensure/Release", native_ensure, {0}},
    {FRESH, "native", "EnsureFromView/Release", native_ensure_view, {0}},
    {ATTACHED, "protected", "Ensure/Release", gilstate, {0}},
    {DETACHED, "protected", "Ensure/Release", gilstate, {0}},
    {FRESH, "protected", "Ensure/Release", gilstate, {0}},
};

#define COUNTED 1000
#define ROWS (sizeof rows / sizeof *rows)

/* PyGILState is protected from some time on, for good. */
static int is_protected;

/* The thread keeps the thread state that its first pair makes. */
static int keeps(const struct row *row)
{
    return strcmp(row->caller, "kept") == 0;
}

static int has(const struct row *row)
{
    return (native.guard != NULL || strcmp(row->caller, "native") != 0)
           && (PY_VERSION_HEX < 0x030F0000 || !keeps(row))
           && (strcmp(row->caller, "protected") == 0) == is_protected;
}

/* --- Running ------------------------------------------------------------------------------- */

struct worker {
    const struct row *row;
    long pairs;
    int core;
    atomic_int *awaited;
    int64_t began, ended;
};

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        die("sched_setaffinity");
    }
}

/* Attached or not as the row wants; `state` is the thread's own, attached. */
static void timed(struct worker *self, PyThreadState *state)
{
    if (self->row->state == DETACHED) {
        PyEval_SaveThread();
    }
    self->row->run(self->pairs / 10); /* warm */
    atomic_fetch_sub(self->awaited, 1);
    while (atomic_load(self->awaited) > 0) {
    }
    CALLGRIND_ZERO_STATS;
    self->began = now();
    self->row->run(self->pairs);
    self->ended = now();
    CALLGRIND_DUMP_STATS_AT(self->row->pair);
    if (self->row->state == DETACHED) {
        PyEval_RestoreThread(state);
    }
}

static void *work(void *argument)
{
    struct worker *self = argument;
    PyThreadState *state = NULL;
    pin(self->core);
    if (self->row->state != FRESH) {
        state = PyThreadState_New(py.interpreter);
        PyEval_RestoreThread(state);
    }
    if (keeps(self->row) && keep(1) != 0) {
        die("not kept");
    }
    timed(self, state);
    if (state != NULL) {
        PyThreadState_Clear(state);
        PyThreadState_DeleteCurrent();
    }
    return NULL;
}

/* In the main thread, which is attached: nanoseconds per pair. */
static double run_here(const struct row *row)
{
    atomic_int awaited = 1;
    long pairs = states[row->state].pairs;
    struct worker self = {row, pairs, 0, &awaited, 0, 0};
    timed(&self, PyThreadState_Get());
    return (double)(self.ended - self.began) / (double)pairs;
}

/* In other threads: that of the slower one; infinite if they did not run at once. */
static double run_in(int threads, const struct row *row, const int *cores, long pairs)
{
    atomic_int awaited = threads;
    struct worker workers[2];
    pthread_t ids[2];
    PyThreadState *main_state = PyEval_SaveThread();
    for (int i = 0; i < threads; i++) {
        workers[i] = (struct worker){row, pairs, cores[i], &awaited, 0, 0};
        if (pthread_create(&ids[i], NULL, work, &workers[i]) != 0) {
            die("pthread_create");
        }
    }
    int64_t slowest = 0, first_end = INT64_MAX, last_begin = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        int64_t took = workers[i].ended - workers[i].began;
        slowest = took > slowest ? took : slowest;
        first_end = workers[i].ended < first_end ? workers[i].ended : first_end;
        last_begin = workers[i].began > last_begin ? workers[i].began : last_begin;
    }
    PyEval_RestoreThread(main_state);
    if ((first_end - last_begin) * 10 < slowest * 8) {
        return 1.0 / 0.0;
    }
    return (double)slowest / (double)pairs;
}

/* The attached pairs cost the same in every thread, the detached ones less in a process that has one. */
static int is_measured(const struct row *row, int threads)
{
#ifdef Py_GIL_DISABLED
    int most = 2;
#else
    int most = row->state == ATTACHED ? 0 : 1;
#endif
    return has(row) && threads >= (row->state == FRESH) && threads <= most;
}

static double measure_once(const struct row *row, int threads, const int *cores)
{
    long pairs = states[row->state].pairs;
    if (threads < 2) {
        return threads == 0 ? run_here(row) : run_in(1, row, cores, pairs);
    }
    double ns = 1.0 / 0.0;
    for (int tries = 0; tries < 20 && ns == 1.0 / 0.0; tries++) {
        ns = run_in(2, row, cores, pairs);
    }
    return ns;
}

static void measure(int rounds, int threads, const int *cores)
{
    for (int round = 0; round < rounds; round++) {
        for (struct row *row = rows; row < rows + ROWS; row++) {
            if (is_measured(row, threads)) {
                double ns = measure_once(row, threads, cores);
                if (row->ns[threads] == 0 || ns < row->ns[threads]) {
                    row->ns[threads] = ns;
                }
            }
        }
    }
}

static void protect_or_die(void)
{
    if (protect() != 0) {
        die("not protected");
    }
    is_protected = 1;
}

static void measure_with_others(int rounds, int most_threads, const int *cores)
{
    for (int threads = 1; threads <= most_threads; threads++) {
        /* Two at once are looked at less often: they take the longest. */
        measure(threads == 2 ? rounds / 7 : rounds, threads, cores);
    }
}

static void print_measured(void)
{
    for (struct row *row = rows; row < rows + ROWS; row++) {
        for (int threads = 0; has(row) && threads <= 2; threads++) {
            if (row->ns[threads] != 0) {
                printf("%s,%s,%s,%d,%.2f\n", states[row->state].name, row->caller, row->pair,
                       threads, row->ns[threads]);
            }
        }
    }
    fflush(stdout);
}

/* The main thread's own protected pairs, in a copy of the process: this one is not to be protected yet, and later it is one
 * that has had other threads, whose locks are dearer for good. */
static void measure_protected_alone(int rounds, const int *cores)
{
    PyOS_BeforeFork();
    pid_t copy = fork();
    if (copy == 0) {
        PyOS_AfterFork_Child();
        protect_or_die();
        measure(rounds, 0, cores);
        print_measured();
        _exit(0);
    }
    PyOS_AfterFork_Parent();
    int status = 1;
    if (copy < 0 || waitpid(copy, &status, 0) != copy || status != 0) {
        die("the copy of the process failed");
    }
}

static void count(const int *cores)
{
    for (struct row *row = rows; row < rows + ROWS; row++) {
        if (has(row)) {
            run_in(1, row, cores, COUNTED);
            printf("%s,%s,%s,%d\n", states[row->state].name, row->caller, row->pair, COUNTED);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        die("usage: pairs LIBRARY time ROUNDS | pairs LIBRARY count");
    }
    int cores[2], found = 0;
    cpu_set_t allowed;
    sched_getaffinity(0, sizeof allowed, &allowed);
    for (int core = CPU_SETSIZE - 1; core >= 0 && found < 2; core--) {
        if (CPU_ISSET(core, &allowed)) {
            cores[found++] = core;
        }
    }
    pin(cores[0]);

    Py_Initialize();
    find_all(argv[1]);
    if (strcmp(argv[2], "count") == 0) {
        CALLGRIND_START_INSTRUMENTATION;
        count(cores);
        protect_or_die();
        count(cores);
    } else {
        int rounds = argc > 3 ? atoi(argv[3]) : 7;
        measure(rounds, 0, cores);
        measure_protected_alone(rounds, cores);
        measure_with_others(rounds, found, cores);
        print_measured();
        protect_or_die();
        measure_with_others(rounds, found, cores);
        print_measured();
    }
    close_all();
    return Py_FinalizeEx();
}
