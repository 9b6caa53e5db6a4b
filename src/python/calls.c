/*
 * Calls into CPython that may not return.
 *
 * Up to 3.13 a thread that asks for the interpreter while it finalizes is ended
 * by pthread_exit(), which unwinds the stack. Unwinding must not reach the Rust
 * frames that made the call (it would abort the process), nor the user's C++
 * frames above them. So every call that can wait for the interpreter, or run
 * Python code that does, is made from here, from a frame that is not unwound:
 * the thread is ended without that, as `late.rs` says.
 */
#include <stddef.h>
#include <stdint.h>
#include <unwind.h>

#ifdef _WIN32
#define HIDDEN
#else
#include <pthread.h>
#include <unistd.h>
#define HIDDEN __attribute__((visibility("hidden")))
#endif

/* `late.rs` puts it there. */
HIDDEN void (*pep788_end_late_thread)(void);

#ifdef _WIN32
/* Here a thread is ended without unwinding, by CPython too. */
#define STAY
#define STAYED
#else

static void end_late_thread(void *unused)
{
    (void)unused;
    if (pep788_end_late_thread != NULL) {
        pep788_end_late_thread();
    }
    for (;;) {
        pause();
    }
}

/* Whether the process is only watched: then a late thread is not ended here (`watch/file.rs`). */
HIDDEN unsigned pep788_only_watches;

/* Whether the calling thread comes too late, which `seatbelt/imports.rs` knows. CPython would have it sleep, or unwind it. */
HIDDEN int (*pep788_is_too_late)(int sleeps);

/*
 * What CPython calls in their place under the seatbelt. Here, and not in Rust,
 * since a thread that ends as it should is unwound through the first of them.
 */
HIDDEN void pep788_pthread_exit(void *result)
{
    if (pep788_is_too_late(0)) {
        end_late_thread(NULL);
    }
    pthread_exit(result);
}

/* Has the exit callback installed. */
HIDDEN void (*pep788_thread_is_started)(void);

HIDDEN int pep788_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                                 void *(*body)(void *), void *argument)
{
    pep788_thread_is_started();
    return pthread_create(thread, attributes, body, argument);
}

HIDDEN int pep788_pause(void)
{
    if (pep788_is_too_late(1)) {
        end_late_thread(NULL);
    }
    return pause();
}

/* `watch/functions.rs` puts them there, while a thread's next frame is to be noted. */
HIDDEN void (*pep788_note_frame)(void *state, void *frame);
HIDDEN void *(*pep788_evaluate_default)(void *state, void *frame, int throwing);

/* CPython calls it in place of its own function. The thread may be ended in the frame, by unwinding. */
HIDDEN void *pep788_evaluate(void *state, void *frame, int throwing)
{
    pep788_note_frame(state, frame);
    return pep788_evaluate_default(state, frame, throwing);
}

/* For `patch/page.rs`. */
HIDDEN void pep788_clear_cache(void *begin, void *end)
{
    __builtin___clear_cache(begin, end);
}

#if defined(__GLIBC__) && !defined(__ARM_EABI_UNWINDER__)
/*
 * The unwinder asks a frame's personality what to do with it. A cleanup handler
 * would come to the same, but would tie this file to the unwinder of libgcc_s.
 * Costs nothing until it is asked.
 */
HIDDEN _Unwind_Reason_Code pep788_stay(int version, _Unwind_Action actions,
                                       _Unwind_Exception_Class kind,
                                       struct _Unwind_Exception *exception,
                                       struct _Unwind_Context *context)
{
    (void)version, (void)kind, (void)exception, (void)context;
    if (actions & _UA_FORCE_UNWIND && !pep788_only_watches) {
        end_late_thread(NULL);
    }
    return _URC_CONTINUE_UNWIND;
}

/* 0x1b: a 32-bit offset from where it is written. */
#define STAY __asm__ volatile(".cfi_personality 0x1b, pep788_stay");
/* After the call, so that it is none in the place of this frame. */
#define STAYED __asm__ volatile("" ::: "memory");
#else
/* Other C libraries end a thread without unwinding. On 32-bit ARM glibc comes to this handler where it cannot unwind further, and it
 * cannot unwind CPython. */
#define STAY pthread_cleanup_push(end_late_thread, NULL);
#define STAYED pthread_cleanup_pop(0);
#endif
#endif

HIDDEN void pep788_void(void (*call)(void))
{
    STAY
    call();
    STAYED
}

HIDDEN void pep788_void_ppp(void (*call)(void *, void *, void *), void *a, void *b, void *c)
{
    STAY
    call(a, b, c);
    STAYED
}

HIDDEN void pep788_void_p(void (*call)(void *), void *a)
{
    STAY
    call(a);
    STAYED
}

HIDDEN int pep788_int(int (*call)(void))
{
    int result;
    STAY
    result = call();
    STAYED
    return result;
}

HIDDEN void *pep788_p_p(void *(*call)(const void *), const void *a)
{
    void *result;
    STAY
    result = call(a);
    STAYED
    return result;
}

HIDDEN void *pep788_p_pp(void *(*call)(void *, const void *), void *a, const void *b)
{
    void *result;
    STAY
    result = call(a, b);
    STAYED
    return result;
}

HIDDEN void *pep788_p_ppp(void *(*call)(void *, void *, void *), void *a, void *b, void *c)
{
    void *result;
    STAY
    result = call(a, b, c);
    STAYED
    return result;
}

/* PyObject_RichCompareBool, with Py_EQ. */
HIDDEN int pep788_equal(int (*call)(void *, void *, int), void *a, void *b)
{
    int result;
    STAY
    result = call(a, b, 2);
    STAYED
    return result;
}

/* PyImport_ImportModuleLevel, of a whole name, for no code in particular. */
HIDDEN void *pep788_import(void *(*call)(const char *, void *, void *, void *, int), const char *name)
{
    void *result;
    STAY
    result = call(name, NULL, NULL, NULL, 0);
    STAYED
    return result;
}

struct search {
    void *function;
    int frames_left, found;
};

static _Unwind_Reason_Code look_at(struct _Unwind_Context *frame, void *argument)
{
    struct search *search = argument;
#ifdef __ARM_EABI_UNWINDER__
    /* The lowest bit of a function's address tells which of two instruction sets it is in. */
    search->found = _Unwind_GetRegionStart(frame) == ((uintptr_t)search->function & ~(uintptr_t)1);
#else
    /* The return address, less one: still inside the call. */
    void *inside = (void *)(_Unwind_GetIP(frame) - 1);
    search->found = _Unwind_FindEnclosingFunction(inside) == search->function;
#endif
    return search->found || --search->frames_left == 0 ? _URC_END_OF_STACK : _URC_NO_REASON;
}

/* Whether this thread is in a call of that function, not far up the stack: in debug builds, which inline nothing,
 * giving up the list of callbacks takes some 25 frames. */
HIDDEN int pep788_is_below(void *function)
{
    struct search search = {function, 64, 0};
    _Unwind_Backtrace(look_at, &search);
    return search.found;
}
