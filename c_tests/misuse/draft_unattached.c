/* What needs an attached thread state in the draft says so, also while another thread has one: up to
 * 3.11 CPython itself does not tell the two apart. */

#define API_DRAFT
#include "harness.h"

static event held = EVENT_INIT;
static event never = EVENT_INIT;

static void ref_get(void *unused)
{
    (void)unused;
    PyInterpreterRef_Get();
    _exit(0);
}

static void weak_ref_get(void *unused)
{
    (void)unused;
    PyInterpreterWeakRef_Get();
    _exit(0);
}

static void get_daemon(void *unused)
{
    (void)unused;
    PyThreadState_GetDaemon();
    _exit(0);
}

static void set_daemon(void *unused)
{
    (void)unused;
    PyThreadState_SetDaemon(0);
    _exit(0);
}

static void unset_daemon(void *unused)
{
    (void)unused;
    PyThreadState_SetDaemon(1);
    _exit(0);
}

static void attach_and_stay(void *ref)
{
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    event_set(&held);
    event_wait(&never);
}

/* In the main thread, detached: nobody has the GIL. */
static void detached(void (*misuse)(void *))
{
    py_init();
    PyEval_SaveThread();
    misuse(NULL);
}

/* In a fresh thread: nobody has the GIL. */
static void in_a_thread(void (*misuse)(void *))
{
    py_init();
    py_thread_join(thread_start(misuse, NULL));
}

/* In a fresh thread, while the main thread has the GIL and keeps it. */
static void beside_the_main_thread(void (*misuse)(void *))
{
    py_init();
    thread_start(misuse, NULL);
    event_wait(&never);
}

/* In the main thread, detached, while another thread has the GIL and keeps it. */
static void beside_a_thread(void (*misuse)(void *))
{
    py_init();
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    PyEval_SaveThread();
    thread_start(attach_and_stay, ref);
    event_wait(&held);
    misuse(NULL);
}

/* --- PyInterpreterRef_Get ---------------------------------------------------------------------- */

// expect: fatal PyInterpreterRef_Get "no attached thread state"
SCENARIO(ref_detached, "PyInterpreterRef_Get: the main thread has detached")
{
    detached(ref_get);
}

// expect: fatal PyInterpreterRef_Get "no attached thread state"
SCENARIO(ref_in_a_thread, "PyInterpreterRef_Get: a thread that never was attached")
{
    in_a_thread(ref_get);
}

// expect: fatal PyInterpreterRef_Get "no attached thread state"
SCENARIO(ref_beside_the_main_thread, "PyInterpreterRef_Get: a fresh thread, while the main thread has the GIL")
{
    beside_the_main_thread(ref_get);
}

// expect: fatal PyInterpreterRef_Get "no attached thread state"
SCENARIO(ref_beside_a_thread, "PyInterpreterRef_Get: the main thread has detached, and another one has the GIL")
{
    beside_a_thread(ref_get);
}

/* --- PyInterpreterWeakRef_Get ------------------------------------------------------------------ */

// expect: fatal PyInterpreterWeakRef_Get "no attached thread state"
SCENARIO(weak_ref_detached, "PyInterpreterWeakRef_Get: the main thread has detached")
{
    detached(weak_ref_get);
}

// expect: fatal PyInterpreterWeakRef_Get "no attached thread state"
SCENARIO(weak_ref_in_a_thread, "PyInterpreterWeakRef_Get: a thread that never was attached")
{
    in_a_thread(weak_ref_get);
}

// expect: fatal PyInterpreterWeakRef_Get "no attached thread state"
SCENARIO(weak_ref_beside_the_main_thread, "PyInterpreterWeakRef_Get: a fresh thread, while the main thread has the GIL")
{
    beside_the_main_thread(weak_ref_get);
}

// expect: fatal PyInterpreterWeakRef_Get "no attached thread state"
SCENARIO(weak_ref_beside_a_thread, "PyInterpreterWeakRef_Get: the main thread has detached, and another one has the GIL")
{
    beside_a_thread(weak_ref_get);
}

/* --- PyThreadState_GetDaemon ------------------------------------------------------------------- */

// expect: fatal PyThreadState_GetDaemon "no attached thread state"
SCENARIO(get_daemon_detached, "PyThreadState_GetDaemon: the main thread has detached")
{
    detached(get_daemon);
}

// expect: fatal PyThreadState_GetDaemon "no attached thread state"
SCENARIO(get_daemon_in_a_thread, "PyThreadState_GetDaemon: a thread that never was attached")
{
    in_a_thread(get_daemon);
}

// expect: fatal PyThreadState_GetDaemon "no attached thread state"
SCENARIO(get_daemon_beside_the_main_thread, "PyThreadState_GetDaemon: a fresh thread, while the main thread has the GIL")
{
    beside_the_main_thread(get_daemon);
}

// expect: fatal PyThreadState_GetDaemon "no attached thread state"
SCENARIO(get_daemon_beside_a_thread, "PyThreadState_GetDaemon: the main thread has detached, and another one has the GIL")
{
    beside_a_thread(get_daemon);
}

/* --- PyThreadState_SetDaemon(0) ---------------------------------------------------------------- */

// expect: fatal PyThreadState_SetDaemon "no attached thread state"
SCENARIO(set_daemon_detached, "PyThreadState_SetDaemon(0): the main thread has detached")
{
    detached(set_daemon);
}

// expect: fatal PyThreadState_SetDaemon "no attached thread state"
SCENARIO(set_daemon_in_a_thread, "PyThreadState_SetDaemon(0): a thread that never was attached")
{
    in_a_thread(set_daemon);
}

// expect: fatal PyThreadState_SetDaemon "no attached thread state"
SCENARIO(set_daemon_beside_the_main_thread, "PyThreadState_SetDaemon(0): a fresh thread, while the main thread has the GIL")
{
    beside_the_main_thread(set_daemon);
}

// expect: fatal PyThreadState_SetDaemon "no attached thread state"
SCENARIO(set_daemon_beside_a_thread, "PyThreadState_SetDaemon(0): the main thread has detached, and another one has the GIL")
{
    beside_a_thread(set_daemon);
}

/* --- PyThreadState_SetDaemon(1) ---------------------------------------------------------------- */

// expect: fatal PyThreadState_SetDaemon "no attached thread state"
SCENARIO(unset_daemon_detached, "PyThreadState_SetDaemon(1): the main thread has detached")
{
    detached(unset_daemon);
}

// expect: fatal PyThreadState_SetDaemon "no attached thread state"
SCENARIO(unset_daemon_in_a_thread, "PyThreadState_SetDaemon(1): a thread that never was attached")
{
    in_a_thread(unset_daemon);
}

// expect: fatal PyThreadState_SetDaemon "no attached thread state"
SCENARIO(unset_daemon_beside_the_main_thread, "PyThreadState_SetDaemon(1): a fresh thread, while the main thread has the GIL")
{
    beside_the_main_thread(unset_daemon);
}

// expect: fatal PyThreadState_SetDaemon "no attached thread state"
SCENARIO(unset_daemon_beside_a_thread, "PyThreadState_SetDaemon(1): the main thread has detached, and another one has the GIL")
{
    beside_a_thread(unset_daemon);
}
