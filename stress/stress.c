/* Programs that mix everything, and exit at a random moment: threads, subinterpreters, forks, views
 * and references kept and dropped, Ensures inside Ensures, legacy calls inside, atexit callbacks.
 *
 *     stress LABEL EXITS [SEED]     EXITS exits, all of them of SEED if there is one
 *
 * Each exit is a process of its own. It must not crash or hang, every call that got in must come to
 * its end, and afterwards everything must be refused. Random choices come from the exit's seed; when
 * a thread makes them does not, so a failure may need its seed more than once. */

#include <pep788.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

enum {
    WORKERS = 6,
    SLOTS = 4,              /* of interpreters that threads call into; the first one is main */
    MAX_DEPTH = 3,          /* of calls inside calls */
    JOIN_LIMIT = 10,        /* ... for threads to end once Python is gone */
    BACKTRACES = 20,        /* of hung and crashed processes, in all */
    BROKEN = 99,            /* exit code */
};

/* What an exit tells the parent. */
static struct shared {
    atomic_long entered, finished, refused, subs, forks, kids_crashed, kids_hung;
    atomic_long threads_lost, stuck_in_cpython;
    _Atomic enum { PARENT, FORKED, BACK } child_at;   /* how far a child came in os.fork() */
    atomic_int backtraces;
} *shared;

static unsigned long seed;
static double limit = 30;               /* seconds for an exit; two thirds for a child forked in it */
static bool in_kid;                     /* a child of an exit, forked in the middle of it */
static bool traced;                     /* PEP788_TRACE=1 */
static bool legacy_calls;               /* some calls attach by PyGILState_Ensure */
static atomic_bool stop, last_run, ready;
static atomic_int era;                  /* odd: between Py_Initialize and Py_FinalizeEx */

static _Thread_local uint64_t random_state;
static _Thread_local int depth;         /* of calls that got in */
static _Thread_local int python_depth;  /* of calls from Python code */
static _Thread_local int legacy;        /* calls by PyGILState with a guard open: no Ensure holds them */
static _Thread_local int in_subs;       /* calls into subinterpreters */
static _Thread_local int ending;        /* subinterpreters that it is in the middle of ending */
static _Thread_local bool is_worker, is_main_thread, forked;
static _Thread_local atomic_bool *may_vanish;   /* true: this thread is a daemon thread by its wish */


/* ---- Small things ---------------------------------------------------------------------------- */

static void random_start(unsigned stream)
{
    random_state = (seed * 64 + stream + 1) * 0x9E3779B97F4A7C15u;
    below(2);
    below(2);
}

unsigned below(unsigned end)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 33) % end;
}

void broken(const char *file, int line, const char *what)
{
    fprintf(stderr, "stress: seed %lu: %s:%d: broken: %s%s\n", seed, file, line, what,
            in_kid ? " (in a forked child)" : "");
    _exit(BROKEN);
}

void call_entered(void)
{
    depth++;
    shared->entered++;
}

