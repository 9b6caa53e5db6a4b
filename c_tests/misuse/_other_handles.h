/* Handles of the other dialect, as they look to one that knows nothing of it. */

#ifndef OTHER_HANDLES_H
#define OTHER_HANDLES_H

/* In `_guards.c`, on the current interpreter. */
void *new_guard(void);
void *new_view(void);
/* The token of an Ensure. */
void *ensure_with_a_guard(void *guard);

/* In `_refs.c`, to the current interpreter. */
void *new_ref(void);
void *new_weak_ref(void);
void ensure_with_a_ref(void *ref);

#endif
