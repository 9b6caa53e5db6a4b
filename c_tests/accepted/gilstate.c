/* Together with PyGILState and Py_BEGIN_ALLOW_THREADS, inside one another. */

#include "handles.h"

static void in_a_thread(void (*body)(void *))
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    py_thread_join(thread_start(body, guard));
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

static void gilstate_inside_body(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    PyThreadState *state = PyThreadState_Get();
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(legacy, PyGILState_LOCKED);
    CHECK_PTR(PyThreadState_Get(), state);
    CHECK_INT(count_thread_states(), 2);
    PyGILState_Release(legacy);
    CHECK_PTR(PyThreadState_Get(), state);
    run("x = 1");
    PyThreadState_Release(token);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(gilstate_inside, "Inside Ensure..Release PyGILState_Ensure reuses the attached thread state")
{
    in_a_thread(gilstate_inside_body);
}

static void gilstate_outside_body(void *guard)
{
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(legacy, PyGILState_UNLOCKED);
    PyThreadState *state = PyThreadState_Get();
    PyThreadStateToken *token = ensure(guard);
    CHECK_PTR(PyThreadState_Get(), state);
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release(token);
    CHECK_PTR(PyThreadState_Get(), state);
    run("x = 1");
    PyGILState_Release(legacy);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(gilstate_outside, "Inside PyGILState_Ensure..Release Ensure reuses the attached thread state")
{
    in_a_thread(gilstate_outside_body);
}

static void gilstate_in_turns_body(void *guard)
{
    PyGILState_STATE legacy[8];
    PyThreadStateToken *tokens[8];
    PyThreadState *state = NULL;
    for (int i = 0; i < 8; i++) {
        legacy[i] = PyGILState_Ensure();
        tokens[i] = ensure(guard);
        state = state == NULL ? PyThreadState_Get() : state;
        CHECK_PTR(PyThreadState_Get(), state);
    }
    for (int i = 7; i >= 0; i--) {
        CHECK_PTR(PyThreadState_Get(), state);
        PyThreadState_Release(tokens[i]);
        CHECK_PTR(PyThreadState_Get(), state);
        PyGILState_Release(legacy[i]);
    }
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);

    for (int i = 0; i < 8; i++) {
        tokens[i] = ensure(guard);
        legacy[i] = PyGILState_Ensure();
    }
    for (int i = 7; i >= 0; i--) {
        PyGILState_Release(legacy[i]);
        CHECK(attached() != NULL);
        PyThreadState_Release(tokens[i]);
    }
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(gilstate_in_turns, "Ensure and PyGILState_Ensure nest in turns, beginning with either")
{
    in_a_thread(gilstate_in_turns_body);
}

static void one_after_the_other_body(void *guard)
{
    for (int i = 0; i < 20; i++) {
        PyGILState_STATE legacy = PyGILState_Ensure();
        run("x = 1");
        PyGILState_Release(legacy);
        CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
        PyThreadStateToken *token = ensure(guard);
        run("x = 1");
        PyThreadState_Release(token);
        CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    }
}

SCENARIO(one_after_the_other, "Ensure leaves the thread as PyGILState_Ensure expects to find it, and the reverse")
{
    in_a_thread(one_after_the_other_body);
}

static void detached_in_between_body(void *guard)
{
    PyThreadStateToken *outer = ensure(guard);
    PyThreadState *state = PyThreadState_Get();
    Py_BEGIN_ALLOW_THREADS
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(legacy, PyGILState_UNLOCKED);
    CHECK_PTR(PyThreadState_Get(), state);
    Py_BEGIN_ALLOW_THREADS
    PyThreadStateToken *inner = ensure(guard);
    CHECK_PTR(PyThreadState_Get(), state);
    run("x = 1");
    PyThreadState_Release(inner);
    CHECK_PTR(attached(), NULL);
    Py_END_ALLOW_THREADS
    PyGILState_Release(legacy);
    CHECK_PTR(attached(), NULL);
    Py_END_ALLOW_THREADS
    CHECK_PTR(PyThreadState_Get(), state);
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Release(outer);
}

SCENARIO(detached_in_between, "With Py_BEGIN_ALLOW_THREADS in between, the last used thread state is the one taken again, by either")
{
    in_a_thread(detached_in_between_body);
}

static void detached_in_gilstate_body(void *guard)
{
    PyGILState_STATE legacy = PyGILState_Ensure();
    PyThreadState *state = PyThreadState_Get();
    Py_BEGIN_ALLOW_THREADS
    PyThreadStateToken *token = ensure(guard);
    CHECK_PTR(PyThreadState_Get(), state);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), state);
    Py_END_ALLOW_THREADS
    CHECK_PTR(PyThreadState_Get(), state);
    PyGILState_Release(legacy);
}

SCENARIO(detached_in_gilstate, "Ensure takes the thread state that PyGILState_Ensure made, and does not delete it")
{
    in_a_thread(detached_in_gilstate_body);
}

static void detached_inside_body(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    PyThreadState *state = PyThreadState_Get();
    for (int i = 0; i < 100; i++) {
        Py_BEGIN_ALLOW_THREADS
        CHECK_PTR(attached(), NULL);
        Py_END_ALLOW_THREADS
        CHECK_PTR(PyThreadState_Get(), state);
    }
    PyThreadState_Release(token);
}

