/* Whether anything is left behind by what is made and given back again. Counted are the blocks of memory
 * that are in use in the whole process, by malloc and free of our own before those of the C library: a number that
 * depends on neither time nor sizes nor the kernel. With PYTHONMALLOC=malloc CPython's are among them.
 * Included by one file of a program, after the choice of the dialect. */

#ifndef FLAT_H
#define FLAT_H

#include "harness.h"

#include <errno.h>

#include "libc_malloc.h"

static _Atomic long long flat_blocks;

static void *flat_new(void *block)
{
    flat_blocks += block != NULL;
    return block;
}

void *malloc(size_t size)
{
    return flat_new(libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    return flat_new(libc_calloc(count, size));
}

void *realloc(void *block, size_t size)
{
    void *moved = libc_realloc(block, size);
    /* NULL for a size of zero, too: freed. */
    if (block == NULL || (moved == NULL && size == 0)) {
        flat_blocks += (moved != NULL) - (block != NULL);
    }
    return moved;
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    *block = flat_new(libc_aligned_alloc(alignment, size));
    return *block == NULL ? ENOMEM : 0;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return flat_new(libc_aligned_alloc(alignment, size));
}

void *memalign(size_t alignment, size_t size)
{
    return flat_new(libc_aligned_alloc(alignment, size));
}

void free(void *block)
{
    flat_blocks -= block != NULL;
    libc_free(block);
}

enum { FLAT_BATCHES = 20 };

/* FLAT_COUNT, or what is given. */
static int flat_count(int otherwise)
{
    const char *text = getenv("FLAT_COUNT");
    int count = text == NULL || *text == '\0' ? otherwise : atoi(text);
    CHECK(count >= FLAT_BATCHES);
    return count;
}

static int flat_compare(const void *a, const void *b)
{
    long long left = *(const long long *)a, right = *(const long long *)b;
    return (left > right) - (left < right);
}

/* The growth of a usual batch. */
static long long flat_median(long long growth[FLAT_BATCHES])
{
    qsort(growth, FLAT_BATCHES, sizeof *growth, flat_compare);
    return growth[FLAT_BATCHES / 2];
}

static long long flat_grown(void (*batch)(int), int count)
{
    long long before = flat_blocks;
    batch(count);
    return flat_blocks - before;
}

/* Makes `count` of something, and checks that they leave less behind than one block for every four of
 * them. `without`, if there is one, does the same without the library: what that leaves behind is
 * CPython's own, and so is some of the difference, so then it is one block for each.
 *
 * What is left behind every time is in the usual batch and in all together. CPython now and then keeps
 * something of its own, which is in one of the two. */
__attribute__((unused))
static void flat_check(const char *what, int count, void (*with)(int), void (*without)(int))
{
    int size = count / FLAT_BATCHES;
    long long growth[FLAT_BATCHES], cpythons[FLAT_BATCHES];
    /* What is made once and kept. */
    with(size);
    if (without != NULL) {
        without(size);
    }
    long long all = 0;
    for (int i = 0; i < FLAT_BATCHES; i++) {
        growth[i] = flat_grown(with, size);
        cpythons[i] = without == NULL ? 0 : flat_grown(without, size);
        all += growth[i] - cpythons[i];
    }
    long long ours = flat_median(growth), theirs = flat_median(cpythons);
    printf("%d %s: %+.2f blocks each in the usual batch, %+.2f of them CPython's; %+lld in all\n",
           size * FLAT_BATCHES, what, (double)ours / size, (double)theirs / size, all);
    int weight = without == NULL ? 4 : 1;
    CHECK(weight * (ours - theirs) < size || weight * all < size * FLAT_BATCHES);
}

/* Threads that run `body` and end, a few at a time. */
__attribute__((unused))
static void flat_threads(int count, void (*body)(void *))
{
    enum { AT_ONCE = 4 };
    Py_BEGIN_ALLOW_THREADS
    for (int done = 0; done < count; done += AT_ONCE) {
        pthread_t threads[AT_ONCE];
        int started = count - done < AT_ONCE ? count - done : AT_ONCE;
        for (int i = 0; i < started; i++) {
            threads[i] = thread_start(body, NULL);
        }
        for (int i = 0; i < started; i++) {
            thread_join(threads[i]);
        }
    }
    Py_END_ALLOW_THREADS
}

static void (*flat_in_sub)(void);

static void flat_make_interpreters(int count, bool used)
{
    for (int i = 0; i < count; i++) {
        PyThreadState *caller = PyThreadState_Get();
        PyThreadState *sub = Py_NewInterpreter();
        CHECK(sub != NULL);
        /* The library imports it too, and CPython 3.12 leaks the names in every module's spec. */
        PyObject *module = PyImport_ImportModule("atexit");
        CHECK(module != NULL);
        Py_DECREF(module);
        if (used) {
            flat_in_sub();
        }
        Py_EndInterpreter(sub);
        CHECK_PTR(PyThreadState_Swap(caller), NULL);
    }
}

static void flat_interpreters_used(int count)
{
    flat_make_interpreters(count, true);
}

static void flat_interpreters_unused(int count)
{
    flat_make_interpreters(count, false);
}

/* Subinterpreters in which `use` is called, against the same without. */
__attribute__((unused))
static void flat_interpreters(void (*use)(void))
{
    flat_in_sub = use;
    flat_check("interpreters", flat_count(200), flat_interpreters_used, flat_interpreters_unused);
}

#endif
