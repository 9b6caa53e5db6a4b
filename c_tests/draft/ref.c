/* Strong references: where they come from, what they name, and that each is closed on its own. */

#define API_DRAFT
#include "harness.h"

#include <stdatomic.h>

static event exiting = EVENT_INIT;
static event finalized = EVENT_INIT;

/* What no function leaves behind: every failure sets `*ref` to zero. */
#define RUBBISH ((PyInterpreterRef)(uintptr_t)0xBAD0)

static PyInterpreterRef ref_here(void)
{
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    return ref;
}

static PyInterpreterRef ref_of(PyThreadState *state)
{
    PyThreadState *caller = PyThreadState_Get();
    swap(caller, state);
    PyInterpreterRef ref = ref_here();
    swap(state, caller);
    return ref;
}

static PyInterpreterRef main_ref(void)
{
    PyInterpreterRef ref = RUBBISH;
    CHECK_INT(PyInterpreterRef_Main(&ref), 0);
    CHECK(ref != 0 && ref != RUBBISH);
    CHECK_PTR(PyInterpreterRef_AsInterpreter(ref), PyInterpreterState_Main());
    return ref;
}

static void check_no_main(void)
{
    PyInterpreterRef ref = RUBBISH;
    CHECK_INT(PyInterpreterRef_Main(&ref), -1);
    CHECK_PTR(ref, NULL);
}

static PyInterpreterRef strong(PyInterpreterState *interpreter)
{
    PyInterpreterRef ref = RUBBISH;
    CHECK_INT(PyInterpreterState_AsStrong(interpreter, &ref), 0);
    CHECK(ref != 0 && ref != RUBBISH);
    CHECK_PTR(PyInterpreterRef_AsInterpreter(ref), interpreter);
    return ref;
}

static void check_not_strong(PyInterpreterState *interpreter)
{
    PyInterpreterRef ref = RUBBISH;
    CHECK_INT(PyInterpreterState_AsStrong(interpreter, &ref), -1);
    CHECK_PTR(ref, NULL);
}

/* Once the exit has begun: attaches and runs Python many times, then closes the reference. */
static void work_through_the_exit(void *ref)
{
    event_wait(&exiting);
    for (int i = 0; i < 100; i++) {
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        run("done += 1");
        CHECK_INT(eval_long("done"), i + 1);
        PyThreadState_Release();
    }
    log_event("worked");
    PyInterpreterRef_Close(ref);
}

/* That `ref` alone holds the main interpreter. Ends Python. */
static void check_holds(PyInterpreterRef ref)
{
    run("done = 0");
    pthread_t thread = thread_start(work_through_the_exit, ref);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
}

/* --- The types --------------------------------------------------------------------------------- */

_Static_assert(sizeof(PyInterpreterRef) == sizeof(void *), "exactly pointer-sized");
_Static_assert(sizeof(PyInterpreterWeakRef) == sizeof(void *), "exactly pointer-sized");
/* Distinct types, so that a compiler refuses one where the other is wanted; and no `void *`, which
 * it would convert. */
_Static_assert(_Generic((PyInterpreterRef)0, PyInterpreterWeakRef: 0, void *: 0, default: 1), "distinct");
_Static_assert(_Generic((PyInterpreterWeakRef)0, PyInterpreterRef: 0, void *: 0, default: 1), "distinct");

static void *through_pthread(void *argument)
{
    PyInterpreterRef ref = (PyInterpreterRef)argument;
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(eval_long("6 * 7"), 42);
    PyThreadState_Release();
    return (void *)ref;
}

SCENARIO(castable, "The types are castable to and from void *, to travel through a thread's argument")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    pthread_t thread;
    void *result;
    CHECK_INT(pthread_create(&thread, NULL, through_pthread, (void *)ref), 0);
    Py_BEGIN_ALLOW_THREADS
    CHECK_INT(pthread_join(thread, &result), 0);
    Py_END_ALLOW_THREADS
    CHECK((PyInterpreterRef)result == ref);
    PyInterpreterRef_Close((PyInterpreterRef)result);
    py_finalize();
}

