/* Weak references: they hold nothing, they always stay legal, and they are never fooled. */

#define API_DRAFT
#include "harness.h"

static event exiting = EVENT_INIT;

#define RUBBISH ((PyInterpreterRef)(uintptr_t)0xBAD0)

static PyInterpreterWeakRef weak_here(void)
{
    PyInterpreterWeakRef wref = PyInterpreterWeakRef_Get();
    CHECK(wref != 0);
    return wref;
}

static PyInterpreterRef promote(PyInterpreterWeakRef wref)
{
    PyInterpreterRef ref = RUBBISH;
    CHECK_INT(PyInterpreterWeakRef_AsStrong(wref, &ref), 0);
    CHECK(ref != 0 && ref != RUBBISH);
    return ref;
}

static void check_gone(void *wref)
{
    PyInterpreterRef ref = RUBBISH;
    CHECK_INT(PyInterpreterWeakRef_AsStrong(wref, &ref), -1);
    CHECK_PTR(ref, NULL);
    if (attached() != NULL) {
        CHECK(!PyErr_Occurred());
    }
}

/* --- Making and promoting ------------------------------------------------------------------------- */

SCENARIO(get_and_promote, "PyInterpreterWeakRef_Get: a weak reference; AsStrong: 0 and a strong one to its interpreter")
{
    py_init();
    PyInterpreterWeakRef wref = weak_here();
    PyInterpreterRef ref = promote(wref);
    CHECK_PTR(PyInterpreterRef_AsInterpreter(ref), PyInterpreterState_Main());
    CHECK(!PyErr_Occurred());
    PyInterpreterRef_Close(ref);
    /* Promoting it did not use it up. */
    PyInterpreterRef_Close(promote(wref));
    PyInterpreterWeakRef_Close(wref);
    py_finalize();
}

SCENARIO(get_in_a_subinterpreter, "PyInterpreterWeakRef_Get: names the current interpreter, not the main one")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    PyInterpreterWeakRef wref = weak_here();
    swap(sub, own);
    PyInterpreterRef ref = promote(wref);
    CHECK_PTR(PyInterpreterRef_AsInterpreter(ref), PyThreadState_GetInterpreter(sub));
    PyInterpreterRef_Close(ref);
    PyInterpreterWeakRef_Close(wref);
    sub_end(sub);
    py_finalize();
}

static void promote_and_attach(void *wref)
{
    CHECK_PTR(attached(), NULL);
    PyInterpreterRef ref = promote(wref);
    CHECK_PTR(attached(), NULL);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    run("done += 1");
    PyThreadState_Release();
}

SCENARIO(promoted_by_a_detached_thread, "PyInterpreterWeakRef_AsStrong: the caller needs no thread state")
{
    py_init();
    run("done = 0");
    PyInterpreterWeakRef wref = weak_here();
    for (int i = 0; i < 3; i++) {
        py_thread_join(thread_start(promote_and_attach, wref));
    }
    CHECK_INT(eval_long("done"), 3);
    PyInterpreterWeakRef_Close(wref);
    py_finalize();
}

static void work_through_the_exit(void *ref)
{
    event_wait(&exiting);
    for (int i = 0; i < 100; i++) {
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        run("done += 1");
        PyThreadState_Release();
    }
    log_event("worked");
    PyInterpreterRef_Close(ref);
}

SCENARIO(what_is_promoted_holds, "PyInterpreterWeakRef_AsStrong: what it gives is a strong reference, which the exit waits for")
{
    py_init();
    run("done = 0");
    PyInterpreterWeakRef wref = weak_here();
    pthread_t thread = thread_start(work_through_the_exit, promote(wref));
    PyInterpreterWeakRef_Close(wref);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
}

