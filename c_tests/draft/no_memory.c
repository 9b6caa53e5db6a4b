/* Every allocation on the way fails once, CPython's and the library's, and then all of them from that one on:
 * in each function of the draft that can fail, and in the exit's wait. */

// macos-file: no, a program cannot have the malloc of all libraries there
// windows-file: no, it forks, and takes the place of glibc's malloc
// sanitize-file: not address thread valgrind, which have a malloc of their own

#define API_DRAFT
#include "harness.h"

#include <dlfcn.h>

#include "no_memory.h"

/* One function of the API: 0 done, to be undone; -1 failed. */
struct function {
    int (*take)(void);
    void (*undo)(void);
    /* The exception is MemoryError where it fails; else there is none. */
    bool raises;
};

static PyInterpreterRef ref, taken;
static PyInterpreterWeakRef wref, weak_taken;

static int ref_get(void) { return (taken = PyInterpreterRef_Get()) == 0 ? -1 : 0; }
static int ref_main(void) { return PyInterpreterRef_Main(&taken); }
static int ref_by_address(void) { return PyInterpreterState_AsStrong(PyInterpreterState_Main(), &taken); }
static int weak_ref_get(void) { return (weak_taken = PyInterpreterWeakRef_Get()) == 0 ? -1 : 0; }
static int promote(void) { return PyInterpreterWeakRef_AsStrong(wref, &taken); }
static int ensure(void) { return PyThreadState_Ensure(ref); }
static int set_daemon(void) { return PyThreadState_SetDaemon(0); }
static void close_taken(void) { PyInterpreterRef_Close(taken); }
static void close_weak_taken(void) { PyInterpreterWeakRef_Close(weak_taken); }
static void release(void) { PyThreadState_Release(); }
static void unset_daemon(void) { CHECK_INT(PyThreadState_SetDaemon(1), 0); }

/* The reference that it steals is gone also where it fails. */
static int ensure_stealing(void) { return Pep788_EnsureStealing(PyInterpreterRef_Dup(ref)); }

/* What the one before made is taken back, or still there. */
static int set_and_unset_daemon(void)
{
    if (PyThreadState_SetDaemon(0) != 0) {
        return -1;
    }
    CHECK_INT(PyThreadState_GetDaemon() & ~1, 0);
    return PyThreadState_SetDaemon(1);
}

static void nothing(void)
{
    CHECK_INT(PyThreadState_GetDaemon(), 1);
}

static const struct function the_ref_get = {ref_get, close_taken, true};
static const struct function the_ref_main = {ref_main, close_taken, false};
static const struct function the_ref_by_address = {ref_by_address, close_taken, false};
static const struct function the_weak_ref_get = {weak_ref_get, close_weak_taken, true};
static const struct function the_promotion = {promote, close_taken, false};
static const struct function the_ensure = {ensure, release, false};
static const struct function the_stealing_ensure = {ensure_stealing, release, false};
static const struct function the_set_daemon = {set_daemon, unset_daemon, false};
static const struct function the_two_set_daemons = {set_and_unset_daemon, nothing, false};

static const struct function *function;
static bool every_later_one;

/* Handles are made in the child: those of the parent mean little in it. */
static bool with_handles;

static void take_handles(void)
{
    if (with_handles) {
        ref = PyInterpreterRef_Get();
        wref = PyInterpreterWeakRef_Get();
        CHECK(ref != 0 && wref != 0);
    }
}

/* Whether it was short of memory. */
static bool try_without(long nth)
{
    PyThreadState *before = attached();
    fail_from(nth, every_later_one);
    int result = function->take();
    bool failed = enough_memory();
    if (result != 0) {
        CHECK(failed);
        CHECK_INT(result, -1);
        CHECK_PTR(attached(), before);
        if (before != NULL) {
            CHECK_INT(PyErr_Occurred() != NULL, function->raises);
            CHECK(!function->raises || PyErr_ExceptionMatches(PyExc_MemoryError));
            PyErr_Clear();
        }
        CHECK_INT(function->take(), 0);
    }
    CHECK(attached() == NULL || !PyErr_Occurred());
    function->undo();
    CHECK_PTR(attached(), before);
    return failed;
}

/* A reference that was lost would make Python's end hang. */
static void end_python(void)
{
    if (ref != 0) {
        PyInterpreterRef_Close(ref);
    }
    py_finalize();
    if (wref != 0) {
        PyInterpreterWeakRef_Close(wref);
    }
}

static bool attached_here(long nth)
{
    take_handles();
    bool failed = try_without(nth);
    end_python();
    return failed;
}

static long the_nth;
static bool thread_failed;

static void fresh_thread(void *unused)
{
    (void)unused;
    thread_failed = try_without(the_nth);
}

static void legacy_thread(void *unused)
{
    (void)unused;
    PyGILState_STATE legacy = PyGILState_Ensure();
    thread_failed = try_without(the_nth);
    PyGILState_Release(legacy);
}

static bool in_thread(void (*body)(void *), long nth)
{
    take_handles();
    the_nth = nth;
    py_thread_join(thread_start(body, NULL));
    CHECK_INT(count_thread_states(), 1);
    end_python();
    return thread_failed;
}

static bool in_a_fresh_thread(long nth)
{
    return in_thread(fresh_thread, nth);
}

static bool in_a_legacy_thread(long nth)
{
    return in_thread(legacy_thread, nth);
}

static void once_each(const struct function *the_function, bool (*attempt)(long nth))
{
    function = the_function;
    every_later_one = false;
    in_children(attempt);
}

static void in_both_ways(const struct function *the_function, bool (*attempt)(long nth))
{
    once_each(the_function, attempt);
    every_later_one = true;
    in_children(attempt);
}

