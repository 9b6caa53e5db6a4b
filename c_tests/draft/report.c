/* What an exit says with PEP788_TRACE=1 of the draft's references, and of what threads hold by
 * themselves. */

#define API_DRAFT
#include "report.h"

static PyInterpreterRef ref;

/* None of these is inlined, so that the report can name it. */
__attribute__((noinline))
static void take_a_ref(void)
{
    ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
}

__attribute__((noinline))
static void dup_a_ref(void)
{
    PyInterpreterRef another = PyInterpreterRef_Dup(ref);
    CHECK(another != ref);
    PyInterpreterRef_Close(ref);
    ref = another;
}

__attribute__((noinline))
static void ensure_here(int (*ensure)(PyInterpreterRef))
{
    CHECK_INT(ensure(ref), 0);
}

__attribute__((noinline))
static void set_non_daemon(void)
{
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
}

static void read_then_close(void *unused)
{
    (void)unused;
    read_report(END_TRACED);
    PyInterpreterRef_Close(ref);
}

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// windows: no, only exported functions have names there
SCENARIO(trace_references, "A reference is listed with where it was taken, and its Dup with where that was")
{
    py_init();
    take_a_ref();
    dup_a_ref();
    capture_stderr();
    pthread_t reader = thread_start(read_then_close, NULL);
    py_finalize();
    thread_join(reader);
    release_stderr();
    CHECK_SAYS("the main interpreter: 1 not closed\n");
    CHECK_SAYS("- PyInterpreterRef, taken ");
    CHECK_SAYS(" dup_a_ref (report)\n");
    CHECK_SAYS_NOT("take_a_ref");
}

/* --- Threads that hold the interpreter until the report was read --------------------------------- */

static event holding = EVENT_INIT;
static event report_read = EVENT_INIT;

static void read_then_tell(void *unused)
{
    (void)unused;
    read_report(END_TRACED);
    event_set(&report_read);
}

/* Finalizes while a thread in `body` is the only holder. */
static void finalize_under(void (*body)(void *))
{
    py_init();
    take_a_ref();
    pthread_t thread = thread_start(body, NULL);
    py_event_wait(&holding);
    capture_stderr();
    pthread_t reader = thread_start(read_then_tell, NULL);
    py_finalize();
    thread_join(reader);
    thread_join(thread);
    release_stderr();
    CHECK_SAYS("the main interpreter: 1 not closed\n");
    CHECK_INT(count_in_report("libpep788:     - "), 1);
    CHECK_SAYS("- hold of an Ensure or of PyThreadState_SetDaemon(0), taken ");
    CHECK_SAYS_NOT("take_a_ref");
}

static void hold_by_ensure(void *unused)
{
    (void)unused;
    ensure_here(PyThreadState_Ensure);
    PyInterpreterRef_Close(ref);
    event_set(&holding);
    py_event_wait(&report_read);
    PyThreadState_Release();
}

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// windows: no, only exported functions have names there
SCENARIO(trace_ensure, "What an Ensure holds is listed, not the reference that it was given")
{
    finalize_under(hold_by_ensure);
    CHECK_SAYS(" ensure_here (report)\n");
    CHECK_SAYS(" hold_by_ensure (report)\n");
}

static void hold_by_stealing(void *unused)
{
    (void)unused;
    ensure_here(Pep788_EnsureStealing);
    event_set(&holding);
    py_event_wait(&report_read);
    PyThreadState_Release();
}

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// windows: no, only exported functions have names there
SCENARIO(trace_stealing, "... nor the one that it consumed")
{
    finalize_under(hold_by_stealing);
    CHECK_SAYS(" ensure_here (report)\n");
}

static void hold_by_thread_state(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    set_non_daemon();
    PyInterpreterRef_Close(ref);
    event_set(&holding);
    py_event_wait(&report_read);
    PyGILState_Release(state);
}

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// windows: no, only exported functions have names there
SCENARIO(trace_thread_state, "What a thread state holds after SetDaemon(0) is listed")
{
    finalize_under(hold_by_thread_state);
    CHECK_SAYS(" set_non_daemon (report)\n");
}

// env: PEP788_TRACE=1
// expect: fatal PyInterpreterRef_Close "closed already"
// expect: stderr "take_a_ref (report)"
// windows: no, only exported functions have names there
SCENARIO(trace_stolen_ref_closed, "A reference that was consumed is known when it is closed, also while the Ensure lasts")
{
    py_init();
    take_a_ref();
    ensure_here(Pep788_EnsureStealing);
    PyInterpreterRef_Close(ref);
}

// env: PEP788_TRACE=1
// expect: fatal PyInterpreterRef_Dup "closed already"
// expect: stderr "take_a_ref (report)"
// windows: no, only exported functions have names there
SCENARIO(trace_closed_ref_used, "A reference that is used after it was closed is known, also while others are out")
{
    py_init();
    take_a_ref();
    PyInterpreterRef closed = ref;
    take_a_ref();
    PyInterpreterRef_Close(closed);
    PyInterpreterRef_Dup(closed);
}
