/* What every scenario stands on: checks, threads, events, an order of events that can be checked
 * after finalization, and Python's start, end and subinterpreters, the same on every version.
 *
 * Nothing here sleeps: a scenario waits for an event, or it does not wait. */

#ifndef HARNESS_H
#define HARNESS_H

#ifndef HARNESS_NO_PYTHON
#  include "api.h"
#endif

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef _WIN32
#  include "on_windows.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* --- Scenarios ----------------------------------------------------------------------------- */

/* A scenario: its name, the sentence of the contract it checks, and its body. It passes when its
 * body returns, or however the directives above it say (see README.md). */
#define SCENARIO(name, sentence)                                                     \
    static void scenario_body_##name(void);                                          \
    static struct scenario scenario_##name = {#name, sentence, scenario_body_##name, NULL}; \
    __attribute__((constructor)) static void scenario_add_##name(void)               \
    {                                                                                \
        harness_add(&scenario_##name);                                               \
    }                                                                                \
    static void scenario_body_##name(void)

struct scenario {
    const char *name;
    const char *sentence;
    void (*body)(void);
    struct scenario *next;
};

void harness_add(struct scenario *scenario);

/* --- Checks -------------------------------------------------------------------------------- */

/* A failed check ends the process at once, from whatever thread. */
#define CHECK(condition) \
    ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, "%s", #condition))

#define CHECK_INT(actual, expected) \
    check_int(__FILE__, __LINE__, #actual, (long long)(actual), (long long)(expected))

#define CHECK_PTR(actual, expected) \
    check_ptr(__FILE__, __LINE__, #actual, (const void *)(actual), (const void *)(expected))

__attribute__((noreturn, format(printf, 3, 4)))
void check_failed(const char *file, int line, const char *format, ...);
void check_int(const char *file, int line, const char *what, long long actual, long long expected);
void check_ptr(const char *file, int line, const char *what, const void *actual,
               const void *expected);

/* --- Threads and events -------------------------------------------------------------------- */

pthread_t thread_start(void (*body)(void *), void *argument);
void thread_join(pthread_t thread);

/* Happens once. */
typedef struct event {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    bool happened;
} event;

#define EVENT_INIT {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false}

void event_set(event *event);
void event_wait(event *event);
/* Whether it happened within that time. Only for what must NOT happen. */
bool event_wait_ms(event *event, int milliseconds);

/* --- The order of things ------------------------------------------------------------------- */

/* Notes that something happened; works from any thread, at any time. `what` must stay valid. */
void log_event(const char *what);
/* Everything noted so far, in its order: "exiting,closed,finalized". */
void expect_log(const char *expected);
/* How often it was noted. */
int log_count(const char *what);

#ifndef HARNESS_NO_PYTHON

/* --- Python -------------------------------------------------------------------------------- */

void py_init(void);
/* Py_FinalizeEx, which has to succeed. */
void py_finalize(void);
/* The same while the thread works, and joins it. `log` is what has happened by then, "finalized" where that came. */
void py_finalize_beside(pthread_t thread, const char *log);

/* Runs statements in __main__ of the current interpreter; they must not raise. */
void run(const char *code);
/* The value of an expression in __main__, an integer. */
long eval_long(const char *expression);

/* These give up the GIL while they wait. */
void py_event_wait(event *event);
void py_thread_join(pthread_t thread);

/* The thread state that the calling thread is attached with, or NULL. */
PyThreadState *attached(void);
/* The same, with the interpreter it belongs to. */
PyInterpreterState *attached_interpreter(void);
/* How many thread states the current interpreter has. */
int count_thread_states(void);

/* Calls `function` in the exit of the current interpreter, with a thread state attached, as an
 * `atexit` callback. Registered after the first use of the API it runs before the wait for guards,
 * and thereby tells that the exit has begun. */
void at_exit(void (*function)(void *), void *argument);
/* The usual such function: `argument` is an event to be set. */
void set_event(void *event);

/* Calls `function` when the current interpreter takes down its modules: after the wait, when
 * nothing is given any more, with a thread state attached. */
void at_teardown(void (*function)(void *), void *argument);

/* Calls `function` when all exit callbacks of the current interpreter have run, right before the wait. A signal
 * that is sent from then on is for the wait, and not for Python code of an older exit callback. */
void when_exit_callbacks_have_run(void (*function)(void *), void *argument);

/* Calls `function` when all exit callbacks of the current interpreter have run, and its wait is over, but
 * before it finalizes: other threads can attach. To be asked for before the first use of the API. */
void after_exit_callbacks(void (*function)(void *), void *argument);

/* Puts a function without arguments into __main__ of the current interpreter. */
void expose(const char *name, void (*function)(void));

/* The exception that FromCurrent raises where guards are no longer given; clears it. */
void check_finalization_error(void);

/* New subinterpreters. The caller stays attached as it was; returned is the new interpreter's own
 * thread state, detached. The isolated kind has its own GIL (3.12). */
PyThreadState *sub_new(void);
PyThreadState *sub_new_isolated(void);
/* Swaps to that thread state, calls Py_EndInterpreter, swaps back. */
void sub_end(PyThreadState *sub);
/* Does `PyThreadState_Swap`, and checks that it left what is expected. */
void swap(PyThreadState *from, PyThreadState *to);

#ifndef __cplusplus
/* Out of memory. After `let_memory_fail`, CPython's raw allocator, which thread states are made with,
 * fails in every thread as long as `memory_fails` is set there. */
extern _Thread_local bool memory_fails;
void let_memory_fail(void);
#endif

#endif /* HARNESS_NO_PYTHON */

#ifdef __cplusplus
}
#endif

#endif
