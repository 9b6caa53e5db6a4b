/* Daemon-ness and `threading`: PyThreadState_GetDaemon() agrees with threading.Thread.daemon. */

#define API_DRAFT
#include "harness.h"

static event exiting = EVENT_INIT;
static event inside = EVENT_INIT;
static event finalized = EVENT_INIT;

static PyInterpreterRef the_ref;

static PyInterpreterRef ref_here(void)
{
    PyInterpreterRef ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    return ref;
}

/* Python code that lets the others have the GIL, time and again; nobody finalizes meanwhile. */
static void run_for_a_while(void)
{
    for (int i = 0; i < 100; i++) {
        run("x = sum(range(1000))");
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
    Py_BEGIN_ALLOW_THREADS
    CHECK(!event_wait_ms(&finalized, 50));
    Py_END_ALLOW_THREADS
}

/* Called by threads of Python. */
static void check_agrees(void)
{
    long daemon = eval_long("__import__('threading').current_thread().daemon");
    CHECK_INT(PyThreadState_GetDaemon(), daemon);
    Py_BEGIN_ALLOW_THREADS
    Py_END_ALLOW_THREADS
    CHECK_INT(PyThreadState_GetDaemon(), daemon);
    log_event(daemon ? "daemon" : "non-daemon");
}

/* --- Agreement ------------------------------------------------------------------------------------ */

SCENARIO(agrees, "GetDaemon agrees with threading.Thread.daemon: 0 in the main thread and non-daemon threads, 1 in daemon threads")
{
    py_init();
    expose("check", check_agrees);
    check_agrees();
    run("import threading\n"
        "check()\n"
        "for daemon in False, True, False, None:\n"
        "    thread = threading.Thread(target=check, daemon=daemon)\n"
        "    thread.start()\n"
        "    thread.join()");
    py_finalize();
    expect_log("non-daemon,non-daemon,non-daemon,daemon,non-daemon,non-daemon");
}

SCENARIO(agrees_with_what_is_inherited, "A thread of a daemon thread is one by default; a pool's workers and timers are as `threading` says")
{
    py_init();
    expose("check", check_agrees);
    run("import threading\n"
        "def body():\n"
        "    check()\n"
        "    thread = threading.Thread(target=check)\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "thread = threading.Thread(target=body, daemon=True)\n"
        "thread.start()\n"
        "thread.join()\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(1) as pool:\n"
        "    pool.submit(check).result()\n"
        "timer = threading.Timer(0, check)\n"
        "timer.start()\n"
        "timer.join()");
    py_finalize();
    expect_log("daemon,daemon,non-daemon,non-daemon");
}

SCENARIO(main_without_threading, "GetDaemon: 0 in the main thread, whether `threading` is loaded or not; it does not load it")
{
    py_init();
    run("import sys\n"
        "sys.modules.pop('threading', None)");
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(eval_long("'threading' in sys.modules"), 0);
    run("import threading");
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    py_finalize();
}

static void foreign_threads_are_daemons(void *unused)
{
    (void)unused;
    PyGILState_STATE legacy = PyGILState_Ensure();
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    /* Now `threading` has an object for it, a dummy, which is a daemon too. */
    CHECK_INT(eval_long("threading.current_thread().daemon"), 1);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyGILState_Release(legacy);
    log_event("checked");
}

SCENARIO(foreign_threads, "GetDaemon: 1 in a foreign thread attached by legacy means, also when `threading` has noticed it")
{
    py_init();
    run("import threading");
    for (int i = 0; i < 3; i++) {
        py_thread_join(thread_start(foreign_threads_are_daemons, NULL));
    }
    py_finalize();
    expect_log("checked,checked,checked");
}

SCENARIO(foreign_threads_after_pythons,
         "The same where a non-daemon thread of `threading` had the same identifier before")
{
    py_init();
    expose("check", check_agrees);
    for (int i = 0; i < 5; i++) {
        run("import threading\n"
            "thread = threading.Thread(target=check)\n"
            "thread.start()\n"
            "thread.join()");
        py_thread_join(thread_start(foreign_threads_are_daemons, NULL));
    }
    CHECK_INT(log_count("checked"), 5);
    CHECK_INT(log_count("non-daemon"), 5);
    py_finalize();
}

static void check_daemon(void)
{
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    log_event("daemon");
    event_set(&inside);
}

SCENARIO(threads_behind_threadings_back, "GetDaemon: 1 in a thread that `threading` did not start, of _thread")
{
    py_init();
    expose("check", check_daemon);
    run("import threading, _thread\n"
        "_thread.start_new_thread(check, ())");
    py_event_wait(&inside);
    expect_log("daemon");
    py_finalize();
}

static void import_threading_first(void *ref)
{
    PyGILState_STATE legacy = PyGILState_Ensure();
    /* Up to 3.12 `threading` takes the thread that loads it for the main thread. */
    run("import threading");
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_Ensure(ref), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyThreadState_Release();
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    PyInterpreterRef_Close(ref);
    PyGILState_Release(legacy);
    log_event("checked");
}

SCENARIO(a_foreign_thread_loads_threading,
         "A foreign thread is not one that `threading` started, also if it is the first to import `threading`")
{
    py_init();
    run("import sys\n"
        "sys.modules.pop('threading', None)");
    py_thread_join(thread_start(import_threading_first, ref_here()));
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), -1);
    py_finalize();
    expect_log("checked");
}

/* --- Non-daemon threads ------------------------------------------------------------------------------ */