SCENARIO(zero_is_no_reference, "A zero value is no reference: one with static storage is none until it is set")
{
    static PyInterpreterRef ref;
    static PyInterpreterWeakRef wref;
    CHECK(!ref && !wref);
    py_init();
    ref = PyInterpreterRef_Get();
    wref = PyInterpreterWeakRef_Get();
    CHECK(ref && wref);
    PyInterpreterRef_Close(ref);
    PyInterpreterWeakRef_Close(wref);
    py_finalize();
}

/* --- PyInterpreterRef_Get ------------------------------------------------------------------------ */

SCENARIO(get, "PyInterpreterRef_Get: strong reference to the current interpreter")
{
    py_init();
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    CHECK_PTR(PyInterpreterRef_AsInterpreter(ref), PyInterpreterState_Main());
    CHECK(!PyErr_Occurred());
    check_holds(ref);
}

SCENARIO(get_in_a_subinterpreter, "PyInterpreterRef_Get: the current interpreter, not the main one")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    CHECK_PTR(PyInterpreterRef_AsInterpreter(ref), PyThreadState_GetInterpreter(sub));
    swap(sub, own);
    CHECK_PTR(PyInterpreterRef_AsInterpreter(ref), PyThreadState_GetInterpreter(sub));
    PyInterpreterRef_Close(ref);
    sub_end(sub);
    py_finalize();
}

static void get_too_late(void *unused)
{
    (void)unused;
    CHECK_PTR(PyInterpreterRef_Get(), NULL);
    check_finalization_error();
    log_event("refused");
}

SCENARIO(get_in_finalizers,
         "PyInterpreterRef_Get: zero, with the exception of the accepted API's FromCurrent, once the "
         "interpreter gives no more references")
{
    py_init();
    PyInterpreterRef_Close(ref_here());
    at_teardown(get_too_late, NULL);
    py_finalize();
    expect_log("refused");
}

SCENARIO(first_get_in_a_finalizer, "PyInterpreterRef_Get: the same where this is the first use of the API at all")
{
    py_init();
    at_teardown(get_too_late, NULL);
    py_finalize();
    expect_log("refused");
}

SCENARIO(get_in_finalizers_of_a_subinterpreter, "PyInterpreterRef_Get: the same at the end of a subinterpreter")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    PyInterpreterRef_Close(ref_here());
    at_teardown(get_too_late, NULL);
    swap(sub, own);
    sub_end(sub);
    expect_log("refused");
    PyInterpreterRef_Close(ref_here());
    py_finalize();
}

/* --- PyInterpreterRef_Main ------------------------------------------------------------------------ */

SCENARIO(main_attached, "PyInterpreterRef_Main: strong reference to the main interpreter; caller attached to it")
{
    py_init();
    check_holds(main_ref());
}

static void main_from_a_detached_thread(void *result)
{
    CHECK_PTR(attached(), NULL);
    *(PyInterpreterRef *)result = main_ref();
    CHECK_PTR(attached(), NULL);
}

SCENARIO(main_detached_and_never_used_before,
         "PyInterpreterRef_Main: the caller needs no thread state, and nobody has to have used the API before")
{
    py_init();
    PyInterpreterRef ref = 0;
    py_thread_join(thread_start(main_from_a_detached_thread, &ref));
    /* Runs what is pending, so that the exit callback below is the later one of the two. */
    run("for _ in range(1000): pass");
    check_holds(ref);
}

static void attach_through_main(void *unused)
{
    (void)unused;
    PyInterpreterRef ref = main_ref();
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyInterpreterRef_Close(ref);
    CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
    run("done = 42");
    PyThreadState_Release();
}

SCENARIO(main_for_a_callback_without_user_data,
         "PyInterpreterRef_Main: a thread that was given nothing attaches through it")
{
    py_init();
    py_thread_join(thread_start(attach_through_main, NULL));
    CHECK_INT(eval_long("done"), 42);
    py_finalize();
}

SCENARIO(main_from_a_subinterpreter, "PyInterpreterRef_Main: the main interpreter, also from within another; what is attached stays")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    PyInterpreterRef ref = main_ref();
    CHECK_PTR(PyThreadState_Get(), sub);
    swap(sub, own);
    sub_end(sub);
    check_holds(ref);
}

