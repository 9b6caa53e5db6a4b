/* The exit callback survives what programs do to `atexit`: nothing of this leaves the interpreter unguarded,
 * or shuts the door early. */

#define API_DRAFT
#include "harness.h"

static event exiting = EVENT_INIT;
static PyInterpreterRef ref;
static PyInterpreterWeakRef wref;

static void work_through_the_exit(void *unused)
{
    (void)unused;
    event_wait(&exiting);
    for (int i = 0; i < 100; i++) {
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        run("done += 1");
        PyThreadState_Release();
    }
    log_event("worked");
    PyInterpreterRef_Close(ref);
}

/* Does that to `atexit`, and is waited for all the same. */
static void is_waited_for_after(const char *code)
{
    run("import atexit, gc, sys\n"
        "done = 0");
    ref = PyInterpreterRef_Get();
    wref = PyInterpreterWeakRef_Get();
    CHECK(ref != 0 && wref != 0);
    run(code);
    /* The door is open. */
    PyInterpreterRef another;
    CHECK_INT(PyInterpreterWeakRef_AsStrong(wref, &another), 0);
    PyInterpreterRef_Close(another);
    pthread_t thread = thread_start(work_through_the_exit, NULL);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    thread_join(thread);
    CHECK_INT(log_count("worked"), 1);
    CHECK_INT(log_count("finalized"), 1);
    CHECK_INT(PyInterpreterWeakRef_AsStrong(wref, &another), -1);
    PyInterpreterWeakRef_Close(wref);
}

#define OURS "[one for one in gc.get_objects() if type(one) is type(len) and one.__name__ == 'pep788_exit_begins']"

SCENARIO(unregistered, "A program that finds the exit callback and unregisters it is waited for nevertheless")
{
    py_init();
    is_waited_for_after("ours = " OURS "\n"
                        "assert ours\n"
                        "for one in ours: atexit.unregister(one)\n"
                        "del ours, one");
}

SCENARIO(unregistered_again_and_again, "... as often as it tries")
{
    py_init();
    is_waited_for_after("for _ in range(5):\n"
                        "    for one in " OURS ": atexit.unregister(one)\n"
                        "    one = None\n"
                        "    for _ in range(1000): pass");
}

SCENARIO(cleared_and_run, "_clear and _run_exitfuncs in the middle of a run, in any order")
{
    py_init();
    is_waited_for_after("for name in '_run_exitfuncs', '_clear', '_clear', '_run_exitfuncs', '_run_exitfuncs':\n"
                        "    getattr(atexit, name)()\n"
                        "    for _ in range(1000): pass");
}

static void clear_in_the_exit(void *unused)
{
    (void)unused;
    run("atexit._clear()");
}

SCENARIO(cleared_while_exiting, "_clear in an exit callback, of what is still to be called")
{
    py_init();
    run("import atexit");
    at_exit(clear_in_the_exit, NULL);
    is_waited_for_after("atexit.register(lambda: None)");
}

// expect: stderr "ZeroDivisionError"
SCENARIO(callbacks_around, "A second library's callbacks, before and after ours, that raise, exit or register")
{
    py_init();
    run("import atexit, sys\n"
        "atexit.register(lambda: 1 / 0)\n"
        "atexit.register(sys.exit, 3)");
    is_waited_for_after("atexit.register(lambda: 1 / 0)\n"
                        "atexit.register(sys.exit, 3)\n"
                        "atexit.register(atexit.register, print)\n"
                        "atexit.register(atexit.unregister, print)");
}

SCENARIO(in_a_subinterpreter, "_run_exitfuncs in a subinterpreter in the middle of a run")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    run("import atexit\n"
        "done = 0");
    ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    run("atexit._run_exitfuncs()");
    PyInterpreterRef more = PyInterpreterRef_Get();
    CHECK(more != 0);
    PyInterpreterRef_Close(more);
    pthread_t thread = thread_start(work_through_the_exit, NULL);
    at_exit(set_event, &exiting);
    swap(sub, own);
    sub_end(sub);
    log_event("ended");
    py_thread_join(thread);
    expect_log("worked,ended");
    py_finalize();
}

/* --- Calls that end oddly ------------------------------------------------------------------------------ */

/* Each call leaves its exception to be found by the Release. */
static void end_oddly(void *code)
{
    event_wait(&exiting);
    for (int i = 0; i < 20; i++) {
        CHECK_INT(PyThreadState_Ensure(ref), 0);
        PyObject *dict = PyModule_GetDict(PyImport_AddModule("__main__"));
        CHECK_PTR(PyRun_String(code, Py_file_input, dict, dict), NULL);
        CHECK(PyErr_Occurred());
        PyThreadState_Release();
    }
    log_event("worked");
    PyInterpreterRef_Close(ref);
}

static void goes_on_after(const char *code)
{
    py_init();
    run("import sys");
    ref = PyInterpreterRef_Get();
    CHECK(ref != 0);
    pthread_t thread = thread_start(end_oddly, (void *)code);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
}

SCENARIO(sys_exit_in_a_call, "sys.exit in a guarded call ends neither the process nor the wait")
{
    goes_on_after("sys.exit(3)");
}

SCENARIO(an_exception_at_release, "An exception that is set at Release goes with the thread state, and the next call works")
{
    goes_on_after("raise ValueError");
}

SCENARIO(a_keyboard_interrupt_at_release, "A KeyboardInterrupt is no more than that")
{
    goes_on_after("raise KeyboardInterrupt");
}