SCENARIO(detached_inside, "Py_BEGIN_ALLOW_THREADS inside Ensure..Release gives up and takes back its thread state")
{
    in_a_thread(detached_inside_body);
}

SCENARIO(in_the_main_thread, "The same in the main thread, whose thread state nobody deletes")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyThreadState *own = PyThreadState_Get();
    for (int i = 0; i < 4; i++) {
        PyThreadStateToken *token = ensure(guard);
        PyGILState_STATE legacy = PyGILState_Ensure();
        CHECK_PTR(PyThreadState_Get(), own);
        PyGILState_Release(legacy);
        PyThreadState_Release(token);
    }
    Py_BEGIN_ALLOW_THREADS
    PyGILState_STATE legacy = PyGILState_Ensure();
    PyThreadStateToken *token = ensure(guard);
    CHECK_PTR(PyThreadState_Get(), own);
    PyThreadState_Release(token);
    PyGILState_Release(legacy);
    CHECK_PTR(attached(), NULL);
    Py_END_ALLOW_THREADS
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterGuard_Close(guard);
    py_finalize();
}

static void gilstate_in_a_subinterpreter_body(void *guard)
{
    PyThreadStateToken *token = ensure(guard);
    PyThreadState *state = PyThreadState_Get();
    CHECK(attached_interpreter() != PyInterpreterState_Main());
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_PTR(PyThreadState_Get(), state);
    PyGILState_Release(legacy);
    CHECK_PTR(PyThreadState_Get(), state);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(gilstate_in_a_subinterpreter, "Inside Ensure..Release into a subinterpreter PyGILState_Ensure reuses the attached thread state")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(main_state, sub);
    PyInterpreterGuard *guard = guard_here();
    swap(sub, main_state);
    py_thread_join(thread_start(gilstate_in_a_subinterpreter_body, guard));
    PyInterpreterGuard_Close(guard);
    sub_end(sub);
    py_finalize();
}

static void gilstate_two_interpreters_body(void *guards)
{
    PyInterpreterGuard **pair = guards;
    PyThreadStateToken *outer = ensure(pair[0]);
    PyThreadStateToken *inner = ensure(pair[1]);
    PyThreadState *state = PyThreadState_Get();
    CHECK(attached_interpreter() != PyInterpreterState_Main());
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_PTR(PyThreadState_Get(), state);
    PyGILState_Release(legacy);
    CHECK_PTR(PyThreadState_Get(), state);
    PyThreadState_Release(inner);
    state = PyThreadState_Get();
    legacy = PyGILState_Ensure();
    CHECK_PTR(PyThreadState_Get(), state);
    PyGILState_Release(legacy);
    PyThreadState_Release(outer);
    CHECK_PTR(attached(), NULL);
}

SCENARIO(gilstate_after_a_change_of_interpreter,
         "Inside Ensure..Release PyGILState_Ensure reuses the attached thread state: also where the thread "
         "came from another interpreter")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guards[2];
    guards[0] = guard_here();
    swap(main_state, sub);
    guards[1] = guard_here();
    swap(sub, main_state);
    py_thread_join(thread_start(gilstate_two_interpreters_body, guards));
    PyInterpreterGuard_Close(guards[0]);
    PyInterpreterGuard_Close(guards[1]);
    sub_end(sub);
    py_finalize();
}

SCENARIO(gilstate_in_an_interpreter_swapped_in,
         "Inside Ensure..Release PyGILState_Ensure reuses the attached thread state: also where Ensure found it "
         "attached, in a thread that has one of another interpreter")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(main_state, sub);
    PyInterpreterGuard *guard = guard_here();
    PyThreadStateToken *token = ensure(guard);
    CHECK_PTR(PyThreadState_Get(), sub);
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(legacy, PyGILState_LOCKED);
    CHECK_PTR(PyThreadState_Get(), sub);
    PyGILState_Release(legacy);
    CHECK_PTR(PyThreadState_Get(), sub);
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);
    CHECK_PTR(PyThreadState_Get(), sub);
    swap(sub, main_state);
    legacy = PyGILState_Ensure();
    CHECK_PTR(PyThreadState_Get(), main_state);
    PyGILState_Release(legacy);
    sub_end(sub);
    py_finalize();
}

static PyInterpreterGuard *the_guard;

static void gilstate_in_python_thread(void)
{
    PyThreadState *own = PyThreadState_Get();
    Py_BEGIN_ALLOW_THREADS
    PyThreadStateToken *token = ensure(the_guard);
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_PTR(PyThreadState_Get(), own);
    PyGILState_Release(legacy);
    PyThreadState_Release(token);
    CHECK_PTR(attached(), NULL);
    Py_END_ALLOW_THREADS
    CHECK_PTR(PyThreadState_Get(), own);
    log_event("checked");
}

SCENARIO(in_a_threading_thread, "The same in a thread of `threading`")
{
    py_init();
    the_guard = guard_here();
    expose("check", gilstate_in_python_thread);
    run("import threading\n"
        "thread = threading.Thread(target=check)\n"
        "thread.start()\n"
        "thread.join()");
    PyInterpreterGuard_Close(the_guard);
    py_finalize();
    expect_log("checked");
}