/* Up to 3.11 CPython gives a pending call to the interpreter of whoever has the GIL. */
SCENARIO(main_detached_while_a_subinterpreter_runs,
         "PyInterpreterRef_Main: the main interpreter is held also where the GIL is a subinterpreter's at that moment, "
         "which then ends")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterRef ref = 0;
    swap(own, sub);
    thread_join(thread_start(main_from_a_detached_thread, &ref)); /* with the GIL */
    swap(sub, own);
    sub_end(sub);
    /* Up to 3.11 a thread sees what others have made pending when it takes the GIL. */
    Py_BEGIN_ALLOW_THREADS
    Py_END_ALLOW_THREADS
    run("for _ in range(1000): pass");
    check_holds(ref);
}

SCENARIO(main_before_and_after, "PyInterpreterRef_Main: -1, and zero in *ref, before Py_Initialize and after Py_FinalizeEx")
{
    check_no_main();
    py_init();
    PyInterpreterRef_Close(main_ref());
    py_finalize();
    check_no_main();
    py_init();
    PyInterpreterRef_Close(main_ref());
    py_finalize();
    check_no_main();
}

static void no_main_afterwards(void *unused)
{
    (void)unused;
    PyInterpreterRef_Close(main_ref());
    event_set(&exiting);
    event_wait(&finalized);
    check_no_main();
    log_event("refused");
}

SCENARIO(main_after_finalization_from_a_thread, "PyInterpreterRef_Main: -1 after the end also for a thread that it served before")
{
    py_init();
    pthread_t thread = thread_start(no_main_afterwards, NULL);
    py_event_wait(&exiting);
    py_finalize();
    event_set(&finalized);
    thread_join(thread);
    expect_log("refused");
}

/* Runs in a finalizer; the exception is that of somebody else. */
static void no_main_too_late(void *unused)
{
    (void)unused;
    PyErr_SetString(PyExc_KeyError, "mine");
    check_no_main();
    check_not_strong(PyInterpreterState_Main());
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    check_no_main();
    check_not_strong(PyInterpreterState_Main());
    CHECK(!PyErr_Occurred());
    log_event("refused");
}

SCENARIO(main_in_finalizers,
         "PyInterpreterRef_Main, PyInterpreterState_AsStrong: -1 in finalizers, no exception; one that is set stays")
{
    py_init();
    PyInterpreterRef_Close(ref_here());
    at_teardown(no_main_too_late, NULL);
    py_finalize();
    expect_log("refused");
}

SCENARIO(first_main_in_a_finalizer, "PyInterpreterRef_Main: the same where this is the first use of the API at all")
{
    py_init();
    at_teardown(no_main_too_late, NULL);
    py_finalize();
    expect_log("refused");
}

/* --- PyInterpreterState_AsStrong ------------------------------------------------------------------- */

SCENARIO(as_strong_of_the_current, "PyInterpreterState_AsStrong: the current interpreter, never used before")
{
    py_init();
    check_holds(strong(PyInterpreterState_Get()));
}

SCENARIO(as_strong_of_the_current_subinterpreter,
         "PyInterpreterState_AsStrong: the current subinterpreter, never used before")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    PyInterpreterRef ref = strong(PyThreadState_GetInterpreter(sub));
    swap(sub, own);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_PTR(attached_interpreter(), PyThreadState_GetInterpreter(sub));
    PyThreadState_Release();
    PyInterpreterRef_Close(ref);
    sub_end(sub);
    py_finalize();
}

static void strong_main_from_a_thread(void *result)
{
    *(PyInterpreterRef *)result = strong(PyInterpreterState_Main());
    CHECK_PTR(attached(), NULL);
}

SCENARIO(as_strong_of_main_detached, "PyInterpreterState_AsStrong: the main interpreter, from a detached thread, never used before")
{
    py_init();
    PyInterpreterRef ref = 0;
    py_thread_join(thread_start(strong_main_from_a_thread, &ref));
    run("for _ in range(1000): pass");
    check_holds(ref);
}