SCENARIO(holds_nothing, "A weak reference holds nothing: interpreters end while some are open")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    PyInterpreterWeakRef of_sub = weak_here();
    swap(sub, own);
    PyInterpreterWeakRef of_main = weak_here();
    PyInterpreterWeakRef copy = PyInterpreterWeakRef_Dup(of_main);
    sub_end(sub);
    py_finalize();
    PyInterpreterWeakRef_Close(of_sub);
    PyInterpreterWeakRef_Close(of_main);
    PyInterpreterWeakRef_Close(copy);
}

/* --- Copies ------------------------------------------------------------------------------------------ */

static void copy_and_close(void *wref)
{
    CHECK_PTR(attached(), NULL);
    PyInterpreterWeakRef copy = PyInterpreterWeakRef_Dup(wref);
    CHECK(copy != 0);
    PyInterpreterWeakRef_Close(wref);
    PyInterpreterRef ref = promote(copy);
    CHECK(PyInterpreterRef_AsInterpreter(ref) != PyInterpreterState_Main());
    PyInterpreterRef_Close(ref);
    PyInterpreterWeakRef_Close(copy);
}

SCENARIO(dup, "PyInterpreterWeakRef_Dup: another weak reference, which works when the first one is closed; from a detached thread too")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    PyInterpreterWeakRef wref = weak_here();
    PyInterpreterWeakRef copy = PyInterpreterWeakRef_Dup(wref);
    swap(sub, own);
    PyInterpreterWeakRef_Close(wref);
    PyInterpreterRef_Close(promote(copy));
    py_thread_join(thread_start(copy_and_close, copy));
    sub_end(sub);
    py_finalize();
}

SCENARIO(dup_of_a_dead_one, "PyInterpreterWeakRef_Dup, PyInterpreterWeakRef_Close cannot fail, also after the interpreter is gone")
{
    enum { MANY = 100 };
    PyInterpreterWeakRef copies[MANY];
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    copies[0] = weak_here();
    swap(sub, own);
    sub_end(sub);
    for (int i = 1; i < MANY; i++) {
        copies[i] = PyInterpreterWeakRef_Dup(copies[i / 2]);
        CHECK(copies[i] != 0);
    }
    for (int i = 0; i < MANY / 2; i++) {
        PyInterpreterWeakRef_Close(copies[i]);
    }
    check_gone(copies[MANY / 2]);
    py_finalize();
    for (int i = MANY / 2; i < MANY; i++) {
        check_gone(copies[i]);
        PyInterpreterWeakRef_Close(copies[i]);
    }
}

/* --- Dead interpreters --------------------------------------------------------------------------------- */

static void dead_for_ever(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = new_interpreter();
    PyInterpreterState *address = PyThreadState_GetInterpreter(sub);
    swap(own, sub);
    PyInterpreterWeakRef wref = weak_here();
    swap(sub, own);
    PyInterpreterRef_Close(promote(wref));
    sub_end(sub);
    check_gone(wref);
    py_thread_join(thread_start(check_gone, wref));

    /* Others come and go, until one has the dead one's address. */
    bool reused = false;
    for (int i = 0; i < 100 && !reused; i++) {
        PyThreadState *other = new_interpreter();
        reused = PyThreadState_GetInterpreter(other) == address;
        check_gone(wref);
        swap(own, other);
        /* The newcomer is known to the library too, under references of its own. */
        PyInterpreterWeakRef its_own = weak_here();
        check_gone(wref);
        PyInterpreterRef ref = promote(its_own);
        CHECK_PTR(PyInterpreterRef_AsInterpreter(ref), PyThreadState_GetInterpreter(other));
        PyInterpreterRef_Close(ref);
        PyInterpreterWeakRef_Close(its_own);
        swap(other, own);
        py_thread_join(thread_start(check_gone, wref));
        sub_end(other);
    }
    printf("address %s\n", reused ? "reused" : "not reused");
    check_gone(wref);
    PyInterpreterWeakRef_Close(wref);
    py_finalize();
}

SCENARIO(dead_for_ever_sub,
         "PyInterpreterWeakRef_AsStrong: -1 after the interpreter was deleted, also when another one has its address")
{
    dead_for_ever(sub_new);
}

