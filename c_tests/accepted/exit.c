/* How a program ends: the wait changes neither the exit code nor what is printed. The program is
 * what `python -c` is, with a built-in module `native` whose thread works through the exit. */

#include "harness.h"

static event exiting = EVENT_INIT;

/* What the thread calls. A function, as PyRun_SimpleString makes CPython forget that it was a
 * KeyboardInterrupt that ended the program. */
static PyObject *callable;

static void work_through_the_exit(void *guard)
{
    event_wait(&exiting);
    for (int i = 0; i < 100; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        PyObject *result = PyObject_CallObject(callable, NULL);
        CHECK(result != NULL);
        Py_DECREF(result);
        PyThreadState_Release(token);
    }
    puts("worked");
    fflush(stdout);
    PyInterpreterGuard_Close(guard);
}

static PyObject *start(PyObject *self, PyObject *argument)
{
    (void)self;
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    if (guard == NULL) {
        return NULL;
    }
    Py_INCREF(argument);
    callable = argument;
    thread_start(work_through_the_exit, guard);
    at_exit(set_event, &exiting);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"start", start, METH_O, "A native thread with a guard, which calls a function once the exit has begun."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "native",
    .m_methods = methods,
};

static PyObject *init_native(void)
{
    return PyModuleDef_Init(&definition);
}

/* Exits with what `python -c code` exits with. */
static void python_main(const char *code)
{
    char *arguments[] = {(char *)"python", (char *)"-c", (char *)code, NULL};
    CHECK_INT(PyImport_AppendInittab("native", init_native), 0);
    exit(Py_BytesMain(3, arguments));
}

// expect: stdout "worked"
SCENARIO(end_of_script, "The wait holds at the end of a script, and the exit code is 0")
{
    python_main("import native; native.start(lambda: sum(range(100)))");
}

// expect: exit 3
// expect: stdout "worked"
SCENARIO(sys_exit, "The wait holds for sys.exit, and the exit code is its own")
{
    python_main("import native, sys; native.start(lambda: sum(range(100))); sys.exit(3)");
}

// expect: exit 1
// expect: stderr "goodbye"
// expect: stdout "worked"
SCENARIO(sys_exit_with_text, "The same where sys.exit has a text")
{
    python_main("import native, sys; native.start(lambda: sum(range(100))); sys.exit('goodbye')");
}

// expect: exit 1
// expect: stderr "ValueError: mine"
// expect: stdout "worked"
SCENARIO(uncaught_exception, "The wait holds after an uncaught exception, which is printed; the exit code is 1")
{
    python_main("import native; native.start(lambda: sum(range(100))); raise ValueError('mine')");
}

// expect: signal SIGINT
// expect: stderr "KeyboardInterrupt"
// expect: stdout "worked"
SCENARIO(keyboard_interrupt, "The wait holds after an uncaught KeyboardInterrupt, and the process ends by SIGINT as ever")
{
    python_main("import native; native.start(lambda: sum(range(100))); raise KeyboardInterrupt");
}

// expect: exit 4
SCENARIO(os_exit, "os._exit ends the process without a wait")
{
    python_main("import native, os; native.start(lambda: sum(range(100))); os._exit(4)");
}

// expect: exit 5
// expect: stdout "worked"
// expect: stdout "last words"
SCENARIO(exit_from_a_callback, "An atexit callback that prints, and one that fails, change nothing")
{
    python_main("import native, sys, atexit\n"
                "atexit.register(print, 'last words')\n"
                "native.start(lambda: sum(range(100)))\n"
                "atexit.register(lambda: 1 / 0)\n"
                "sys.exit(5)");
}

// expect: stdout "worked"
// expect: stdout "thread done"
SCENARIO(with_a_threading_thread, "Threads of `threading` are joined as ever, and the wait holds besides")
{
    python_main("import native, threading\n"
                "def body():\n"
                "    native.start(lambda: sum(range(100)))\n"
                "    threading.main_thread().join()\n"
                "    print('thread done', flush=True)\n"
                "threading.Thread(target=body).start()");
}

// expect: exit 9
// expect: stderr "PythonFinalizationError"
// pythons: >=3.13
SCENARIO(too_late, "The exception that finalizers get is an ordinary one: printed where nobody catches it")
{
    /* Would print "Exception ignored in"; __del__ turns it into an exit code to be seen. */
    python_main("import native, os, traceback\n"
                "class Last:\n"
                "    def __del__(self, start=native.start, tell=traceback.print_exc, leave=os._exit):\n"
                "        try:\n"
                "            start(print)\n"
                "        except RuntimeError:\n"
                "            tell()\n"
                "            leave(9)\n"
                "last = Last()");
}
