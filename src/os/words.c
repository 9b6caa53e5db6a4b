/*
 * The one thread-local word of the library, reached the fast way.
 *
 * A shared library's thread-local storage is reached through a call into the
 * loader unless it is "initial-exec", which Rust cannot say. glibc keeps a
 * reserve for libraries that are loaded late, of which this one then takes what
 * its thread-local storage is long in all, with Rust's own: 176 bytes. Other C
 * libraries have no such reserve.
 *
 * A copy of the library in an extension (the feature "vendored") must not do
 * that: all thread-local storage of the extension would have to fit into the
 * reserve, or it would not load. It has a TLS descriptor (build.rs asks for it),
 * with which the loader uses the reserve where it can and does without else.
 */
#include <limits.h> /* any header of glibc defines __GLIBC__ */
#include <stddef.h>

#if defined(__linux__) && defined(__GLIBC__) && !defined(VENDORED)
#define FAST __attribute__((tls_model("initial-exec")))
#else
#define FAST
#endif

#define HIDDEN __attribute__((visibility("hidden")))

/* Read by `words.rs` itself where it knows how. */
HIDDEN __thread void *pep788_thread FAST;

HIDDEN void *pep788_get_thread(void)
{
    return pep788_thread;
}

HIDDEN void pep788_set_thread(void *thread)
{
    pep788_thread = thread;
}

#ifdef __powerpc__
/* Does what `personality.rs` says. Weak: where Rust's standard library is linked too, it has its own. */
__attribute__((weak)) HIDDEN int rust_eh_personality(void)
{
    return 8;
}
#endif