void call_finished(void)
{
    depth--;
    if (may_vanish != NULL && *may_vanish) {
        *may_vanish = false;            /* was counted when it was let go */
    } else {
        shared->finished++;
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* Writes a backtrace of all threads to the log. Whether the library is in it, above os.fork(). */
static bool backtrace_of(pid_t pid)
{
    if (shared->backtraces++ >= BACKTRACES) {
        return false;
    }
    char command[300];
    snprintf(command, sizeof command, "timeout 60 env -u PYTHONHOME gdb -p %d -batch -ex 'thread apply all bt 60' "
             "</dev/null 2>&1 | awk '{ print | \"cat 1>&2\" } /os_fork/ { below = 1 } !below && /pep788/ { ours = 1 } "
             "END { exit !ours }'", (int)pid);
    fprintf(stderr, "stress: seed %lu: process %d:\n", seed, (int)pid);
    pid_t shell = fork();
    if (shell == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(2);
    }
    int status = -1;
    while (waitpid(shell, &status, 0) < 0 && errno == EINTR) {}
    return status == 0;
}

static void on_crash(int number)
{
    signal(number, SIG_DFL);
    backtrace_of(getpid());
    raise(number);
}

/* Waits for a process; kills it (and what it has started) when it takes too long. */
static enum ended { WELL, CRASHED, HUNG } await(pid_t pid, double seconds, bool group)
{
    double start = now();
    int status;
    pid_t got;
    while ((got = waitpid(pid, &status, WNOHANG)) == 0) {
        if (now() - start > seconds) {
            backtrace_of(pid);
            kill(group ? -pid : pid, SIGKILL);
            waitpid(pid, &status, 0);
            return HUNG;
        }
        usleep(1000);
    }
    if (got == pid && status == 0) {
        return WELL;
    }
    fprintf(stderr, "stress: seed %lu: process %d ended by %s %d\n", seed, (int)pid,
            WIFSIGNALED(status) ? "signal" : "exit code",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return CRASHED;
}


/* ---- Interpreters to call into --------------------------------------------------------------- */

/* Its view and weak reference are closed with the last use, which may be long after its end. */
struct target {
    PyInterpreterView *view;
    void *weak, *address;
    int64_t id;
    bool is_main, threads, own_gil;
    atomic_int uses;
    atomic_int inside;                  /* calls that it may not end under */
};

static struct target main_target = {.is_main = true, .threads = true, .uses = 1};
static struct target *slots[SLOTS] = {&main_target};
static int alive;                       /* subinterpreters; -1: one forks, there must be none */
static PyInterpreterGuard *mailbox;     /* a guard for another thread to close */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   /* of these; nothing blocks under it */

static struct target *pick(void)
{
    pthread_mutex_lock(&lock);
    struct target *target = slots[ONE_IN(2) ? 0 : below(SLOTS)];
    if (target == NULL) {
        target = &main_target;
    }
    target->uses++;
    pthread_mutex_unlock(&lock);
    return target;
}

static void put_back(struct target *target)
{
    if (target != NULL && --target->uses == 0) {
        PyInterpreterView_Close(target->view);
        draft_weak_close(target->weak);
        free(target);
    }
}

static void swap_mail(PyInterpreterGuard *guard)
{
    pthread_mutex_lock(&lock);
    PyInterpreterGuard *old = mailbox;
    mailbox = guard;
    pthread_mutex_unlock(&lock);
    if (old != NULL) {
        PyInterpreterGuard_Close(old);
    }
}

static void check_refused(struct target *target)
{
    CHECK(PyInterpreterGuard_FromView(target->view) == NULL);
    CHECK(!draft_gives(target->weak));
    if (!target->is_main) {
        CHECK(PyThreadState_EnsureFromView(target->view) == NULL);
    }
}

static void python(const char *code)
{
    CHECK(PyRun_SimpleString(code) == 0);
}


/* ---- Calls ----------------------------------------------------------------------------------- */

/* Inside an Ensure that holds the interpreter, all is given, also while the exit waits. */
static bool must_be_given(void)
{
    return depth > 0 && legacy == 0 && !in_kid;
}

static void call(void);
static struct target *begin_sub(PyThreadState **sub);
static void end_sub(struct target *target, PyThreadState *sub);

/* A thread of a moment, which its maker waits for: what that one holds or ends concerns it too. */
struct guest {
    unsigned stream;
    int in_subs, ending;
};

static void *guest_main(void *argument)
{
    struct guest *self = argument;
    random_start(self->stream);
    is_worker = true;
    in_subs = self->in_subs;
    ending = self->ending + 1;          /* it empties no mailbox */
    call();
    if (forked) {
        _exit(0);
    }
    if (ONE_IN(4)) {                    /* ends inside an Ensure, whose hold the library gives back */
        PyThreadStateToken *token = PyThreadState_EnsureFromView(main_target.view);
        if (token != NULL) {
            PyEval_SaveThread();
        }
    }
    return NULL;
}

static void have_a_guest(void)
{
    pthread_t thread;
    struct guest guest = {64 + below(1000000), in_subs, ending};
    PyThreadState *self = PyEval_SaveThread();
    CHECK(pthread_create(&thread, NULL, guest_main, &guest) == 0);
    pthread_join(thread, NULL);
    PyEval_RestoreThread(self);
}

/* The child of a fork by C alone must not use Python. A first use does: it imports. Tracing does: it
 * asks for the innermost Python code, which is harmless for a thread that has the GIL. */
static bool may_fork_plainly(void)
{
#ifdef Py_GIL_DISABLED
    return ready && !traced;
#else
    return ready;
#endif
}

/* A fork by C alone: the child may use handles, but not Python. */
static void plain_fork(struct target *target)
{
    pid_t kid = fork();
    if (kid == 0) {
        in_kid = true;
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(target->view);
        if (guard != NULL) {
            PyInterpreterGuard_Close(guard);
        }
        draft_gives(target->weak);
        draft_weak_close(draft_weak_dup(target->weak));
        PyInterpreterView_Close(target->view);
        _exit(0);
    }
    CHECK(kid > 0);
    shared->forks++;
    PyThreadState *self = PyEval_SaveThread();
    enum ended ended = await(kid, limit * 2 / 3, false);
    shared->kids_crashed += ended == CRASHED;
    shared->kids_hung += ended == HUNG;
    PyEval_RestoreThread(self);
}

/* Whether the child can do without what another thread has at the moment of the fork. */
static bool may_fork_in_python(void)
{
#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX < 0x030E0000
    /* Not without locks of CPython: its garbage collection waits (stop_the_world), or even
     * PyOS_AfterFork_Child (PyDict_Pop in clear_locals). */
    return false;
#elif PY_VERSION_HEX >= 0x030F0000
    /* PyGILState_Ensure guards the interpreter, and the child's Py_FinalizeEx waits for that. */
    return ready && !legacy_calls;
#else
    return ready;                       /* in the middle of first imports it cannot */
#endif
}

/* A fork through Python, in which the child goes on as this program with one thread. CPython's own
 * child breaks when a subinterpreter is alive. */
static void python_fork(void)
{
    pthread_mutex_lock(&lock);
    bool may = alive == 0 && may_fork_in_python();
    alive = may ? -1 : alive;
    pthread_mutex_unlock(&lock);
    if (!may) {
        return;
    }
    long parent = getpid(), kid = -1;
    shared->child_at = PARENT;
    PyObject *result = PyObject_CallMethod(PyImport_AddModule("__main__"), "fork", NULL);
    if (getpid() != parent) {
        shared->child_at = BACK;
        in_kid = forked = true;
        pthread_mutex_init(&lock, NULL);
        memset(slots + 1, 0, sizeof slots - sizeof *slots);
        mailbox = NULL;
        alive = 0;
        shared->entered += depth + python_depth;
        if (!is_main_thread) {          /* 3.11 makes none any more once it has had none */
            PyThreadState_New(PyInterpreterState_Get());
            main_target.threads = false;    /* threading._shutdown() fails there, and joins none */
        }
    }
    if (result != NULL) {
        kid = PyLong_AsLong(result);
    }
    PyErr_Clear();                      /* CPython forks no more when it finalizes */
    Py_XDECREF(result);
    if (in_kid) {
        return;
    }
    if (kid > 0) {
        shared->forks++;
        PyThreadState *self = PyEval_SaveThread();
        for (int i = 0; i < 3000 && shared->child_at != BACK; i++) {
            usleep(1000);
        }
        if (shared->child_at == FORKED) {
            /* In CPython's clean-up, which in some versions waits for what another thread had locked:
             * 3.9, 3.10 the list of thread states, 3.12 a lock of `threading`. */
            bool ours = backtrace_of(kid);
            kill(kid, SIGKILL);
            waitpid(kid, NULL, 0);
            shared->kids_hung += ours;
            shared->stuck_in_cpython += !ours;
        } else {
            enum ended ended = await(kid, limit * 2 / 3, false);
            shared->kids_crashed += ended == CRASHED;
            shared->kids_hung += ended == HUNG;
        }
        PyEval_RestoreThread(self);
    }
    pthread_mutex_lock(&lock);
    alive = 0;
    pthread_mutex_unlock(&lock);
}

/* Something that a thread does while it is attached to the target's interpreter. */
static void do_something(struct target *target)
{
    switch (below(15)) {
    case 0:
        python("sum(range(300))");
        break;
    case 1:
        python("[str(i) for i in range(50)]");
        break;
    case 2:
    case 3:
        Py_BEGIN_ALLOW_THREADS
        usleep(below(1500));
        Py_END_ALLOW_THREADS
        break;
    case 4: {
        if (depth == 0) {
            break;                      /* legacy calls know main only, unless inside an Ensure */
        }
        PyThreadState *self = PyThreadState_Get();
        PyGILState_STATE state = PyGILState_Ensure();
        CHECK(PyThreadState_Get() == self);
        python("len('legacy')");
        PyGILState_Release(state);
        break;
    }
    case 5:
    case 6:
    case 7:
        if (depth < MAX_DEPTH) {
            call();
        }
        break;
    case 8: {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
        CHECK(guard != NULL || !must_be_given());
        if (guard == NULL) {
            PyErr_Clear();
        } else if (is_worker && !in_kid && ending == 0 && ONE_IN(2)) {
            swap_mail(guard);           /* workers empty the box all the time, unless they end something */
        } else {
            PyInterpreterGuard_Close(guard);
        }
        break;
    }
    case 9: {
        PyInterpreterView *view = PyInterpreterView_FromCurrent();
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        PyInterpreterView_Close(view);
        CHECK(token != NULL || !must_be_given());
        if (token != NULL) {
            call_entered();
            python("len('view')");
            PyThreadState_Release(token);
            call_finished();
        }
        break;
    }
    case 10:
        if (target->threads) {          /* 3.12 starts none once the exit has begun */
            /* A daemon thread that waits for the GIL over Py_FinalizeEx may get it, with a freed thread
             * state, in the next run: CPython's exits do not wait for those. */
            python("import threading\n"
                   "try: threading.Thread(target=globals().get('call'), daemon=False).start()\n"
                   "except RuntimeError: pass\n");
        }
        break;
    case 11:
        if (target->is_main && !in_kid && ONE_IN(3)) {
            python_fork();
        }
        break;
    case 12:
        if (!in_kid && may_fork_plainly() && ONE_IN(5)) {
            plain_fork(target);
        }
        break;
    case 13:
        /* Not where one is held: two threads that each hold what the other ends wait without end. */
        if (target->is_main && in_subs == 0 && depth < MAX_DEPTH && ONE_IN(3)) {
            PyThreadState *sub;
            struct target *new = begin_sub(&sub);
            if (new != NULL) {
                for (int i = below(4); i > 0; i--) {
                    do_something(target);
                }
                end_sub(new, sub);
            }
        }
        break;
    case 14:
        if (ONE_IN(2)) {
            have_a_guest();
        }
        break;
    }
}

/* Whether only one thread at a time runs there, that of who finalizes it included. */
static bool one_gil(struct target *target)
{
#ifdef Py_GIL_DISABLED
    (void)target;
    return false;
#else
    return !target->own_gil;
#endif
}

static void work(void *argument)
{
    struct target *target = argument;
    PyThreadState *self = PyThreadState_Get();
    CHECK(PyInterpreterState_GetID(PyThreadState_GetInterpreter(self)) == target->id);
    target->inside++;
    in_subs += !target->is_main;
    for (int i = below(4); i > 0; i--) {
        if (is_worker && one_gil(target) && ONE_IN(5)) {    /* drops and holds while nobody else can run */
            bool daemon = draft_set_daemon(true);
            CHECK(draft_set_daemon(false) || !daemon || !must_be_given());
        }
        do_something(target);
        CHECK(PyThreadState_Get() == self);
    }
    if (may_vanish != NULL && last_run && !in_kid && depth == 1 && target->is_main && ONE_IN(30)) {
        shared->finished++;             /* from here on, CPython may end this thread */
        target->inside--;
        *may_vanish = true;
        draft_set_daemon(true);
        Py_BEGIN_ALLOW_THREADS
        usleep(below(3000));
        Py_END_ALLOW_THREADS
        python("len('daemon')");
    } else {
        target->inside--;
    }
    in_subs -= !target->is_main;
}

/* A call into some interpreter, attached or not, if it lets us in. */
static void call(void)
{
    struct target *target = pick();
    bool attached = depth > 0 || !is_worker;
    PyThreadState *before = attached ? PyThreadState_Get() : NULL;
    int era_before = era;
    bool got_in = false;
    switch (below(5)) {
    case 0:
    case 1: {
        PyThreadStateToken *token = PyThreadState_EnsureFromView(target->view);
        if ((got_in = token != NULL)) {
            call_entered();
            work(target);
            PyThreadState_Release(token);
            call_finished();
        }
        break;
    }
    case 2:
    case 3: {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(target->view);
        if ((got_in = guard != NULL)) {
            bool by_legacy = legacy_calls && target->is_main && depth == 0 && !attached && ONE_IN(2);
            for (int i = 1 + below(2); i > 0 && !in_kid; i--) {
                PyGILState_STATE state = PyGILState_UNLOCKED;
                PyThreadStateToken *token = NULL;
                if (by_legacy) {
                    legacy++;
                    state = PyGILState_Ensure();
                } else {
                    token = PyThreadState_Ensure(guard);
                    CHECK(token != NULL);
                }
                call_entered();
                work(target);
                if (by_legacy) {
                    PyGILState_Release(state);
                    legacy--;
                } else {
                    PyThreadState_Release(token);
                }
                call_finished();
            }
            PyInterpreterGuard_Close(guard);
        }
        break;
    }
    case 4:
        got_in = draft_call(target->weak, target->is_main, target->is_main ? target->address : NULL,
                            work, target);
        break;
    }
    if (attached) {
        CHECK(PyThreadState_Get() == before);
    }
    if (!got_in) {
        shared->refused++;
    } else if (!in_kid) {
        CHECK(era_before != era || era % 2 == 1);    /* not while there is no Python */
    }
    put_back(target);
}


/* ---- Threads --------------------------------------------------------------------------------- */

/* What Python code knows as `call`; target of its threads, and an atexit callback. */
static PyObject *python_call(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args))
{
    static atomic_uint threads;
    if (random_state == 0) {
        random_start(32 + threads++ % 32);
    }
    shared->entered++;
    python_depth++;
    call();
    python_depth--;
    shared->finished++;
    if (forked && !is_main_thread && !is_worker && python_depth == 0) {
        _exit(0);                       /* a child of a thread that nobody would come back to */
    }
    Py_RETURN_NONE;
}

/* When `atexit` of main gives up its list, after what the library has put there: that one has waited. */
static PyObject *check_waited(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args))
{
    if (!in_kid) {
        CHECK(main_target.inside == 0);
        check_refused(&main_target);
    }
    Py_RETURN_NONE;
}

static PyMethodDef call_method = {"call", python_call, METH_NOARGS, NULL};
static PyMethodDef waited_method = {"check_waited", check_waited, METH_NOARGS, NULL};

static void expose(PyMethodDef *method)
{
    PyObject *function = PyCFunction_New(method, NULL);
    CHECK(function != NULL);
    CHECK(PyObject_SetAttrString(PyImport_AddModule("__main__"), method->ml_name, function) == 0);
    Py_DECREF(function);
}

struct worker {
    pthread_t thread;
    int number;
    atomic_bool may_vanish;
};

static void *worker_main(void *argument)
{
    struct worker *self = argument;
    random_start(1 + self->number);
    is_worker = true;
    may_vanish = self->number > 0 ? &self->may_vanish : NULL;
    unsigned pause = below(2000);
    while (!stop) {
        call();
        if (in_kid) {                   /* the child of a fork in that call: it ends here */
            _exit(0);                   /* 3.13 cannot finalize without its first thread state */
        }
        swap_mail(NULL);
        usleep(below(pause + 1));
    }
    return NULL;
}


/* ---- The program that exits ------------------------------------------------------------------ */

static void first_use(struct target *target)
{
    target->view = PyInterpreterView_FromCurrent();
    CHECK(target->view != NULL);
    target->weak = draft_weak();
    target->address = PyInterpreterState_Get();
    target->id = PyInterpreterState_GetID(target->address);
}

/* Both leave the caller attached as it was. The new interpreter waits, detached. */
static struct target *begin_sub(PyThreadState **sub)
{
    pthread_mutex_lock(&lock);
    bool may = alive >= 0 && alive < SLOTS;
    alive += may;
    pthread_mutex_unlock(&lock);
    if (!may) {
        return NULL;
    }
    PyThreadState *caller = PyThreadState_Get();
    *sub = NULL;
    bool own_gil = false;
    /* In 3.12 interpreters with a GIL each count the versions of types together, without a lock, and now
     * and then find another type's methods: assign_version_tag, NEXT_GLOBAL_VERSION_TAG. */
#if PY_VERSION_HEX >= 0x030D0000
    if ((own_gil = ONE_IN(2))) {
        PyInterpreterConfig config = {
            .allow_threads = 1, .check_multi_interp_extensions = 1, .gil = PyInterpreterConfig_OWN_GIL,
        };
        PyStatus status = Py_NewInterpreterFromConfig(sub, &config);
        if (PyStatus_Exception(status)) {
            broken(__FILE__, __LINE__, status.err_msg);
        }
    } else
#endif
    *sub = Py_NewInterpreter();
    CHECK(*sub != NULL);
    shared->subs++;

    struct target *target = calloc(1, sizeof *target);
    CHECK(target != NULL);
    target->uses = 2;                   /* the slot's and the owner's */
    target->threads = ONE_IN(2);
    target->own_gil = own_gil;
    expose(&call_method);
    if (target->threads) {
        python("import threading, sys; sys.setswitchinterval(1e-5)");
    }
    if (ONE_IN(3)) {
        python("import atexit; atexit.register(call)");
    }
    first_use(target);
    if (ONE_IN(3)) {
        python("import atexit; atexit.register(call)");
    }
    CHECK(PyThreadState_Swap(caller) == *sub);

    pthread_mutex_lock(&lock);
    int slot = 1 + below(SLOTS - 1);
    struct target *old = slots[slot];
    slots[slot] = target;
    pthread_mutex_unlock(&lock);
    put_back(old);
    return target;
}

static void end_sub(struct target *target, PyThreadState *sub)
{
    swap_mail(NULL);                    /* nobody else may be there to close it */
    PyThreadState *caller = PyThreadState_Swap(sub);
    ending++;
    Py_EndInterpreter(sub);
    ending--;
    PyThreadState_Swap(caller);
    CHECK(target->inside == 0 || in_kid);
    check_refused(target);
    put_back(target);
    pthread_mutex_lock(&lock);
    alive--;
    pthread_mutex_unlock(&lock);
}

static void finalize(void)
{
    CHECK(Py_FinalizeEx() == 0);
    ready = false;
    era++;
    check_refused(&main_target);
    CHECK(!draft_gives_main());
    CHECK(PyThreadState_EnsureFromView(main_target.view) == NULL);
}

static void note_child(void)
{
    if (shared->child_at == PARENT) {
        shared->child_at = FORKED;
    }
}

static void run(void)
{
    era++;                              /* a view of main resolves before the next line has returned */
    Py_InitializeEx(0);
    expose(&call_method);
    python("import atexit, os, sys, threading, warnings; sys.setswitchinterval(1e-5); warnings.simplefilter('ignore')");
    if (main_target.view == NULL) {     /* nobody has used the library yet, nor will soon */
        expose(&waited_method);
        /* CPython does not call what is registered while exit callbacks run, but gives it up after them. */
        python("class GivenUp:\n"
               "    def __call__(self): pass\n"
               "    def __del__(self, check=check_waited): check()\n"
               "atexit.register(lambda: atexit.register(GivenUp()))");
    }
    /* With this lock: from 3.13 on, a thread that `threading` has not made takes it in its end, and in a
     * child the one from before the fork (_DeleteDummyThreadOnDel.__del__). */
    python("def fork():\n"
           "    with threading._active_limbo_lock: return os.fork()\n");
    if (ONE_IN(3)) {
        python("import atexit; atexit.register(call)");
    }
    if (main_target.view == NULL) {
        first_use(&main_target);
    }
    main_target.address = PyInterpreterState_Get();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    PyInterpreterGuard_Close(guard);
    if (ONE_IN(3)) {
        python("import atexit; atexit.register(call)");
    }
    static bool watching;
    if (!watching) {                    /* after the library's own: runs when that is through */
        pthread_atfork(NULL, NULL, note_child);
        watching = true;
    }
    ready = true;
}

static void steps_and_exit(void)
{
    enum { SUBS = 2 };
    struct target *targets[SUBS] = {0};
    PyThreadState *subs[SUBS];
    for (int step = below(12); step > 0; step--) {
        int i = below(SUBS);
        switch (below(4)) {
        case 0:
            if (targets[i] == NULL) {
                targets[i] = begin_sub(&subs[i]);
            } else {
                end_sub(targets[i], subs[i]);
                targets[i] = NULL;
            }
            break;
        case 1:
            Py_BEGIN_ALLOW_THREADS
            usleep(below(4000));
            Py_END_ALLOW_THREADS
            break;
        default:
            do_something(&main_target);
        }
    }
    for (int i = 0; i < SUBS; i++) {    /* alive at the end, they are fatal to CPython up to 3.12 */
        if (targets[i] != NULL) {
            end_sub(targets[i], subs[i]);
        }
    }
    finalize();
}

/* The library's, which it reads at its first use. */
static void choose_settings(void)
{
    static const char *const graces[] = {"0", "1", "20", "20", "300"};
    static const char *const warnings[] = {"0", "1", "10000"};
    setenv("PEP788_DRAIN_GRACE_MS", graces[below(5)], 1);
    setenv("PEP788_WAIT_WARN_MS", warnings[below(3)], 1);
    legacy_calls = ONE_IN(2);
    traced = ONE_IN(5);
    setenv("PEP788_TRACE", traced ? "1" : "0", 1);
}

static void program(void)
{
    struct worker workers[WORKERS];
    random_start(0);
    choose_settings();
    is_main_thread = true;
    int runs = ONE_IN(4) ? 2 : 1, count = below(WORKERS + 1);
    for (int i = 1; i <= runs; i++) {
        last_run = i == runs;
        run();
        for (int j = 0; i == 1 && j < count; j++) {
            workers[j].number = j;
            workers[j].may_vanish = false;
            CHECK(pthread_create(&workers[j].thread, NULL, worker_main, &workers[j]) == 0);
        }
        steps_and_exit();
        if (in_kid) {
            _exit(0);
        }
    }
    usleep(below(2000));
    stop = true;
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += JOIN_LIMIT;
    for (int i = 0; i < count; i++) {
        if (workers[i].may_vanish) {
            continue;                   /* may be hung */
        }
        shared->threads_lost += pthread_timedjoin_np(workers[i].thread, NULL, &deadline) != 0;
    }
    swap_mail(NULL);
    _exit(0);
}


/* ---- Many of them ---------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    const char *label = argc > 1 ? argv[1] : "";
    long exits = argc > 2 ? atol(argv[2]) : 0;
    bool replay = argc > 3;
    unsigned long first = replay ? strtoul(argv[3], NULL, 10) : (unsigned long)time(NULL) % 1000000 * 1000;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (exits < 1 || shared == MAP_FAILED) {
        fprintf(stderr, "usage: stress LABEL EXITS [SEED]\n");
        return 2;
    }
    if (getenv("STRESS_LIMIT") != NULL) {
        limit = atof(getenv("STRESS_LIMIT"));
    }
    long crashed = 0, hung = 0, lost_calls = 0, calls = 0, refused = 0, subs = 0, forks = 0, stuck = 0;
    char failures[2000] = "";
    double start = now();
    for (long i = 0; i < exits; i++) {
        seed = replay ? first : first + i;
        int backtraces = shared->backtraces;
        memset((void *)shared, 0, sizeof *shared);
        shared->backtraces = backtraces;
        double begin = now();
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            setpgid(0, 0);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
            signal(SIGSEGV, on_crash);
            signal(SIGBUS, on_crash);
            signal(SIGABRT, on_crash);
            program();
        }
        setpgid(child, child);
        enum ended ended = await(child, limit, true);
        kill(-child, SIGKILL);
        bool crash = ended == CRASHED || shared->kids_crashed > 0;
        bool hang = ended == HUNG || shared->kids_hung > 0 || shared->threads_lost > 0;
        long lost = crash || hang ? 0 : shared->entered - shared->finished;
        fprintf(stderr, "stress: seed %lu: %s: %.0f ms; calls %ld, lost %ld, refused %ld; "
                "subinterpreters %ld, forks %ld, threads lost %ld\n", seed,
                crash ? "crashed" : hang ? "hung" : lost ? "lost calls" : "well",
                (now() - begin) * 1000, shared->entered, lost, shared->refused, shared->subs,
                shared->forks, shared->threads_lost);
        crashed += crash;
        hung += hang;
        lost_calls += lost;
        calls += shared->entered;
        refused += shared->refused;
        subs += shared->subs;
        forks += shared->forks;
        stuck += shared->stuck_in_cpython;
        if ((crash || hang || lost) && strlen(failures) < sizeof failures - 40) {
            snprintf(failures + strlen(failures), 40, " %lu(%s)", seed,
                     crash ? "crashed" : hang ? "hung" : "lost");
        }
    }
    printf("%-12s %6ld %7ld %6ld %10ld   %8ld %8ld %6ld %6ld %5.0f s  %lu\n", label, exits, crashed, hung,
           lost_calls, calls, refused, subs, forks, now() - start, first);
    if (stuck > 0) {
        printf("    %ld children did not get out of CPython's own os.fork() (not counted as hung)\n", stuck);
    }
    if (*failures) {
        printf("    failed seeds:%s\n", failures);
    }
    return *failures ? 1 : 0;
}
