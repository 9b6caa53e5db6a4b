/* Pep788_KeepThreadState: a thread state that stays with its thread, and who takes it away. */

#include "handles.h"

#include "../../include/pep788_keep.h"

/* Programs that are linked with the interpreter's own functions alone have no such function. */
#ifndef _WIN32
#pragma weak Pep788_KeepThreadState
#endif

static PyInterpreterView *view;

/* Makes an Ensure, runs statements, and gives the thread state that was attached: an address to compare. */
static const void *call(const char *code)
{
    PyThreadStateToken *token = ensure_from_view(view);
    const void *state = attached();
    run(code);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
    return state;
}

static void begin(void)
{
    py_init();
    run("import threading\nlocal = threading.local()\n"
        "class Value:\n"
        "    def __del__(self): gone.append(threading.get_ident())\n"
        "gone = []");
    view = view_here();
}

static void in_a_thread(void (*body)(void *))
{
    py_thread_join(thread_start(body, NULL));
}

/* --- What is kept ---------------------------------------------------------------------------------- */

static void keep_and_call(void *unused)
{
    (void)unused;
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    const void *first = call("local.count = 1");
    CHECK_PTR(call("local.count += 1"), first);
    CHECK_PTR(call("local.count += 1\nassert local.count == 3"), first);
}

// pythons: <3.15
SCENARIO(stays_between_calls, "A thread that keeps its thread state finds in a threading.local what it has put there")
{
    begin();
    in_a_thread(keep_and_call);
    py_finalize();
}

static void call_without(void *unused)
{
    (void)unused;
    call("local.count = 1");
    call("assert not hasattr(local, 'count')");
}

SCENARIO(is_not_kept_unasked, "A thread that did not ask gets a new thread state each time")
{
    begin();
    in_a_thread(call_without);
    py_finalize();
}

static void nest(void *unused)
{
    (void)unused;
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    PyThreadStateToken *outer = ensure_from_view(view);
    const void *state = attached();
    PyThreadStateToken *inner = ensure_from_view(view);
    CHECK_PTR(attached(), state);
    PyGILState_STATE old = PyGILState_Ensure();
    CHECK_PTR(attached(), state);
    PyGILState_Release(old);
    PyThreadState_Release(inner);
    CHECK_PTR(attached(), state);
    PyThreadState_Release(outer);
    CHECK_PTR(attached(), NULL);
    old = PyGILState_Ensure();
    CHECK_PTR(attached(), state);
    PyGILState_Release(old);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(call("x = 1"), state);
}

// pythons: <3.15
SCENARIO(serves_nested_calls, "Nested Ensures and PyGILState_Ensure use the kept thread state")
{
    begin();
    in_a_thread(nest);
    py_finalize();
}

/* --- Who takes it away ------------------------------------------------------------------------------ */

static void keep_a_value(void *unused)
{
    (void)unused;
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    call("local.value = Value()\nowner = threading.get_ident()");
}

// pythons: <3.15
SCENARIO(goes_with_the_thread, "The end of the thread deletes the thread state, in this thread")
{
    begin();
    int before = count_thread_states();
    for (int i = 0; i < 3; i++) {
        in_a_thread(keep_a_value);
        CHECK_INT(count_thread_states(), before);
        run("assert gone == [owner]\ngone.clear()");
    }
    py_finalize();
}

static void stop_keeping(void *unused)
{
    (void)unused;
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    call("local.value = Value()");
    CHECK_INT(Pep788_KeepThreadState(0), 0);
    CHECK_PTR(attached(), NULL);
    call("assert len(gone) == 1 and not hasattr(local, 'value')");
    call("gone.clear()");

    CHECK_INT(Pep788_KeepThreadState(1), 0);
    PyThreadStateToken *outer = ensure_from_view(view);
    PyThreadStateToken *inner = ensure_from_view(view);
    run("local.value = Value()");
    CHECK_INT(Pep788_KeepThreadState(0), 0);
    PyThreadState_Release(inner);
    run("assert not gone");
    PyThreadState_Release(outer);
    CHECK_PTR(attached(), NULL);
    call("assert len(gone) == 1 and not hasattr(local, 'value')");
    CHECK_INT(Pep788_KeepThreadState(0), 0);
}

// pythons: <3.15
SCENARIO(goes_when_asked, "Pep788_KeepThreadState(0): it goes at once, or with the outermost Release")
{
    begin();
    int before = count_thread_states();
    in_a_thread(stop_keeping);
    CHECK_INT(count_thread_states(), before);
    py_finalize();
}

static void stop_inside_gilstate(void *unused)
{
    (void)unused;
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    call("local.count = 1");
    PyGILState_STATE old = PyGILState_Ensure();
    PyThreadStateToken *token = ensure_from_view(view);
    CHECK_INT(Pep788_KeepThreadState(0), 0);
    PyThreadState_Release(token);
    run("assert local.count == 1");
    CHECK_INT(Pep788_KeepThreadState(0), 0);
    run("assert local.count == 1");
    /* The thread state is in use while it is detached, too. */
    PyThreadState *state = PyEval_SaveThread();
    CHECK_INT(Pep788_KeepThreadState(0), 0);
    token = ensure_from_view(view);
    CHECK_PTR(attached(), state);
    CHECK_INT(Pep788_KeepThreadState(0), 0);
    PyThreadState_Release(token);
    PyEval_RestoreThread(state);
    run("assert local.count == 1");
    PyGILState_Release(old);
    CHECK_PTR(attached(), NULL);
}

