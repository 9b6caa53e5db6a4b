/* The C library's allocator, for a program that puts functions of its own in front of it. A program's functions are
 * found first, by all libraries of the process; the next ones of these names are the C library's.
 *
 * Only those are called that do not call each other by name: in musl calloc calls malloc, and memalign calls
 * aligned_alloc, and the program's would be met twice. */

#ifndef LIBC_MALLOC_H
#define LIBC_MALLOC_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static struct {
    void *(*malloc)(size_t size);
    void *(*realloc)(void *block, size_t size);
    void *(*aligned_alloc)(size_t alignment, size_t size);
    void (*free)(void *block);
} libc_functions;

/* The loader's first allocation finds them, before there is a second thread. None of it allocates: what it looks for
 * is there. */
static void libc_find(void)
{
    if (libc_functions.malloc == NULL) {
        *(void **)&libc_functions.free = dlsym(RTLD_NEXT, "free");
        *(void **)&libc_functions.realloc = dlsym(RTLD_NEXT, "realloc");
        *(void **)&libc_functions.aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
        *(void **)&libc_functions.malloc = dlsym(RTLD_NEXT, "malloc");
    }
}

static void *libc_malloc(size_t size)
{
    libc_find();
    return libc_functions.malloc(size);
}

static void *libc_calloc(size_t count, size_t size)
{
    size_t all;
    if (__builtin_mul_overflow(count, size, &all)) {
        return NULL;
    }
    void *block = libc_malloc(all);
    return block == NULL ? NULL : memset(block, 0, all);
}

static void *libc_realloc(void *block, size_t size)
{
    libc_find();
    return libc_functions.realloc(block, size);
}

static void *libc_aligned_alloc(size_t alignment, size_t size)
{
    libc_find();
    return libc_functions.aligned_alloc(alignment, size);
}

__attribute__((unused))
static void libc_free(void *block)
{
    libc_find();
    libc_functions.free(block);
}

#endif
