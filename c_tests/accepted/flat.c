/* No memory is left behind by what was given back: guards, views, attachments, threads, interpreters.
 * FLAT_COUNT is how many of each; the default is what an everyday run has time for. */

// macos-file: no, a program cannot have the malloc of all libraries there
// windows-file: no, it counts the blocks of glibc
// sanitize-file: not address thread valgrind, which have a malloc of their own

#include "flat.h"

#include <limits.h>

static PyInterpreterGuard *guard;
static PyInterpreterView *view;

static void take_guards(int count)
{
    for (int i = 0; i < count; i++) {
        PyInterpreterGuard *current = PyInterpreterGuard_FromCurrent();
        PyInterpreterGuard *viewed = PyInterpreterGuard_FromView(view);
        CHECK(current != NULL && viewed != NULL);
        PyInterpreterGuard_Close(current);
        PyInterpreterGuard_Close(viewed);
    }
}

static void take_views(int count)
{
    for (int i = 0; i < count; i++) {
        PyInterpreterView *current = PyInterpreterView_FromCurrent();
        PyInterpreterView *main_view = PyInterpreterView_FromMain();
        CHECK(current != NULL && main_view != NULL);
        PyInterpreterView_Close(current);
        PyInterpreterView_Close(main_view);
    }
}

static void attach(void)
{
    PyThreadStateToken *outer = PyThreadState_Ensure(guard);
    PyThreadStateToken *inner = PyThreadState_EnsureFromView(view);
    CHECK(outer != NULL && inner != NULL);
    PyThreadState_Release(inner);
    PyThreadState_Release(outer);
}

static void attach_often(int count)
{
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < count; i++) {
        attach();
    }
    Py_END_ALLOW_THREADS
}

static void attach_once(void *unused)
{
    (void)unused;
    attach();
}

static void start_threads(int count)
{
    flat_threads(count, attach_once);
}

/* Of a key that is younger than the library's, so that its destructors run after that's. */
static pthread_key_t at_the_end;

static void attach_in_the_last_round(void *round)
{
    if ((intptr_t)round == PTHREAD_DESTRUCTOR_ITERATIONS) {
        attach();
    } else {
        CHECK_INT(pthread_setspecific(at_the_end, (void *)((intptr_t)round + 1)), 0);
    }
}

static void end_with_attaching(void *unused)
{
    (void)unused;
    CHECK_INT(pthread_setspecific(at_the_end, (void *)1), 0);
}

static void start_threads_that_attach_at_their_end(int count)
{
    if (at_the_end == 0) {
        attach();
        CHECK_INT(pthread_key_create(&at_the_end, attach_in_the_last_round), 0);
        CHECK(at_the_end != 0);
    }
    flat_threads(count, end_with_attaching);
}

static void take_both_in_a_subinterpreter(void)
{
    PyInterpreterGuard *of_sub = PyInterpreterGuard_FromCurrent();
    PyInterpreterView *view_of_sub = PyInterpreterView_FromCurrent();
    CHECK(of_sub != NULL && view_of_sub != NULL);
    PyInterpreterGuard_Close(of_sub);
    PyInterpreterView_Close(view_of_sub);
}

static void flat(const char *what, int count, void (*batch)(int))
{
    py_init();
    guard = PyInterpreterGuard_FromCurrent();
    view = PyInterpreterView_FromCurrent();
    CHECK(guard != NULL && view != NULL);
    flat_check(what, count, batch, NULL);
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(view);
    py_finalize();
}

/* Without a GIL, CPython has an allocator of its own only. */
// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 600
SCENARIO(guards, "PyInterpreterGuard_Close gives back all that a guard took")
{
    flat("guards", flat_count(100000), take_guards);
}

// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 600
SCENARIO(views, "PyInterpreterView_Close gives back all that a view took")
{
    flat("views", flat_count(100000), take_views);
}

// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 600
SCENARIO(attachments, "PyThreadState_Release gives back all that an Ensure took")
{
    flat("attachments", flat_count(10000), attach_often);
}

// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 1800
SCENARIO(threads, "A thread that has attached and ends leaves nothing behind")
{
    flat("threads", flat_count(2000), start_threads);
}

// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 1800
SCENARIO(threads_at_their_end, "... also one that attaches when all its destructors were called as often as they are")
{
    flat("threads", flat_count(2000), start_threads_that_attach_at_their_end);
}

// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 7200
SCENARIO(interpreters, "A subinterpreter whose guards and views are closed leaves nothing of the library behind")
{
    py_init();
    flat_interpreters(take_both_in_a_subinterpreter);
    py_finalize();
}