// pythons: <3.15
SCENARIO(stays_while_another_uses_it, "It does not go under a PyGILState_Ensure that attached it")
{
    begin();
    int before = count_thread_states();
    in_a_thread(stop_inside_gilstate);
    CHECK_INT(count_thread_states(), before);
    py_finalize();
}

/* --- Exits ------------------------------------------------------------------------------------------ */

static event kept = EVENT_INIT;
static event finalized = EVENT_INIT;
static event initialized = EVENT_INIT;

static void outlive(void *unused)
{
    (void)unused;
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    call("local.value = 1");
    event_set(&kept);
    event_wait(&finalized);
    CHECK_PTR(PyThreadState_EnsureFromView(view), NULL);
    CHECK_INT(Pep788_KeepThreadState(0), 0);
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    event_wait(&initialized);
    const void *state = call("import threading\nlocal = threading.local()\nlocal.value = 2");
    CHECK_PTR(call("assert local.value == 2"), state);
}

// pythons: <3.15
SCENARIO(holds_no_exit, "An exit does not wait for it; in the next run of Python the thread keeps another one")
{
    begin();
    pthread_t thread = thread_start(outlive, NULL);
    py_event_wait(&kept);
    py_finalize();
    event_set(&finalized);
    py_init();
    int before = count_thread_states();
    event_set(&initialized);
    py_thread_join(thread);
    CHECK_INT(count_thread_states(), before);
    py_finalize();
}

static void end_late(void *unused)
{
    (void)unused;
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    call("local.value = 1");
    event_set(&kept);
    event_wait(&finalized);
}

// pythons: <3.15
SCENARIO(ends_after_the_interpreter, "A thread that ends after Python has nothing to take away")
{
    begin();
    pthread_t thread = thread_start(end_late, NULL);
    py_event_wait(&kept);
    py_finalize();
    event_set(&finalized);
    thread_join(thread);
}

static void fork_and_end(void *unused)
{
    (void)unused;
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    call("local.count = 1");
    PyThreadStateToken *token = ensure_from_view(view);
    run("import os\n"
        "child = os.fork()\n"
        "local.count += 1");
    PyThreadState_Release(token);
    call("local.count += 1\nassert local.count == 3");
    call("if child == 0: os._exit(0)\n"
         "status = os.waitpid(child, 0)[1]");
}

// pythons: <3.15
// windows: no, there is no fork
SCENARIO(survives_a_fork, "In the child of os.fork() the thread goes on with the thread state that it keeps")
{
    begin();
    in_a_thread(fork_and_end);
    run("assert status == 0, status");
    py_finalize();
}

/* --- Subinterpreters -------------------------------------------------------------------------------- */

static void call_both(void *other)
{
    CHECK_INT(Pep788_KeepThreadState(1), 0);
    PyInterpreterView *sub = other;
    PyThreadStateToken *token = ensure_from_view(sub);
    run("x = 1");
    PyThreadState_Release(token);
    const void *state = call("local.count = 1");
    token = ensure_from_view(sub);
    run("x = 1");
    PyThreadState_Release(token);
    CHECK_PTR(call("assert local.count == 1"), state);
    /* The thread ends when another thread state was the last that it attached. */
    token = ensure_from_view(sub);
    run("x = 1");
    PyThreadState_Release(token);
    event_set(&kept);
    event_wait(&finalized);
}

// pythons: <3.15
SCENARIO(not_of_subinterpreters, "Those of subinterpreters are not kept, so that these can end")
{
    begin();
    PyThreadState *main_state = PyThreadState_Get();
    int before = count_thread_states();
    PyThreadState *sub = sub_new();
    PyInterpreterView *sub_view = view_of(sub);
    pthread_t thread = thread_start(call_both, sub_view);
    py_event_wait(&kept);
    swap(main_state, sub);
    CHECK_INT(count_thread_states(), 1);
    swap(sub, main_state);
    sub_end(sub);
    event_set(&finalized);
    py_thread_join(thread);
    CHECK_INT(count_thread_states(), before);
    PyInterpreterView_Close(sub_view);
    py_finalize();
}

/* --- 3.15 -------------------------------------------------------------------------------------------- */

static void refused(void *unused)
{
    (void)unused;
    CHECK_INT(Pep788_KeepThreadState(1), -1);
    call("local.count = 1");
    call("assert not hasattr(local, 'count')");
}

// pythons: >=3.15
// native: no, it has no such function
SCENARIO(refused_where_python_makes_them, "From 3.15 on nothing is kept, and the caller is told so")
{
    begin();
    in_a_thread(refused);
    py_finalize();
}