static void check_cannot_be_daemon(void)
{
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), -1);
    CHECK(!PyErr_Occurred());
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), -1);
    CHECK_INT(PyThreadState_GetDaemon(), 0);

    CHECK_INT(PyThreadState_Ensure(the_ref), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), -1);
    CHECK(!PyErr_Occurred());
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyThreadState_Release();
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    log_event("checked");
}

SCENARIO(a_running_non_daemon_thread_stays_one,
         "SetDaemon(1) in a running non-daemon threading.Thread is refused with -1, no exception; inside an Ensure too")
{
    py_init();
    the_ref = ref_here();
    expose("check", check_cannot_be_daemon);
    run("import threading\n"
        "thread = threading.Thread(target=check, daemon=False)\n"
        "thread.start()\n"
        "thread.join()");
    PyInterpreterRef_Close(the_ref);
    py_finalize();
    expect_log("checked");
}

static void set_0_and_end(void)
{
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    log_event("set");
}

SCENARIO(set_0_in_non_daemon_threads, "SetDaemon(0) in a non-daemon thread: 0, and nothing is left of it when the thread has ended")
{
    py_init();
    expose("body", set_0_and_end);
    run("import threading\n"
        "for _ in range(5):\n"
        "    thread = threading.Thread(target=body, daemon=False)\n"
        "    thread.start()\n"
        "    thread.join()");
    CHECK_INT(log_count("set"), 5);
    /* Would hang if it was. */
    py_finalize();
}

/* --- Daemon threads ------------------------------------------------------------------------------------ */

static void set_to_and_fro(void)
{
    PyThreadState *own = PyThreadState_Get();
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 1);

    /* Inside an Ensure it is none, and the Release restores what it was. */
    CHECK_INT(PyThreadState_Ensure(the_ref), 0);
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    PyThreadState_Release();
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    Py_BEGIN_ALLOW_THREADS
    CHECK_INT(PyThreadState_Ensure(the_ref), 0);
    CHECK_PTR(PyThreadState_Get(), own);
    CHECK_INT(PyThreadState_GetDaemon(), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    PyThreadState_Release();
    Py_END_ALLOW_THREADS
    CHECK_INT(PyThreadState_GetDaemon(), 1);
    log_event("checked");
}

SCENARIO(daemon_threads_may_change, "SetDaemon in a daemon thread of `threading`, to and fro")
{
    py_init();
    the_ref = ref_here();
    expose("check", set_to_and_fro);
    run("import threading\n"
        "thread = threading.Thread(target=check, daemon=True)\n"
        "thread.start()\n"
        "thread.join()");
    PyInterpreterRef_Close(the_ref);
    py_finalize();
    expect_log("checked");
}

static void hold_until_the_end(void)
{
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    event_set(&inside);
    py_event_wait(&exiting);
    run_for_a_while();
}

static void note_the_end(void)
{
    run_for_a_while();
    log_event("ended");
}

SCENARIO(held_until_the_thread_ends, "SetDaemon(0) in a daemon thread of `threading`: held until the thread ends")
{
    py_init();
    expose("hold", hold_until_the_end);
    expose("note", note_the_end);
    run("import threading\n"
        "def body():\n"
        "    hold()\n"
        "    for _ in range(3): x = sum(range(1000))\n"
        "    note()\n"
        "threading.Thread(target=body, daemon=True).start()");
    py_event_wait(&inside);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    event_set(&finalized);
    expect_log("ended,finalized");
}

static event left = EVENT_INIT;

static void stay_behind(void)
{
    CHECK_INT(PyThreadState_SetDaemon(0), 0);
    CHECK_INT(PyThreadState_SetDaemon(1), 0);
    PyEval_SaveThread();
    event_set(&inside);
    event_wait(&finalized);
    event_set(&left);
    pthread_exit(NULL);
}

SCENARIO(a_daemon_thread_is_not_waited_for, "SetDaemon(1) in a daemon thread of `threading`: the interpreter finalizes under it")
{
    py_init();
    expose("body", stay_behind);
    run("import threading\n"
        "threading.Thread(target=body, daemon=True).start()");
    py_event_wait(&inside);
    py_finalize();
    event_set(&finalized);
    event_wait(&left);
}

/* --- Subinterpreters -------------------------------------------------------------------------------------- */

SCENARIO(agrees_in_a_subinterpreter, "GetDaemon agrees with the `threading` of the subinterpreter that is attached")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    run("import threading");
    swap(own, sub);
    expose("check", check_agrees);
    run("import threading\n"
        "check()\n"
        "for daemon in False, True:\n"
        "    thread = threading.Thread(target=check, daemon=daemon)\n"
        "    thread.start()\n"
        "    thread.join()");
    swap(sub, own);
    sub_end(sub);
    py_finalize();
    expect_log("non-daemon,non-daemon,daemon");
}

SCENARIO(held_until_the_thread_ends_in_a_subinterpreter, "SetDaemon(0) in a daemon thread of a subinterpreter: Py_EndInterpreter waits until it ends")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    for (int round = 0; round < 5; round++) {
        inside.happened = exiting.happened = finalized.happened = false;
        PyThreadState *sub = sub_new();
        swap(own, sub);
        expose("hold", hold_until_the_end);
        expose("note", note_the_end);
        run("import threading\n"
            "def body():\n"
            "    hold()\n"
            "    note()\n"
            "threading.Thread(target=body, daemon=True).start()");
        py_event_wait(&inside);
        at_exit(set_event, &exiting);
        swap(sub, own);
        sub_end(sub);
        event_set(&finalized);
        CHECK_INT(log_count("ended"), round + 1);
    }
    py_finalize();
}
