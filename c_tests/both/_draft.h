/* The draft, for files that speak the accepted API: one dialect per file. References are passed as the
 * pointers they may be cast to. */

#ifndef BOTH_DRAFT_H
#define BOTH_DRAFT_H

/* A strong or a weak reference to the current interpreter. */
void *draft_ref(void);
void *draft_weak_ref(void);
/* NULL where it is refused. */
void *draft_as_strong(void *wref);
void *draft_main(void);
void draft_close(void *ref);
void draft_weak_close(void *wref);

void draft_ensure(void *ref);
void draft_release(void);

int draft_get_daemon(void);
int draft_set_daemon(int is_daemon);

#endif
