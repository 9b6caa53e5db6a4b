/* Every allocation on the way fails once. For one file of a program: malloc and its kin are replaced, for the
 * whole process, by functions that count what the calling thread asks for, and CPython's own allocators
 * are made to count too. Include it after harness.h. */

#ifndef NO_MEMORY_H
#define NO_MEMORY_H

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <sys/wait.h>

#include "libc_malloc.h"

/* While positive, counts this thread's allocations down; that which makes it zero fails, and so do those
 * after it if `all_the_rest`. */
static _Thread_local long countdown;
static _Thread_local bool all_the_rest;
static _Thread_local bool exhausted;

/* In 3.11 PyThreadState_New itself crashes when there is no memory for a thread state, so that there always
 * is; how often is printed. */
static long spared;

static bool fails(size_t size)
{
#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
    /* A debug build puts a few words around it. */
    bool is_one = size >= sizeof(PyThreadState) && size <= sizeof(PyThreadState) + 64;
    if (is_one && (countdown > 0 || (exhausted && all_the_rest))) {
        spared++;
        return false;
    }
#else
    (void)size;
#endif
    if (exhausted && all_the_rest) {
        return true;
    }
    if (countdown > 0 && --countdown == 0) {
        exhausted = true;
        return true;
    }
    return false;
}

/* From here on the nth allocation fails. */
static void fail_from(long nth, bool rest)
{
    exhausted = false;
    all_the_rest = rest;
    countdown = nth;
}

/* Everything is there again. Whether an allocation failed. */
static bool enough_memory(void)
{
    bool failed = exhausted;
    countdown = 0;
    exhausted = false;
    return failed;
}

/* --- The process's own ----------------------------------------------------------------------------- */

static void *or_error(void *memory)
{
    if (memory == NULL) {
        errno = ENOMEM;
    }
    return memory;
}

void *malloc(size_t size)
{
    return or_error(fails(size) ? NULL : libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    return or_error(fails(count * size) ? NULL : libc_calloc(count, size));
}

void *realloc(void *memory, size_t size)
{
    return or_error(fails(size) ? NULL : libc_realloc(memory, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return or_error(fails(size) ? NULL : libc_aligned_alloc(alignment, size));
}

void *memalign(size_t alignment, size_t size)
{
    return aligned_alloc(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    void *got = fails(size) ? NULL : libc_aligned_alloc(alignment, size);
    if (got == NULL) {
        return ENOMEM;
    }
    *memory = got;
    return 0;
}

/* --- CPython's, which asks for large pieces only and divides them itself ---------------------------- */

static void *py_malloc(void *original, size_t size)
{
    PyMemAllocatorEx *allocator = original;
    return fails(size) ? NULL : allocator->malloc(allocator->ctx, size);
}

static void *py_calloc(void *original, size_t count, size_t size)
{
    PyMemAllocatorEx *allocator = original;
    return fails(count * size) ? NULL : allocator->calloc(allocator->ctx, count, size);
}

static void *py_realloc(void *original, void *memory, size_t size)
{
    PyMemAllocatorEx *allocator = original;
    return fails(size) ? NULL : allocator->realloc(allocator->ctx, memory, size);
}

static void py_free(void *original, void *memory)
{
    PyMemAllocatorEx *allocator = original;
    allocator->free(allocator->ctx, memory);
}

/* Before Python starts. The third one, the raw allocator, is malloc. */
static void count_allocations(void)
{
    static const PyMemAllocatorDomain domains[2] = {PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
    static PyMemAllocatorEx originals[2];
    for (int i = 0; i < 2; i++) {
        PyMem_GetAllocator(domains[i], &originals[i]);
        PyMemAllocatorEx replacement = {&originals[i], py_malloc, py_calloc, py_realloc, py_free};
        PyMem_SetAllocator(domains[i], &replacement);
    }
}

/* --- Once for each allocation ---------------------------------------------------------------------- */

/* In this many attempts of a series CPython itself may crash; each is printed. Our own crash would show
 * elsewhere too. */
static int cpython_may_crash;

/* A first use imports `atexit`. By itself, PyImport_ImportModule ends CPython where one allocation fails: 3.12, and
 * 3.13 of 32 bits, in PyObject_ClearWeakRefs, of a weak reference with a callback to an object of importlib; debug builds of
 * 3.13 in PyFunction_New, of code that is freed already; those from 3.13 on by an assertion, as a call fails
 * without an exception. All but the second one in subinterpreters only. */
static inline void importing_may_crash(bool in_a_subinterpreter)
{
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < (SIZEOF_VOID_P == 4 ? 0x030E0000 : 0x030D0000)
    cpython_may_crash = in_a_subinterpreter;
#elif PY_VERSION_HEX >= 0x030D0000
    /* Not Py_DEBUG: Debian's debug builds may be met by the other ones' headers. */
    if (PySys_GetObject("gettotalrefcount") != NULL) {
        cpython_may_crash = (PY_VERSION_HEX < 0x030E0000) + in_a_subinterpreter;
    }
#else
    (void)in_a_subinterpreter;
#endif
}

/* Calls `attempt` with 1, 2, 3 ..., each time in a child of this process as it is now, until it says that
 * it got by without that allocation. The child goes on with nothing but the calling thread, so a first
 * use is a first use in each. */
static void in_children(bool (*attempt)(long nth))
{
    enum { MANY = 20000 };
    int may_crash = cpython_may_crash;
    for (long nth = 1; nth < MANY; nth++) {
        fflush(stdout);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            bool failed = attempt(nth);
            if (spared > 0 && nth == 1) {
                printf("not those of %ld thread states, see no_memory.h\n", spared);
            }
            fflush(stdout);
            _exit(failed ? 42 : 43);
        }
        int status;
        CHECK_INT(waitpid(child, &status, 0), child);
        bool crashed = WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGABRT);
        if (crashed && may_crash-- > 0) {
            printf("without allocation %ld CPython crashed\n", nth);
            continue;
        }
        if (!WIFEXITED(status) || (WEXITSTATUS(status) != 42 && WEXITSTATUS(status) != 43)) {
            check_failed(__FILE__, __LINE__, "without allocation %ld it ended with status %#x", nth,
                         (unsigned)status);
        }
        if (WEXITSTATUS(status) == 43) {
            printf("each of %ld allocations failed once\n", nth - 1);
            return;
        }
    }
    check_failed(__FILE__, __LINE__, "there is no end of allocations");
}

#endif
