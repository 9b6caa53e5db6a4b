/* Every allocation on the way to a guard, a view and a token fails once, CPython's and the library's, and
 * mostly in a second round all of them from that one on: the promised failure comes out, nothing is lost
 * by it, and the same call then succeeds. */

// macos-file: no, a program cannot have the malloc of all libraries there
// windows-file: no, it forks, and takes the place of glibc's malloc
// sanitize-file: not address thread valgrind, which have a malloc of their own

#include "harness.h"

#include "no_memory.h"

/* One function of the API. What `take` gives, `undo` ends. */
struct function {
    void *(*take)(void);
    void (*undo)(void *);
    /* The exception is MemoryError where it fails; else there is none. */
    bool raises;
};

static PyInterpreterView *view;
static PyInterpreterGuard *guard;

static void *guard_from_current(void) { return PyInterpreterGuard_FromCurrent(); }
static void *guard_from_view(void) { return PyInterpreterGuard_FromView(view); }
static void *view_from_current(void) { return PyInterpreterView_FromCurrent(); }
static void *ensure(void) { return PyThreadState_Ensure(guard); }
static void *ensure_from_view(void) { return PyThreadState_EnsureFromView(view); }
static void close_guard(void *it) { PyInterpreterGuard_Close(it); }
static void close_view(void *it) { PyInterpreterView_Close(it); }
static void release(void *it) { PyThreadState_Release(it); }

static const struct function the_guard_from_current = {guard_from_current, close_guard, true};
static const struct function the_guard_from_view = {guard_from_view, close_guard, false};
static const struct function the_view_from_current = {view_from_current, close_view, true};
static const struct function the_ensure = {ensure, release, false};
static const struct function the_ensure_from_view = {ensure_from_view, release, false};

static const struct function *function;
static bool every_later_one;

/* Handles are made in the child: those of the parent mean little in it. */
static bool with_handles;

static void take_handles(void)
{
    if (with_handles) {
        guard = PyInterpreterGuard_FromCurrent();
        view = PyInterpreterView_FromCurrent();
        CHECK(guard != NULL && view != NULL);
    }
}

/* Whether it was short of memory. */
static bool try_without(long nth)
{
    PyThreadState *before = attached();
    fail_from(nth, every_later_one);
    void *taken = function->take();
    bool failed = enough_memory();
    if (taken == NULL) {
        CHECK(failed);
        CHECK_PTR(attached(), before);
        if (before != NULL) {
            CHECK_INT(PyErr_Occurred() != NULL, function->raises);
            CHECK(!function->raises || PyErr_ExceptionMatches(PyExc_MemoryError));
            PyErr_Clear();
        }
        taken = function->take();
        CHECK(taken != NULL);
    }
    CHECK(attached() == NULL || !PyErr_Occurred());
    function->undo(taken);
    CHECK_PTR(attached(), before);
    return failed;
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

/* The ends of the attempts: a hold that was lost would make Python's end hang. */
static void end_python(void)
{
    if (guard != NULL) {
        PyInterpreterGuard_Close(guard);
    }
    py_finalize();
    if (view != NULL) {
        PyInterpreterView_Close(view);
    }
}

static bool attached_here(long nth)
{
    take_handles();
    bool failed = try_without(nth);
    end_python();
    return failed;
}

static bool detached_here(long nth)
{
    take_handles();
    bool failed;
    Py_BEGIN_ALLOW_THREADS
    failed = try_without(nth);
    Py_END_ALLOW_THREADS
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

static bool in_a_fresh_thread(long nth)
{
    take_handles();
    the_nth = nth;
    py_thread_join(thread_start(fresh_thread, NULL));
    CHECK_INT(count_thread_states(), 1);
    end_python();
    return thread_failed;
}

/* The caller's own interpreter is a subinterpreter then, what it has handles of is main. */
static PyThreadState *sub;

static bool in_a_subinterpreter(long nth)
{
    take_handles();
    PyThreadState *own = PyThreadState_Get();
    swap(own, sub);
    bool failed = try_without(nth);
    swap(sub, own);
    sub_end(sub);
    end_python();
    return failed;
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

/* --- The first use ------------------------------------------------------------------------------------ */

/* It imports `atexit`, which CPython cannot do without any memory: 3.13 never stops looping, 3.11 ends the
 * process. So one allocation fails here, not all later ones. */

// pythons: gil
SCENARIO(guard_at_first_use, "PyInterpreterGuard_FromCurrent, the first use: NULL and MemoryError, or a guard")
{
    begin();
    importing_may_crash(false);
    once_each(&the_guard_from_current, attached_here);
}

// pythons: gil
SCENARIO(view_at_first_use, "PyInterpreterView_FromCurrent, the first use: NULL and MemoryError, or a view")
{
    begin();
    importing_may_crash(false);
    once_each(&the_view_from_current, attached_here);
}

// pythons: gil
SCENARIO(guard_at_first_use_in_a_subinterpreter, "The first use in a subinterpreter")
{
    begin();
    sub = sub_new();
    importing_may_crash(true);
    once_each(&the_guard_from_current, in_a_subinterpreter);
}

// pythons: gil
SCENARIO(promotion_at_first_use, "PyInterpreterGuard_FromView, the first use, by a thread with nothing attached: NULL or a guard")
{
    begin();
    importing_may_crash(false);
    view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    once_each(&the_guard_from_view, in_a_fresh_thread);
}

// pythons: gil
SCENARIO(ensure_from_view_at_first_use, "PyThreadState_EnsureFromView, the first use, in a fresh thread: NULL or a token")
{
    begin();
    importing_may_crash(false);
    view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    once_each(&the_ensure_from_view, in_a_fresh_thread);
}

/* --- Later uses --------------------------------------------------------------------------------------- */

// pythons: gil
SCENARIO(guard_and_view, "FromCurrent and FromView, later: the same")
{
    begin_with_handles();
    in_both_ways(&the_guard_from_current, attached_here);
    in_both_ways(&the_view_from_current, attached_here);
    in_both_ways(&the_guard_from_view, attached_here);
    in_both_ways(&the_guard_from_view, in_a_fresh_thread);
}

// pythons: gil
SCENARIO(ensure_where_attached, "Ensure and EnsureFromView in a thread that is attached, or was: NULL or a token")
{
    begin_with_handles();
    in_both_ways(&the_ensure, attached_here);
    in_both_ways(&the_ensure, detached_here);
    in_both_ways(&the_ensure_from_view, attached_here);
    in_both_ways(&the_ensure_from_view, detached_here);
}

// pythons: gil
SCENARIO(ensure_in_a_fresh_thread, "Ensure and EnsureFromView in a fresh thread: NULL or a token")
{
    begin_with_handles();
    in_both_ways(&the_ensure, in_a_fresh_thread);
    in_both_ways(&the_ensure_from_view, in_a_fresh_thread);
}

// pythons: gil
SCENARIO(ensure_from_a_subinterpreter, "Ensure and EnsureFromView of another interpreter than the attached one: NULL or a token")
{
    begin_with_handles();
    sub = sub_new();
    in_both_ways(&the_ensure, in_a_subinterpreter);
    in_both_ways(&the_ensure_from_view, in_a_subinterpreter);
}
