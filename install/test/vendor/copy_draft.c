/* The draft's half of copy.c: one dialect per file. */
#include <pep788_draft.h>

#include "copy.h"

static void *reference(void) { return PyInterpreterRef_Get(); }
static void close_reference(void *reference) { PyInterpreterRef_Close(reference); }
static int ensure_reference(void *reference) { return PyThreadState_Ensure(reference); }
static void release_reference(void) { PyThreadState_Release(); }
static int set_daemon(int is_daemon) { return PyThreadState_SetDaemon(is_daemon); }
static int get_daemon(void) { return PyThreadState_GetDaemon(); }

void fill_in_draft(struct copy *copy)
{
    copy->reference = reference;
    copy->close_reference = close_reference;
    copy->ensure_reference = ensure_reference;
    copy->release_reference = release_reference;
    copy->set_daemon = set_daemon;
    copy->get_daemon = get_daemon;
}