// pythons: >=3.12
SCENARIO(dead_for_ever_isolated, "The same for interpreters with a GIL of their own")
{
    dead_for_ever(sub_new_isolated);
}

SCENARIO(dead_main, "PyInterpreterWeakRef_AsStrong: -1 after Py_FinalizeEx")
{
    py_init();
    PyInterpreterWeakRef wref = weak_here();
    PyInterpreterRef_Close(promote(wref));
    py_finalize();
    check_gone(wref);
    thread_join(thread_start(check_gone, wref));
    PyInterpreterWeakRef_Close(wref);
}

SCENARIO(an_exception_stays, "PyInterpreterWeakRef_AsStrong: no exception on failure, and one that is set stays, on success as well")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    PyInterpreterWeakRef dead = weak_here();
    swap(sub, own);
    sub_end(sub);
    check_gone(dead);

    PyErr_SetString(PyExc_KeyError, "mine");
    PyInterpreterRef ref = RUBBISH;
    CHECK_INT(PyInterpreterWeakRef_AsStrong(dead, &ref), -1);
    CHECK_PTR(ref, NULL);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyInterpreterWeakRef wref = weak_here();
    PyInterpreterRef_Close(promote(wref));
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    PyInterpreterWeakRef_Close(wref);
    PyInterpreterWeakRef_Close(dead);
    py_finalize();
}

/* --- While interpreters end ------------------------------------------------------------------------------ */

static PyInterpreterWeakRef the_weak_ref;

static void gone_in_teardown(void *unused)
{
    (void)unused;
    check_gone(the_weak_ref);
    /* A weak reference is to be had at any time. */
    PyInterpreterWeakRef late = weak_here();
    check_gone(late);
    PyInterpreterWeakRef_Close(late);
    log_event("refused");
}

SCENARIO(refused_in_finalizers, "PyInterpreterWeakRef_AsStrong: -1 in finalizers; PyInterpreterWeakRef_Get still works there")
{
    py_init();
    the_weak_ref = weak_here();
    at_teardown(gone_in_teardown, NULL);
    py_finalize();
    expect_log("refused");
    PyInterpreterWeakRef_Close(the_weak_ref);
}

static void first_in_teardown(void *unused)
{
    (void)unused;
    PyInterpreterWeakRef wref = PyInterpreterWeakRef_Get();
    if (wref == 0) {
        CHECK(PyErr_ExceptionMatches(PyExc_MemoryError));
        PyErr_Clear();
    } else {
        check_gone(wref);
        PyInterpreterWeakRef_Close(wref);
    }
    log_event("asked");
}

SCENARIO(first_use_in_a_finalizer, "PyInterpreterWeakRef_Get: zero only with MemoryError, also where this is the first use of the API at all")
{
    py_init();
    at_teardown(first_in_teardown, NULL);
    py_finalize();
    expect_log("asked");
}

SCENARIO(first_use_in_a_finalizer_of_a_subinterpreter, "The same at the end of a subinterpreter")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    at_teardown(first_in_teardown, NULL);
    swap(sub, own);
    sub_end(sub);
    expect_log("asked");
    py_finalize();
}

static event promoted = EVENT_INIT;

static void promote_during_the_wait(void *wref)
{
    event_wait(&exiting);
    PyInterpreterRef ref = promote(wref);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    run("x = sum(range(1000))");
    PyThreadState_Release();
    log_event("promoted");
    event_set(&promoted);
}

static void hold_until_promoted(void *ref)
{
    event_wait(&promoted);
    log_event("closed");
    PyInterpreterRef_Close(ref);
}

// env: PEP788_DRAIN_GRACE_MS=-1
SCENARIO(promoted_during_the_wait, "PyInterpreterWeakRef_AsStrong: succeeds while finalization still waits for somebody else")
{
    py_init();
    PyInterpreterWeakRef wref = weak_here();
    pthread_t holder = thread_start(hold_until_promoted, promote(wref));
    pthread_t other = thread_start(promote_during_the_wait, wref);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    thread_join(holder);
    thread_join(other);
    expect_log("promoted,closed,finalized");
    PyInterpreterWeakRef_Close(wref);
}