static void strong_sub_from_a_thread(void *interpreter)
{
    PyInterpreterRef ref = strong(interpreter);
    CHECK_PTR(attached(), NULL);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_PTR(attached_interpreter(), interpreter);
    run("visited = 1");
    PyThreadState_Release();
    PyInterpreterRef_Close(ref);
}

SCENARIO(as_strong_of_a_known_subinterpreter,
         "PyInterpreterState_AsStrong: a subinterpreter that is not the current one, but known; from anywhere")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterRef_Close(ref_of(sub));
    PyInterpreterRef_Close(strong(PyThreadState_GetInterpreter(sub)));
    CHECK_PTR(PyThreadState_Get(), own);
    py_thread_join(thread_start(strong_sub_from_a_thread, PyThreadState_GetInterpreter(sub)));
    swap(own, sub);
    CHECK_INT(eval_long("visited"), 1);
    swap(sub, own);
    sub_end(sub);
    py_finalize();
}

static void not_strong(void *interpreter)
{
    check_not_strong(interpreter);
}

static void not_strong_attached(void *interpreter)
{
    PyThreadState *state = PyThreadState_New(PyInterpreterState_Main());
    PyEval_RestoreThread(state);
    check_not_strong(interpreter);
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
}

SCENARIO(as_strong_of_a_subinterpreter_never_used,
         "PyInterpreterState_AsStrong: a subinterpreter in which the API was never used is unknown to other threads, attached or "
         "not; and to its own from 3.12 on")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterState *interpreter = PyThreadState_GetInterpreter(sub);
    py_thread_join(thread_start(not_strong, interpreter));
    py_thread_join(thread_start(not_strong_attached, interpreter));
#if PY_VERSION_HEX >= 0x030C0000
    check_not_strong(interpreter);
    PyInterpreterRef_Close(ref_of(sub));
#endif
    PyInterpreterRef ref = strong(interpreter);
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_PTR(attached_interpreter(), interpreter);
    run("done = 0");
    at_exit(set_event, &exiting);
    PyThreadState_Release();
    /* It holds. */
    pthread_t thread = thread_start(work_through_the_exit, ref);
    sub_end(sub);
    log_event("ended");
    py_thread_join(thread);
    expect_log("worked,ended");
    check_not_strong(interpreter);
    py_finalize();
}

static void check_garbage(void *unused)
{
    (void)unused;
    static char page[8192];
    memset(page, 0x5A, sizeof page);
    check_not_strong(NULL);
    check_not_strong((PyInterpreterState *)page);
    /* Not even memory: the address is not followed. */
    check_not_strong((PyInterpreterState *)(uintptr_t)0x10);
    check_not_strong((PyInterpreterState *)(uintptr_t)0xDEADBEEFDEADBEE8);
}

SCENARIO(as_strong_of_garbage,
         "PyInterpreterState_AsStrong: -1 for what is unknown, a pointer to anything, to nothing, NULL")
{
    check_garbage(NULL);
    py_init();
    check_garbage(NULL);
    PyInterpreterRef_Close(ref_here());
    check_garbage(NULL);
    CHECK(!PyErr_Occurred());
    PyErr_SetString(PyExc_KeyError, "mine");
    check_garbage(NULL);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    py_thread_join(thread_start(check_garbage, NULL));
    py_finalize();
    check_garbage(NULL);
}

SCENARIO(as_strong_of_a_freed_interpreter,
         "PyInterpreterState_AsStrong: -1 for the address of an interpreter that is gone, attached or not")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterState *address = PyThreadState_GetInterpreter(sub);
    PyInterpreterRef_Close(ref_of(sub));
    PyInterpreterRef_Close(strong(address));
    sub_end(sub);
    check_not_strong(address);
    CHECK(!PyErr_Occurred());
    py_thread_join(thread_start(not_strong, address));
    py_finalize();
    check_not_strong(address);
}

SCENARIO(as_strong_of_a_freed_main, "PyInterpreterState_AsStrong: -1 for the main interpreter of a runtime that has ended")
{
    py_init();
    PyInterpreterState *address = PyInterpreterState_Main();
    PyInterpreterRef_Close(strong(address));
    py_finalize();
    check_not_strong(address);
    thread_join(thread_start(not_strong, address));
}

