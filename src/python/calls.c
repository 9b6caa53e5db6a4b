/*
 * Calls into CPython that may not return.
 *
 * Up to 3.13 a thread that asks for the interpreter while it finalizes is ended
 * by pthread_exit(), which unwinds the stack. Unwinding must not reach the Rust
 * frames that made the call (it would abort the process), nor the user's C++
 * frames above them. So every call that can wait for the interpreter, or run
 * Python code that does, is made from here, with a cleanup handler below it
 * that never returns: the thread sleeps for ever instead of being torn down in
 * the middle of its frames, which is what CPython itself does from 3.14 on.
 *
 * Compiled with -fexceptions, so that on glibc the handler costs nothing until
 * it is needed.
 */
#include <pthread.h>
#include <unistd.h>
#include <unwind.h>

static void sleep_for_ever(void *unused)
{
    (void)unused;
    for (;;) {
        pause();
    }
}

void pep788_void(void (*call)(void))
{
    pthread_cleanup_push(sleep_for_ever, NULL);
    call();
    pthread_cleanup_pop(0);
}

void pep788_void_ppp(void (*call)(void *, void *, void *), void *a, void *b, void *c)
{
    pthread_cleanup_push(sleep_for_ever, NULL);
    call(a, b, c);
    pthread_cleanup_pop(0);
}

void pep788_void_p(void (*call)(void *), void *a)
{
    pthread_cleanup_push(sleep_for_ever, NULL);
    call(a);
    pthread_cleanup_pop(0);
}

int pep788_int(int (*call)(void))
{
    int result;
    pthread_cleanup_push(sleep_for_ever, NULL);
    result = call();
    pthread_cleanup_pop(0);
    return result;
}

void *pep788_p_p(void *(*call)(const void *), const void *a)
{
    void *result;
    pthread_cleanup_push(sleep_for_ever, NULL);
    result = call(a);
    pthread_cleanup_pop(0);
    return result;
}

void *pep788_p_pp(void *(*call)(void *, const void *), void *a, const void *b)
{
    void *result;
    pthread_cleanup_push(sleep_for_ever, NULL);
    result = call(a, b);
    pthread_cleanup_pop(0);
    return result;
}

void *pep788_p_ppp(void *(*call)(void *, void *, void *), void *a, void *b, void *c)
{
    void *result;
    pthread_cleanup_push(sleep_for_ever, NULL);
    result = call(a, b, c);
    pthread_cleanup_pop(0);
    return result;
}

/* PyObject_RichCompareBool, with Py_EQ. */
int pep788_equal(int (*call)(void *, void *, int), void *a, void *b)
{
    int result;
    pthread_cleanup_push(sleep_for_ever, NULL);
    result = call(a, b, 2);
    pthread_cleanup_pop(0);
    return result;
}

struct search {
    void *function;
    int frames_left, found;
};

static _Unwind_Reason_Code look_at(struct _Unwind_Context *frame, void *argument)
{
    struct search *search = argument;
    /* The return address, less one: still inside the call. */
    void *inside = (void *)(_Unwind_GetIP(frame) - 1);
    search->found = _Unwind_FindEnclosingFunction(inside) == search->function;
    return search->found || --search->frames_left == 0 ? _URC_END_OF_STACK : _URC_NO_REASON;
}

/* Whether this thread is in a call of that function, not far up the stack. */
int pep788_is_below(void *function)
{
    struct search search = {function, 24, 0};
    _Unwind_Backtrace(look_at, &search);
    return search.found;
}
