/* Guards and views that are not there: NULL, closed before, never made. */

#include "handles.h"

/* --- NULL ---------------------------------------------------------------------------------------- */

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_FromView "the PyInterpreterView is NULL"
SCENARIO(null_guard_from_view, "NULL is no view: PyInterpreterGuard_FromView says so")
{
    py_init();
    PyInterpreterGuard_FromView(NULL);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "the PyInterpreterGuard is NULL"
SCENARIO(null_guard_close, "NULL is no guard: PyInterpreterGuard_Close says so")
{
    py_init();
    PyInterpreterGuard_Close(NULL);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "the PyInterpreterView is NULL"
SCENARIO(null_view_close, "NULL is no view: PyInterpreterView_Close says so")
{
    py_init();
    PyInterpreterView_Close(NULL);
}

/* Both dialects have a PyThreadState_Ensure, and NULL does not tell which was meant. */
// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure "NULL"
SCENARIO(null_ensure, "NULL is no guard: PyThreadState_Ensure says so")
{
    py_init();
    PyThreadState_Ensure(NULL);
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_EnsureFromView "the PyInterpreterView is NULL"
SCENARIO(null_ensure_from_view, "NULL is no view: PyThreadState_EnsureFromView says so")
{
    py_init();
    PyThreadState_EnsureFromView(NULL);
}

static void ensure_null(void *unused)
{
    (void)unused;
    PyThreadState_Ensure(NULL);
    _exit(0);
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure "NULL"
SCENARIO(null_in_a_thread, "It is said in a thread without a thread state too")
{
    py_init();
    py_thread_join(thread_start(ensure_null, NULL));
}

/* --- Closed twice -------------------------------------------------------------------------------- */

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed already"
SCENARIO(guard_closed_twice, "A guard is closed once: the second time, with no other out, is a fatal error")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyInterpreterGuard_Close(guard);
    PyInterpreterGuard_Close(guard);
}

static void close_guard(void *guard)
{
    PyInterpreterGuard_Close(guard);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed already"
SCENARIO(guard_closed_by_two_threads, "It does not matter which thread closes a guard a second time")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    py_thread_join(thread_start(close_guard, guard));
    py_thread_join(thread_start(close_guard, guard));
}

static PyInterpreterGuard *taken_elsewhere;

static void take_guard(void *view)
{
    taken_elsewhere = PyInterpreterGuard_FromView(view);
    CHECK(taken_elsewhere != NULL);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed already"
SCENARIO(guard_closed_twice_while_anothers_is_out,
         "A guard that another thread took in the meantime does not hide that this one is closed twice")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    count_apart(view);
    take_guard(view);
    PyInterpreterGuard *own = taken_elsewhere;
    py_thread_join(thread_start(take_guard, view));
    PyInterpreterGuard_Close(own);
    PyInterpreterGuard_Close(own);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed"
SCENARIO(guard_closed_twice_after_the_end, "A guard that was closed is not closed again after Py_FinalizeEx")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyInterpreterGuard_Close(guard);
    py_finalize();
    PyInterpreterGuard_Close(guard);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed"
SCENARIO(guard_closed_twice_in_the_next_run,
         "A guard of an earlier run of the runtime is no guard of the next one, whatever is out there")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyInterpreterGuard_Close(guard);
    py_finalize();
    py_init();
    guard_here();
    PyInterpreterGuard_Close(guard);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed"
SCENARIO(guard_of_a_subinterpreter_closed_twice, "A guard is not closed again after Py_EndInterpreter")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);
    PyInterpreterGuard_Close(guard);
    sub_end(sub);
    PyInterpreterGuard_Close(guard);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed"
SCENARIO(guard_closed_twice_in_anothers_place,
         "A guard of an interpreter that is gone is no guard of the one that came after it")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);
    PyInterpreterGuard_Close(guard);
    sub_end(sub);
    guard_of(sub_new());
    PyInterpreterGuard_Close(guard);
}

/* What the Ensure holds by itself is not taken for it. */
// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed already"
SCENARIO(guard_closed_twice_inside_an_ensure, "A guard closed twice is seen inside EnsureFromView too")
{
    py_init();
    PyInterpreterView *view = view_here();
    PyInterpreterGuard *guard = guard_here();
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    PyInterpreterGuard_Close(guard);
    PyInterpreterGuard_Close(guard);
    PyThreadState_Release(token);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "closed already"
SCENARIO(view_closed_twice, "A view is closed once: the second time, with no other out, is a fatal error")
{
    py_init();
    PyInterpreterView *view = view_here();
    PyInterpreterView_Close(view);
    PyInterpreterView_Close(view);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "closed already"
SCENARIO(view_from_main_closed_twice, "A view of FromMain is closed once, also before Py_Initialize")
{
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    PyInterpreterView_Close(view);
    PyInterpreterView_Close(view);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "closed"
SCENARIO(view_closed_twice_after_the_end, "A view that was closed is not closed again after Py_FinalizeEx")
{
    py_init();
    PyInterpreterView *view = view_here();
    PyInterpreterView_Close(view);
    py_finalize();
    PyInterpreterView_Close(view);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "closed already"
SCENARIO(view_of_a_subinterpreter_closed_twice,
         "A view of a subinterpreter is closed once: the second time, with no other out, is a fatal error")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterView *view = view_of(sub);
    PyInterpreterView_Close(view);
    PyInterpreterView_Close(view);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "closed"
SCENARIO(view_of_a_subinterpreter_closed_twice_after_the_end, "A view is not closed again after Py_EndInterpreter")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterView *view = view_of(sub);
    sub_end(sub);
    PyInterpreterView_Close(view);
    PyInterpreterView_Close(view);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "closed"
SCENARIO(view_closed_twice_in_anothers_place,
         "A view of an interpreter that is gone is no view of the one that came after it")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterView *view = view_of(sub);
    PyInterpreterView_Close(view);
    sub_end(sub);
    view_of(sub_new());
    PyInterpreterView_Close(view);
}

/* --- Used after it was closed --------------------------------------------------------------------- */

// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure "closed already"
SCENARIO(ensure_with_a_closed_guard, "A closed guard lets nobody in")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyInterpreterGuard_Close(guard);
    PyThreadState_Ensure(guard);
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure "closed"
SCENARIO(ensure_with_a_closed_guard_after_the_end, "A closed guard lets nobody in after Py_FinalizeEx either")
{
    py_init();
    PyInterpreterGuard *guard = guard_here();
    PyInterpreterGuard_Close(guard);
    py_finalize();
    PyThreadState_Ensure(guard);
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure "closed"
SCENARIO(ensure_with_a_closed_guard_of_a_subinterpreter, "A closed guard lets nobody in after Py_EndInterpreter either")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterGuard *guard = guard_of(sub);
    PyInterpreterGuard_Close(guard);
    sub_end(sub);
    guard_of(sub_new());
    PyThreadState_Ensure(guard);
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_FromView "closed"
SCENARIO(guard_from_a_closed_view, "A closed view of an interpreter that is gone is not asked for guards")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterView *view = view_of(sub);
    PyInterpreterView_Close(view);
    sub_end(sub);
    PyInterpreterGuard_FromView(view);
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_EnsureFromView "closed"
SCENARIO(ensure_from_a_closed_view, "A closed view of an interpreter that is gone is no way into another one")
{
    py_init();
    PyThreadState *sub = sub_new();
    PyInterpreterView *view = view_of(sub);
    PyInterpreterView_Close(view);
    sub_end(sub);
    view_of(sub_new());
    PyThreadState_EnsureFromView(view);
}

/* --- Never made ----------------------------------------------------------------------------------- */

/* Readable memory with nothing of ours in it, at an address like that of a handle. */
static void *memory_like(void *handle)
{
    static _Alignas(4096) char memory[8192];
    return memory + 4096 + (uintptr_t)handle % 1024;
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "not a PyInterpreterGuard"
SCENARIO(memory_as_a_guard_to_close, "Memory that is not a guard is not closed")
{
    py_init();
    PyInterpreterGuard_Close(memory_like(guard_here()));
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure "not a PyInterpreterGuard"
SCENARIO(memory_as_a_guard_to_ensure, "Memory that is not a guard lets nobody in")
{
    py_init();
    PyThreadState_Ensure(memory_like(guard_here()));
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterView_Close "not a PyInterpreterView"
SCENARIO(memory_as_a_view_to_close, "Memory that is not a view is not closed")
{
    py_init();
    PyInterpreterView_Close(memory_like(view_here()));
}

// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_FromView "not a PyInterpreterView"
SCENARIO(memory_as_a_view_to_promote, "Memory that is not a view is not asked for guards")
{
    py_init();
    PyInterpreterGuard_FromView(memory_like(view_here()));
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_EnsureFromView "not a PyInterpreterView"
SCENARIO(memory_as_a_view_to_ensure, "Memory that is not a view lets nobody in")
{
    py_init();
    PyThreadState_EnsureFromView(memory_like(view_here()));
}

/* What one would have passed before there were guards. */

// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure ""
SCENARIO(an_interpreter_as_a_guard, "An interpreter is no guard")
{
    py_init();
    PyThreadState_Ensure((void *)PyInterpreterState_Get());
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_EnsureFromView ""
SCENARIO(an_interpreter_as_a_view, "An interpreter is no view")
{
    py_init();
    PyThreadState_EnsureFromView((void *)PyInterpreterState_Get());
}

// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure ""
SCENARIO(a_thread_state_as_a_guard, "A thread state is no guard")
{
    py_init();
    PyThreadState_Ensure((void *)PyThreadState_Get());
}