static void strong_until_done(void *unused)
{
    (void)unused;
    /* Neither the main interpreter, nor the current one. */
    CHECK_PTR(PyInterpreterRef_Get(), NULL);
    check_finalization_error();
    check_not_strong(PyInterpreterState_Get());
    CHECK(!PyErr_Occurred());
    PyInterpreterRef_Close(strong(PyInterpreterState_Main()));
    PyInterpreterRef_Close(main_ref());
    log_event("refused");
}

SCENARIO(as_strong_in_finalizers_of_a_subinterpreter,
         "PyInterpreterState_AsStrong: -1 for a subinterpreter that is done waiting; the main one is still given")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterRef_Close(ref_of(sub));
    swap(own, sub);
    at_teardown(strong_until_done, NULL);
    swap(sub, own);
    sub_end(sub);
    expect_log("refused");
    py_finalize();
}

static void strong_during_the_wait(void *ref)
{
    event_wait(&exiting);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    /* The grace for those who hold nothing is over from the beginning, but this thread does hold. */
    PyInterpreterRef_Close(ref_here());
    PyInterpreterRef_Close(strong(PyInterpreterState_Get()));
    PyInterpreterRef_Close(main_ref());
    PyThreadState_Release();
    log_event("closed");
    PyInterpreterRef_Close(ref);
}

// env: PEP788_DRAIN_GRACE_MS=0
SCENARIO(as_strong_from_a_holder_during_the_wait,
         "PyInterpreterRef_Get, PyInterpreterRef_Main, PyInterpreterState_AsStrong fail only when the interpreter "
         "is done waiting: not for a thread it waits for")
{
    py_init();
    pthread_t thread = thread_start(strong_during_the_wait, ref_here());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "closed,finalized");
}

/* --- PyInterpreterRef_AsInterpreter ------------------------------------------------------------------ */

static void check_as_interpreter(void *pair)
{
    PyInterpreterRef *refs = pair;
    CHECK_PTR(PyInterpreterRef_AsInterpreter(refs[0]), PyInterpreterState_Main());
    CHECK(PyInterpreterRef_AsInterpreter(refs[1]) != PyInterpreterState_Main());
}

SCENARIO(as_interpreter, "PyInterpreterRef_AsInterpreter: the interpreter; the caller is attached to it, to another, or to none")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterRef refs[2] = {ref_here(), ref_of(sub)};
    CHECK_PTR(PyInterpreterRef_AsInterpreter(refs[1]), PyThreadState_GetInterpreter(sub));
    check_as_interpreter(refs);
    swap(own, sub);
    check_as_interpreter(refs);
    swap(sub, own);
    py_thread_join(thread_start(check_as_interpreter, refs));
    PyInterpreterRef_Close(refs[0]);
    PyInterpreterRef_Close(refs[1]);
    sub_end(sub);
    py_finalize();
}

/* --- PyInterpreterRef_Dup, PyInterpreterRef_Close ----------------------------------------------------- */

SCENARIO(dup_holds_by_itself, "PyInterpreterRef_Dup: another strong reference, which holds when the first one is closed")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    PyInterpreterRef other = PyInterpreterRef_Dup(ref);
    CHECK(other != 0);
    PyInterpreterRef_Close(ref);
    CHECK_PTR(PyInterpreterRef_AsInterpreter(other), PyInterpreterState_Main());
    check_holds(other);
}

SCENARIO(the_first_holds_when_its_dup_is_closed, "PyInterpreterRef_Close: closes one reference, not its copies")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    PyInterpreterRef_Close(PyInterpreterRef_Dup(ref));
    check_holds(ref);
}

static void close_it(void *ref)
{
    CHECK_PTR(attached(), NULL);
    PyInterpreterRef_Close(ref);
}

static void dup_and_close(void *ref)
{
    CHECK_PTR(attached(), NULL);
    PyInterpreterRef other = PyInterpreterRef_Dup(ref);
    PyInterpreterRef_Close(ref);
    CHECK_INT(PyThreadState_Ensure(other), 0);
    run("x = 1");
    PyThreadState_Release();
    PyInterpreterRef_Close(other);
}