static void begin(void)
{
    count_allocations();
    py_init();
}

static void begin_with_handles(void)
{
    begin();
    with_handles = true;
}

/* --- The functions ------------------------------------------------------------------------------------ */

/* A first use imports `atexit`, which CPython cannot do without any memory: 3.13 never stops looping, 3.11 ends
 * the process. So one allocation fails there, not all later ones. */
// pythons: gil
// timeout: 120
SCENARIO(first_uses, "Each function where it is the first use: the promised failure, or done")
{
    begin();
    importing_may_crash(false);
    once_each(&the_ref_get, attached_here);
    once_each(&the_ref_main, attached_here);
    once_each(&the_ref_main, in_a_fresh_thread);
    once_each(&the_ref_by_address, attached_here);
    once_each(&the_weak_ref_get, attached_here);
    once_each(&the_set_daemon, in_a_legacy_thread);
}

// pythons: gil
// timeout: 120
SCENARIO(later_uses, "Each function later: the same")
{
    begin_with_handles();
    in_both_ways(&the_ref_get, attached_here);
    in_both_ways(&the_ref_main, in_a_fresh_thread);
    in_both_ways(&the_ref_by_address, attached_here);
    in_both_ways(&the_weak_ref_get, attached_here);
    in_both_ways(&the_promotion, in_a_fresh_thread);
}

// pythons: gil
// timeout: 120
SCENARIO(ensures, "Ensure and EnsureStealing, attached and in a fresh thread: -1 or done")
{
    begin_with_handles();
    in_both_ways(&the_ensure, attached_here);
    in_both_ways(&the_ensure, in_a_fresh_thread);
    in_both_ways(&the_stealing_ensure, attached_here);
    in_both_ways(&the_stealing_ensure, in_a_fresh_thread);
}

// pythons: gil
// timeout: 120
SCENARIO(set_daemons, "SetDaemon, both ways: -1 and all as before, or done")
{
    begin_with_handles();
    in_both_ways(&the_set_daemon, in_a_legacy_thread);
    in_both_ways(&the_two_set_daemons, in_a_legacy_thread);
}

/* --- The exit ------------------------------------------------------------------------------------------ */

static event exiting = EVENT_INIT;
static bool exit_failed;

/* The last exit callback before the library's, and the first one after it. */
static void begin_to_fail(void *unused)
{
    (void)unused;
    event_set(&exiting);
    fail_from(the_nth, every_later_one);
}

static void end_to_fail(void *unused)
{
    (void)unused;
    exit_failed = enough_memory();
}

static void callback(void)
{
    log_event("callback");
}

static void work_through_the_exit(void *code)
{
    event_wait(&exiting);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        run("x = sum(range(100))");
        PyThreadState_Release();
    }
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    run(code);
    PyThreadState_Release();
    log_event("worked");
    PyInterpreterRef_Close(ref);
}

static const char *late_code;

/* Where a lookup in `sys` fails, 3.13 reports that at once, until it has another function for it, and other threads
 * run meanwhile: they may register before callbacks are noted. */
static bool reports_lookups(void)
{
#if PY_VERSION_HEX >= 0x030D0000 && PY_VERSION_HEX < 0x030E0000
    return dlsym(dlopen(NULL, RTLD_LAZY), "_PySys_GetOptionalAttrString") == NULL;
#else
    return false;
#endif
}

static void report(void)
{
    log_event("report");
}

static bool exit_without(long nth)
{
    ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    the_nth = nth;
    at_exit(begin_to_fail, NULL);
    pthread_t thread = thread_start(work_through_the_exit, (void *)late_code);
    py_finalize();
    log_event("finalized");
    thread_join(thread);
    CHECK_INT(log_count("worked"), 1);
    /* What is late may be lost if there is no memory at all; a single failure loses nothing. */
    bool may_be_too_early = reports_lookups() && log_count("report") != 0;
    if (!every_later_one && strstr(late_code, "callback") != NULL && !may_be_too_early) {
        CHECK_INT(log_count("callback"), 1);
    }
    return exit_failed;
}

/* After `begin`. */
static void exits_without_one(const char *code)
{
    late_code = code;
    expose("callback", callback);
    expose("report", report);
    run("import sys; sys.unraisablehook = lambda _, report=report: report()");
    at_exit(end_to_fail, NULL);
    in_children(exit_without);
}

static void exits_without(const char *code)
{
    exits_without_one(code);
    every_later_one = true;
    in_children(exit_without);
}

// pythons: gil
// timeout: 120
SCENARIO(exit_waits, "An exit waits, and ends, whatever memory it lacks")
{
    begin();
    exits_without("pass");
}

// pythons: gil
// timeout: 120
SCENARIO(exit_with_a_late_callback, "The same where a guarded thread registers an exit callback")
{
    begin();
    exits_without("import atexit; atexit.register(callback)");
}

/* In 3.12 no thread can be started once the exit has begun. */
// pythons: gil !=3.12
// timeout: 120
SCENARIO(exit_with_a_late_thread, "The same where it starts a Python thread")
{
    begin();
    run("import threading\n"
        "def body():\n"
        "    for _ in range(100): sum(range(1000))\n"
        "    callback()");
    exits_without("threading.Thread(target=body, daemon=False).start()");
}

// env: PEP788_WAIT_WARN_MS=1
// pythons: gil
// timeout: 120
SCENARIO(exit_that_explains_itself, "The same where it says for whom it waits")
{
    begin();
    exits_without("import time; time.sleep(0.15)");
}

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// pythons: gil
// timeout: 300
SCENARIO(exit_that_lists_references, "... and where each reference was taken")
{
    begin();
    exits_without_one("import time; time.sleep(0.15)");
}
