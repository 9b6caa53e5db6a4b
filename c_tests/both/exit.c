/* The exit waits for both kinds of references, and each kind is good for the other. */
// sources: _draft.c

#include "handles.h"

#include "_draft.h"

static event exiting = EVENT_INIT;
static event first_is_done = EVENT_INIT;

static void work_with_guard(PyInterpreterGuard *guard)
{
    for (int i = 0; i < 50; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        run("x = sum(range(100))");
        PyThreadState_Release(token);
    }
}

static void work_with_ref(void *ref)
{
    for (int i = 0; i < 50; i++) {
        draft_ensure(ref);
        run("x = sum(range(100))");
        draft_release();
    }
}

/* --- Both hold ------------------------------------------------------------------------------------ */

static void guard_first(void *guard)
{
    event_wait(&exiting);
    work_with_guard(guard);
    log_event("guard");
    PyInterpreterGuard_Close(guard);
    event_set(&first_is_done);
}

static void ref_second(void *ref)
{
    event_wait(&first_is_done);
    work_with_ref(ref);
    log_event("ref");
    draft_close(ref);
}

SCENARIO(guard_then_ref, "When the last guard is closed, the exit still waits for a reference")
{
    py_init();
    pthread_t first = thread_start(guard_first, guard_here());
    pthread_t second = thread_start(ref_second, draft_ref());
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    thread_join(first);
    thread_join(second);
    expect_log("guard,ref,finalized");
}

static void ref_first(void *ref)
{
    event_wait(&exiting);
    work_with_ref(ref);
    log_event("ref");
    draft_close(ref);
    event_set(&first_is_done);
}

static void guard_second(void *guard)
{
    event_wait(&first_is_done);
    work_with_guard(guard);
    log_event("guard");
    PyInterpreterGuard_Close(guard);
}

SCENARIO(ref_then_guard, "When the last reference is closed, the exit still waits for a guard")
{
    py_init();
    pthread_t first = thread_start(ref_first, draft_ref());
    pthread_t second = thread_start(guard_second, guard_here());
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    thread_join(first);
    thread_join(second);
    expect_log("ref,guard,finalized");
}

SCENARIO(subinterpreter, "Py_EndInterpreter waits for both")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    pthread_t first = thread_start(guard_first, guard_here());
    pthread_t second = thread_start(ref_second, draft_ref());
    at_exit(set_event, &exiting);
    swap(sub, own);
    sub_end(sub);
    log_event("ended");
    py_thread_join(first);
    py_thread_join(second);
    expect_log("guard,ref,ended");
    py_finalize();
}

/* --- A guard of one, a view of the other ------------------------------------------------------------ */

struct handles {
    PyInterpreterGuard *guard;
    PyInterpreterView *view;
    void *ref;
    void *wref;
};

static void weak_ref_beside_a_guard(void *argument)
{
    struct handles *handles = argument;
    event_wait(&exiting);
    void *ref = draft_as_strong(handles->wref);
    CHECK(ref != NULL);
    PyInterpreterGuard_Close(handles->guard);
    work_with_ref(ref);
    log_event("worked");
    draft_close(ref);
}

// env: PEP788_DRAIN_GRACE_MS=-1
// native: no, it counts its guards apart from our references
SCENARIO(promoted_beside_a_guard, "While a guard keeps the exit waiting, a weak reference is promoted, and takes the guard's place")
{
    py_init();
    struct handles handles = {.guard = guard_here(), .wref = draft_weak_ref()};
    pthread_t thread = thread_start(weak_ref_beside_a_guard, &handles);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
    CHECK_PTR(draft_as_strong(handles.wref), NULL);
    draft_weak_close(handles.wref);
}

static void view_beside_a_ref(void *argument)
{
    struct handles *handles = argument;
    event_wait(&exiting);
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(handles->view);
    CHECK(guard != NULL);
    draft_close(handles->ref);
    work_with_guard(guard);
    log_event("worked");
    PyInterpreterGuard_Close(guard);
}

// env: PEP788_DRAIN_GRACE_MS=-1
SCENARIO(promoted_beside_a_ref, "While a reference keeps the exit waiting, a view is promoted, and takes the reference's place")
{
    py_init();
    struct handles handles = {.view = PyInterpreterView_FromCurrent(), .ref = draft_ref()};
    CHECK(handles.view != NULL);
    pthread_t thread = thread_start(view_beside_a_ref, &handles);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
    CHECK_PTR(PyInterpreterGuard_FromView(handles.view), NULL);
    PyInterpreterView_Close(handles.view);
}

SCENARIO(both_are_refused, "After the end views and weak references are refused alike, and after the next start main is there for both")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    void *wref = draft_weak_ref();
    for (int run_of_the_runtime = 0; run_of_the_runtime < 3; run_of_the_runtime++) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
        CHECK(guard != NULL);
        void *ref = draft_main();
        CHECK(ref != NULL);
        void *promoted = draft_as_strong(wref);
        CHECK(promoted != NULL);
        PyInterpreterGuard_Close(guard);
        draft_close(ref);
        draft_close(promoted);
        py_finalize();
        CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
        CHECK_PTR(PyThreadState_EnsureFromView(view), NULL);
        CHECK_PTR(draft_as_strong(wref), NULL);
        CHECK_PTR(draft_main(), NULL);
        py_init();
    }
    PyInterpreterView_Close(view);
    draft_weak_close(wref);
    py_finalize();
}

/* --- Holders of one dialect may take more of the other ------------------------------------------------ */

static void take_a_ref_inside_a_guards_ensure(void *guard)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    void *ref = draft_ref();
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);
    work_with_ref(ref);
    log_event("worked");
    draft_close(ref);
}

// env: PEP788_DRAIN_GRACE_MS=0
SCENARIO(ref_inside_a_guards_ensure, "While the exit waits, a thread inside an Ensure of the accepted API may take a reference")
{
    py_init();
    pthread_t thread = thread_start(take_a_ref_inside_a_guards_ensure, guard_here());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
}

static void take_a_guard_inside_a_refs_ensure(void *ref)
{
    event_wait(&exiting);
    draft_ensure(ref);
    PyInterpreterGuard *guard = guard_here();
    draft_release();
    draft_close(ref);
    work_with_guard(guard);
    log_event("worked");
    PyInterpreterGuard_Close(guard);
}

// env: PEP788_DRAIN_GRACE_MS=0
SCENARIO(guard_inside_a_refs_ensure, "While the exit waits, a thread inside an Ensure of the draft may take a guard")
{
    py_init();
    pthread_t thread = thread_start(take_a_guard_inside_a_refs_ensure, draft_ref());
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
}