SCENARIO(dup_and_close_detached, "PyInterpreterRef_Dup, PyInterpreterRef_Close: the caller needs no thread state")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    py_thread_join(thread_start(close_it, PyInterpreterRef_Dup(ref)));
    py_thread_join(thread_start(dup_and_close, ref));
    /* Would hang if anything was left open. */
    py_finalize();
}

static void close_from_elsewhere(void *ref)
{
    event_wait(&exiting);
    PyInterpreterRef other = PyInterpreterRef_Dup(ref);
    log_event("first closed");
    PyInterpreterRef_Close(ref);
    CHECK(!event_wait_ms(&finalized, 50));
    log_event("second closed");
    PyInterpreterRef_Close(other);
}

// env: PEP788_DRAIN_GRACE_MS=0
SCENARIO(dup_during_the_wait,
         "PyInterpreterRef_Dup cannot fail, also while finalization waits; it never stops waitingy copy; "
         "PyInterpreterRef_Close from a detached thread ends the wait")
{
    py_init();
    pthread_t thread = thread_start(close_from_elsewhere, ref_here());
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    thread_join(thread);
    expect_log("first closed,second closed,finalized");
}

enum { MANY = 1000, THREADS = 8 };

static void take_and_close_many(void *ref)
{
    PyInterpreterRef refs[MANY];
    for (int i = 0; i < MANY; i++) {
        switch (i % 3) {
        case 0:
            refs[i] = PyInterpreterRef_Dup(ref);
            break;
        case 1:
            refs[i] = main_ref();
            break;
        default:
            refs[i] = strong(PyInterpreterRef_AsInterpreter(ref));
            break;
        }
    }
    for (int i = 0; i < MANY; i++) {
        PyInterpreterRef_Close(refs[i]);
    }
}

SCENARIO(many_at_once, "References are taken and closed by many threads at a time; the exit waits for exactly those that are open")
{
    py_init();
    PyInterpreterRef ref = ref_here();
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(take_and_close_many, ref);
    }
    for (int i = 0; i < THREADS; i++) {
        py_thread_join(threads[i]);
    }
    check_holds(ref);
}

/* --- While others end it ------------------------------------------------------------------------------ */

static PyInterpreterState *volatile address;    /* alive, or just ended */
static event address_there = EVENT_INIT;
static atomic_bool all_ended;

static void make_and_end(void *unused)
{
    (void)unused;
    PyThreadState *own = PyThreadState_New(PyInterpreterState_Main());
    PyEval_RestoreThread(own);
    for (int i = 0; i < 20; i++) {
        PyThreadState *sub = sub_new();
        address = PyThreadState_GetInterpreter(sub);
        event_set(&address_there);
        swap(own, sub);
        /* Others get the GIL, now and while it ends. */
        run("import threading, atexit, time; atexit.register(time.sleep, 0.001)");
        swap(sub, own);
        sub_end(sub);
    }
    PyThreadState_Clear(own);
    PyThreadState_DeleteCurrent();
    atomic_store(&all_ended, true);
}

// env: PEP788_DRAIN_GRACE_MS=0
// repeat: 5
SCENARIO(as_strong_while_it_ends,
         "PyInterpreterState_AsStrong: by the address of an interpreter that its own thread is ending it is 0 or -1, and does no harm")
{
    py_init();
    pthread_t thread = thread_start(make_and_end, NULL);
    Py_BEGIN_ALLOW_THREADS
    event_wait(&address_there);
    Py_END_ALLOW_THREADS
    while (!atomic_load(&all_ended)) {
        PyInterpreterRef ref = 0;
        int result = PyInterpreterState_AsStrong(address, &ref);
        CHECK(result == 0 ? ref != 0 : result == -1 && ref == 0 && PyErr_Occurred() == NULL);
        if (ref != 0) {
            PyInterpreterRef_Close(ref);
        }
        Py_BEGIN_ALLOW_THREADS
        sched_yield();
        Py_END_ALLOW_THREADS
    }
    py_thread_join(thread);
    py_finalize();
}
