/* The functions of one copy of libpep788, as the extension module that has it calls them. */
#ifndef COPY_H
#define COPY_H

#include <stddef.h>

struct copy {
    const char *name;
    /* pep788.h */
    void *(*guard)(void);
    void *(*guard_from_view)(void *view);
    void (*close_guard)(void *guard);
    void *(*view)(void);
    void (*close_view)(void *view);
    void *(*ensure)(void *guard);
    void *(*ensure_from_view)(void *view);
    void (*release)(void *token);
    /* pep788_draft.h */
    void *(*reference)(void);
    void (*close_reference)(void *reference);
    int (*ensure_reference)(void *reference);
    void (*release_reference)(void);
    int (*set_daemon)(int is_daemon);
    int (*get_daemon)(void);
    /* pep788_doctor.h */
    size_t (*doctor)(char *text, size_t size);
};

void fill_in_draft(struct copy *copy);

#endif
