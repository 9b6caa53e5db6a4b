/* What the two halves of the stress program share: one dialect of the API per C file. */

#ifndef STRESS_H
#define STRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* A broken promise: says which, and ends the process. */
#define CHECK(condition) ((condition) ? (void)0 : broken(__FILE__, __LINE__, #condition))
void broken(const char *file, int line, const char *what) __attribute__((noreturn));

/* A random number below `end`, from this thread's part of the seed; true once in `n` times. */
unsigned below(unsigned end);
#define ONE_IN(n) (below(n) == 0)

/* A call got in; is done. Between the two, the interpreter may not finalize. */
void call_entered(void);
void call_finished(void);

/* The draft's half. A weak reference travels as a pointer. */
void *draft_weak(void);
void *draft_weak_dup(void *weak);
void draft_weak_close(void *weak);
/* Attaches by some function of the draft, calls `work`, detaches. False if it was refused. */
bool draft_call(void *weak, bool is_main, void *address, void (*work)(void *), void *argument);
/* Whether the draft gives a strong reference; it is closed again. */
bool draft_gives(void *weak);
bool draft_gives_main(void);
/* PyThreadState_SetDaemon */
bool draft_set_daemon(bool daemon);

#endif
