/* Without memory: the failures that the contract names, and nothing changed by them. */

#include "handles.h"

static void fail_in_a_fresh_thread(void *guard)
{
    memory_fails = true;
    CHECK_PTR(PyThreadState_Ensure(guard), NULL);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    memory_fails = false;
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    run("x = 1");
    PyThreadState_Release(token);
    log_event("checked");
}

/* In 3.11 PyThreadState_New itself crashes without memory. */
// pythons: !=3.11
SCENARIO(ensure_in_a_fresh_thread, "PyThreadState_Ensure fails with NULL when out of memory, and works again when there is some")
{
    let_memory_fail();
    py_init();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    py_thread_join(thread_start(fail_in_a_fresh_thread, guard));
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterGuard_Close(guard);
    py_finalize();
    expect_log("checked");
}

// pythons: !=3.11
SCENARIO(what_was_attached_is_attached_again,
         "PyThreadState_Ensure, PyThreadState_EnsureFromView: out of memory, what was attached before is attached again")
{
    let_memory_fail();
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    CHECK(main_view != NULL);

    memory_fails = true;
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    memory_fails = false;
    CHECK_PTR(token, NULL);
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK(!PyErr_Occurred());
    run("x = 1");

    swap(own, sub);
    memory_fails = true;
    token = PyThreadState_EnsureFromView(main_view);
    memory_fails = false;
    CHECK_PTR(token, NULL);
    CHECK_PTR(PyThreadState_Get(), sub);
    run("x = 1");
    swap(sub, own);

    /* The guard that EnsureFromView took is given back: this would hang otherwise. */
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(main_view);
    sub_end(sub);
    py_finalize();
}

SCENARIO(from_current_without_memory,
         "FromCurrent of guards and views: NULL with MemoryError when out of memory, if it needs any")
{
    let_memory_fail();
    py_init();
    memory_fails = true;
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    PyInterpreterView *view = NULL;
    if (guard == NULL) {
        CHECK(PyErr_ExceptionMatches(PyExc_MemoryError));
        PyErr_Clear();
    } else {
        PyInterpreterGuard_Close(guard);
    }
    view = PyInterpreterView_FromCurrent();
    if (view == NULL) {
        CHECK(PyErr_ExceptionMatches(PyExc_MemoryError));
        PyErr_Clear();
    } else {
        PyInterpreterView_Close(view);
    }
    memory_fails = false;

    guard = PyInterpreterGuard_FromCurrent();
    view = PyInterpreterView_FromCurrent();
    CHECK(guard != NULL && view != NULL);
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(view);
    py_finalize();
}
