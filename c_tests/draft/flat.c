/* No memory is left behind by what was given back; accepted/flat.c for the draft. */

// macos-file: no, a program cannot have the malloc of all libraries there
// windows-file: no, it counts the blocks of glibc
// sanitize-file: not address thread valgrind, which have a malloc of their own

#define API_DRAFT
#include "flat.h"

static PyInterpreterRef ref;
static PyInterpreterWeakRef wref;

static void take_refs(int count)
{
    for (int i = 0; i < count; i++) {
        PyInterpreterRef current = PyInterpreterRef_Get();
        CHECK(current != 0);
        PyInterpreterRef copy = PyInterpreterRef_Dup(current);
        PyInterpreterRef promoted, of_main, by_address;
        CHECK_INT(PyInterpreterWeakRef_AsStrong(wref, &promoted), 0);
        CHECK_INT(PyInterpreterRef_Main(&of_main), 0);
        CHECK_INT(PyInterpreterState_AsStrong(PyInterpreterRef_AsInterpreter(ref), &by_address), 0);
        PyInterpreterRef_Close(current);
        PyInterpreterRef_Close(copy);
        PyInterpreterRef_Close(promoted);
        PyInterpreterRef_Close(of_main);
        PyInterpreterRef_Close(by_address);
    }
}

static void take_weak_refs(int count)
{
    for (int i = 0; i < count; i++) {
        PyInterpreterWeakRef current = PyInterpreterWeakRef_Get();
        CHECK(current != 0);
        PyInterpreterWeakRef copy = PyInterpreterWeakRef_Dup(current);
        PyInterpreterWeakRef_Close(current);
        PyInterpreterWeakRef_Close(copy);
    }
}

/* Its thread state holds the interpreter for a while. */
static void attach_once(void *unused)
{
    (void)unused;
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    PyThreadState_Release();
    PyThreadState_Release();
}

static void start_threads(int count)
{
    flat_threads(count, attach_once);
}

static void take_both_in_a_subinterpreter(void)
{
    PyInterpreterRef of_sub = PyInterpreterRef_Get();
    PyInterpreterWeakRef weak = PyInterpreterWeakRef_Get();
    CHECK(of_sub != 0 && weak != 0);
    PyInterpreterRef_Close(of_sub);
    PyInterpreterWeakRef_Close(weak);
}

static void flat(const char *what, int count, void (*batch)(int))
{
    py_init();
    ref = PyInterpreterRef_Get();
    wref = PyInterpreterWeakRef_Get();
    CHECK(ref != 0 && wref != 0);
    flat_check(what, count, batch, NULL);
    PyInterpreterRef_Close(ref);
    PyInterpreterWeakRef_Close(wref);
    py_finalize();
}

/* Without a GIL, CPython has an allocator of its own only. */
// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 600
SCENARIO(strong_references, "PyInterpreterRef_Close gives back all that a reference took")
{
    flat("references", flat_count(100000), take_refs);
}

// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 600
SCENARIO(weak_references, "PyInterpreterWeakRef_Close gives back all that a weak reference took")
{
    flat("weak references", flat_count(100000), take_weak_refs);
}

// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 1800
SCENARIO(threads, "A thread that has attached, and whose thread state held the interpreter, leaves nothing behind")
{
    flat("threads", flat_count(2000), start_threads);
}

// pythons: gil
// env: PYTHONMALLOC=malloc
// env: PYTHONHASHSEED=0
// timeout: 7200
SCENARIO(interpreters, "A subinterpreter whose references are closed leaves nothing of the library behind")
{
    py_init();
    flat_interpreters(take_both_in_a_subinterpreter);
    py_finalize();
}