/* --- An asynchronous callback ------------------------------------------------------------------------------ */

/* A library calls back when an operation completes, if ever, in a thread of its own. What it keeps
 * for that is a weak reference, so that it delays nobody's exit. */
struct operation {
    PyInterpreterWeakRef wref;
    event completed;
};

static void complete(void *argument)
{
    struct operation *operation = argument;
    event_wait(&operation->completed);
    PyInterpreterRef ref;
    if (PyInterpreterWeakRef_AsStrong(operation->wref, &ref) < 0) {
        log_event("too late");
    } else if (PyThreadState_Ensure(ref) < 0) {
        check_failed(__FILE__, __LINE__, "no memory");
    } else {
        PyInterpreterRef_Close(ref);
        run("on_completion()");
        PyThreadState_Release();
        log_event("called");
    }
    PyInterpreterWeakRef_Close(operation->wref);
}

SCENARIO(asynchronous_callback, "A callback through a weak reference is served while the interpreter is there, and refused when it is not")
{
    static struct operation first = {0, EVENT_INIT}, second = {0, EVENT_INIT};
    py_init();
    run("completed = 0\n"
        "def on_completion():\n"
        "    global completed\n"
        "    completed += 1");
    first.wref = weak_here();
    second.wref = PyInterpreterWeakRef_Dup(first.wref);
    pthread_t first_thread = thread_start(complete, &first);
    pthread_t second_thread = thread_start(complete, &second);
    event_set(&first.completed);
    py_thread_join(first_thread);
    CHECK_INT(eval_long("completed"), 1);
    py_finalize();
    log_event("finalized");
    event_set(&second.completed);
    thread_join(second_thread);
    expect_log("called,finalized,too late");
}

/* --- As fast as they can, while the program exits ------------------------------------------------------------ */

enum { THREADS = 8 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static event all_busy = EVENT_INIT;
static int busy;

static void note_busy(void)
{
    CHECK_INT(pthread_mutex_lock(&mutex), 0);
    bool all = ++busy == THREADS;
    CHECK_INT(pthread_mutex_unlock(&mutex), 0);
    if (all) {
        event_set(&all_busy);
    }
}

/* Attaches until it is refused. */
static void knock(void *wref)
{
    PyInterpreterRef ref = 0;
    for (long round = 0; PyInterpreterWeakRef_AsStrong(wref, &ref) == 0; round++) {
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        PyInterpreterRef_Close(ref);
        run("x = sum(range(20))");
        PyThreadState_Release();
        if (round == 0) {
            note_busy();
        }
    }
    check_gone(wref); /* Once refused, always refused. */
    log_event("refused");
}

// env: PEP788_DRAIN_GRACE_MS=20
// repeat: 20
SCENARIO(exit_while_threads_knock, "Threads that attach through weak references as fast as they can are refused at the end; none is hung, ended or crashed")
{
    py_init();
    PyInterpreterWeakRef wref = weak_here();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(knock, wref);
    }
    py_event_wait(&all_busy);
    py_finalize();
    for (int i = 0; i < THREADS; i++) {
        thread_join(threads[i]);
    }
    CHECK_INT(log_count("refused"), THREADS);
    PyInterpreterWeakRef_Close(wref);
}

// repeat: 2
SCENARIO(exit_while_threads_knock_with_the_grace, "The same with the settings as they are: the exit ends however hard threads knock")
{
    py_init();
    PyInterpreterWeakRef wref = weak_here();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(knock, wref);
    }
    py_event_wait(&all_busy);
    py_finalize();
    for (int i = 0; i < THREADS; i++) {
        thread_join(threads[i]);
    }
    CHECK_INT(log_count("refused"), THREADS);
    PyInterpreterWeakRef_Close(wref);
}
