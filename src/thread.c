/*
 * The one thread-local word of the library, reached the fast way.
 *
 * A shared library's thread-local storage is reached through a call into the
 * loader unless it is "initial-exec", which Rust cannot say. glibc keeps a
 * reserve for libraries that are loaded late, and this takes eight bytes of
 * it. Other C libraries have no such reserve.
 */
#include <limits.h> /* any header of glibc defines __GLIBC__ */
#include <stddef.h>

#if defined(__linux__) && defined(__GLIBC__)
#define FAST __attribute__((tls_model("initial-exec")))
#else
#define FAST
#endif

static __thread void *this_thread FAST;

__attribute__((visibility("hidden"))) void *pep788_get_thread(void)
{
    return this_thread;
}

__attribute__((visibility("hidden"))) void pep788_set_thread(void *thread)
{
    this_thread = thread;
}
