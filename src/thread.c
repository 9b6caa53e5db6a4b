/*
 * The one thread-local word of the library, reached the fast way.
 *
 * A shared library's thread-local storage is reached through a call into the
 * loader unless it is "initial-exec", which Rust cannot say. glibc keeps a
 * reserve for libraries that are loaded late, of which this takes eight bytes.
 * Other C libraries have no such reserve.
 */
#include <limits.h> /* any header of glibc defines __GLIBC__ */
#include <stddef.h>

#if defined(__linux__) && defined(__GLIBC__)
#define FAST __attribute__((tls_model("initial-exec")))
#else
#define FAST
#endif

#define HIDDEN __attribute__((visibility("hidden")))

/* Read by `thread.rs` itself where it knows how. */
HIDDEN __thread void *pep788_thread FAST;

HIDDEN void *pep788_get_thread(void)
{
    return pep788_thread;
}

HIDDEN void pep788_set_thread(void *thread)
{
    pep788_thread = thread;
}
