/* The exit is bounded: a program of Python's own that does not come to its end is ended, with the status
 * that it was about to have. */

// macos-file: no, the seatbelt is for Linux
// windows-file: no, the seatbelt is for Linux
// sanitize-file: not address thread valgrind, the copy of the process that tells the status runs on the stack of another thread

#define _GNU_SOURCE
#include "report.h"
#include "pep788_gilstate.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static event ready = EVENT_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Has the lock, and comes too late with it. */
static void keeps_the_lock(void *unused)
{
    (void)unused;
    CHECK_INT(pthread_mutex_lock(&lock), 0);
    PyGILState_Release(PyGILState_Ensure());
    event_set(&ready);
    for (;;) {
        PyGILState_Release(PyGILState_Ensure());
    }
}

/* How many threads the process has. */
static int threads(void)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        count += task->d_name[0] != '.';
    }
    closedir(tasks);
    return count;
}

static PyObject *start(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    thread_start(keeps_the_lock, NULL);
    py_event_wait(&ready);
    Py_RETURN_NONE;
}

static void wait_for_the_lock(void)
{
    pthread_mutex_lock(&lock);
    check_failed(__FILE__, __LINE__, "somebody gave the lock back");
}

static PyObject *hang(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    Py_BEGIN_ALLOW_THREADS
    wait_for_the_lock();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *hang_at_exit(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    CHECK_INT(atexit(wait_for_the_lock), 0);
    Py_RETURN_NONE;
}

static void comes_with_the_lock(void *unused)
{
    (void)unused;
    CHECK_INT(pthread_mutex_lock(&lock), 0);
    event_set(&ready);
    PyGILState_Ensure();
}

static PyObject *start_and_hang(PyObject *module, PyObject *unused)
{
    thread_start(comes_with_the_lock, NULL);
    py_event_wait(&ready);
    return hang(module, unused);
}

#ifdef __GLIBC__
/* What the compiler of C++ calls for a thread_local object. */
int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
extern void *__dso_handle;

static void wait_for_the_lock_in_a_destructor(void *unused)
{
    (void)unused;
    wait_for_the_lock();
}
#endif

static PyObject *hang_with_the_thread(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
#ifdef __GLIBC__
    CHECK_INT(__cxa_thread_atexit_impl(wait_for_the_lock_in_a_destructor, NULL, &__dso_handle), 0);
#endif
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"start", start, METH_NOARGS, NULL},
    {"hang_with_the_thread", hang_with_the_thread, METH_NOARGS, NULL},
    {"start_and_hang", start_and_hang, METH_NOARGS, NULL},
    {"hang", hang, METH_NOARGS, NULL},
    {"hang_at_exit", hang_at_exit, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "bound", NULL, -1, methods, NULL, NULL, NULL, NULL};

static PyObject *make_module(void)
{
    return PyModule_Create(&definition);
}

/* A program that is Python's own. */
static void python_main(const char *code)
{
    CHECK_INT(PyImport_AppendInittab("bound", make_module), 0);
    CHECK_INT(Pep788_ProtectGILState(), 0);
    char *arguments[] = {"python3", "-c", (char *)code, NULL};
    exit(Py_BytesMain(3, arguments));
}

#define HANGS_IN_A_DESTRUCTOR \
    "import bound, sys\n" \
    "class Owner:\n" \
    "    def __del__(self, hang=bound.hang): hang()\n" \
    "owner = Owner()\n" \
    "bound.start()\n"

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 7
// expect: stderr "(PEP788_EXIT_TIMEOUT_MS), and is ended now, with its own exit status, 7"
SCENARIO(sys_exit, "A destructor waits for what a late thread has: the process is ended with the status of sys.exit")
{
    python_main(HANGS_IN_A_DESTRUCTOR "sys.exit(7)");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 1
// expect: stderr "is ended now, with its own exit status, 1"
SCENARIO(uncaught_exception, "... with that of an exception")
{
    python_main(HANGS_IN_A_DESTRUCTOR "raise KeyError");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 0
// expect: stderr "is ended now, with its own exit status, 0"
SCENARIO(end_of_script, "... with that of a program that comes to its end")
{
    python_main(HANGS_IN_A_DESTRUCTOR);
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: signal SIGINT
// expect: stderr "is ended now, by SIGINT, as it was about to end"
SCENARIO(interrupted, "... by SIGINT, where a Ctrl-C ends it")
{
    python_main(HANGS_IN_A_DESTRUCTOR "raise KeyboardInterrupt");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 3
// expect: stderr "is ended now, with its own exit status, 3"
// musl: no, exit() tells nobody there what it was called with, and the status is a guess
SCENARIO(exit_handler, "So is one that hangs after finalization, in a handler of exit()")
{
    python_main("import bound, sys; bound.hang_at_exit(); bound.start(); sys.exit(3)");
}

#define HANGS_IN_A_LATE_HANDLER \
    "import bound, sys\n" \
    "class Owner:\n" \
    "    def __del__(self, hang_at_exit=bound.hang_at_exit, hang=bound.hang):\n" \
    "        hang_at_exit()\n" \
    "        if is_to_hang_here: hang()\n" \
    "owner = Owner()\n" \
    "bound.start()\n"

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 1
// expect: stderr "is ended now, with its own exit status, 1"
// musl: no, exit() tells nobody there what it was called with, and the status is a guess
SCENARIO(late_exit_handler, "... in one that was registered in finalization, and so is called before the library's")
{
    python_main("is_to_hang_here = False\n" HANGS_IN_A_LATE_HANDLER "raise KeyError");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 5
// expect: stderr "is ended now, with its own exit status, 5"
SCENARIO(late_exit_handler_and_destructor, "In finalization the status is found out without calling that handler")
{
    python_main("is_to_hang_here = True\n" HANGS_IN_A_LATE_HANDLER "sys.exit(5)");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 1
// expect: stderr "is ended now, with its own exit status, 1"
// musl: no, it has no destructors of thread_local objects
SCENARIO(thread_local_object, "So is one that hangs in a destructor of a thread_local object, which exit() calls first")
{
    python_main("import bound; bound.hang_with_the_thread(); bound.start(); raise KeyError");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: stderr "(PEP788_EXIT_TIMEOUT_MS), and is ended now, with "
SCENARIO(exit_handler_with_status_0, "... also where the C library does not tell the status, and it is guessed")
{
    python_main("import bound; bound.hang_at_exit(); bound.start()");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 6
// expect: stderr "is ended now, with its own exit status, 6"
// musl: no, its functions have no tables by which stacks are read, so it is not seen that Python's program waits
SCENARIO(first_call_too_late, "An exit is bounded too whose first call in the process is too late: no exit callback told of it")
{
    python_main(
        "import bound, sys\n"
        "class Owner:\n"
        "    def __del__(self, start_and_hang=bound.start_and_hang): start_and_hang()\n"
        "owner = Owner()\n"
        "sys.exit(6)");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 7
// expect: stderr "libpep788:   threads that came too late, and were ended:"
SCENARIO(late_threads, "The threads that came too late are told")
{
    python_main(HANGS_IN_A_DESTRUCTOR "sys.exit(7)");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 7
// expect: stderr "libpep788:     wait_for_the_lock ("
// musl: no, its functions have no tables by which stacks are read, and it is one of them that waits for the lock
SCENARIO(where_it_is, "It is told where the exit is")
{
    python_main(HANGS_IN_A_DESTRUCTOR "sys.exit(7)");
}

static void write_more(void)
{
    printf(", and more");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
// expect: exit 7
SCENARIO(output_is_kept, "What C's streams have yet to write is written, once, and no handler of exit() is called")
{
    int ends[2];
    CHECK_INT(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        CHECK_INT(atexit(write_more), 0);
        printf("written late");
        python_main(HANGS_IN_A_DESTRUCTOR "sys.exit(7)");
    }
    close(ends[1]);
    char text[32] = "";
    size_t length = 0;
    for (ssize_t got; (got = read(ends[0], text + length, sizeof text - 1 - length)) > 0;) {
        length += (size_t)got;
    }
    CHECK_INT(strcmp(text, "written late"), 0);
    int status;
    CHECK_INT(waitpid(child, &status, 0), child);
    exit(WEXITSTATUS(status));
}

// env: PEP788_EXIT_TIMEOUT_MS=0
SCENARIO(off, "0 turns it off: the exit takes as long as it takes")
{
    capture_stderr();
    py_init();
    CHECK_INT(Pep788_ProtectGILState(), 0);
    PyGILState_Release(PyGILState_Ensure());
    py_finalize();
    CHECK_INT(threads(), 1);
    release_stderr();
    CHECK_SAYS_NOT("PEP788_EXIT_TIMEOUT_MS");
}

static void wait_for_the_report(void *unused)
{
    (void)unused;
    read_report("only embeds Python");
}

// env: PEP788_EXIT_TIMEOUT_MS=200
SCENARIO(embedded, "A program that only embeds Python is told, and goes on")
{
    capture_stderr();
    py_init();
    CHECK_INT(Pep788_ProtectGILState(), 0);
    PyGILState_Release(PyGILState_Ensure());
    at_teardown(wait_for_the_report, NULL);
    py_finalize();
    release_stderr();
    CHECK_SAYS("is left alone, as this program only embeds Python");
}

// env: PEP788_EXIT_TIMEOUT_MS=3000
SCENARIO(embedded_and_over, "... and not bothered, once Python is gone")
{
    capture_stderr();
    py_init();
    CHECK_INT(Pep788_ProtectGILState(), 0);
    PyGILState_Release(PyGILState_Ensure());
    py_finalize();
    /* The thread that watches has looked, and is gone. Finalization is over by then on a busy machine too. */
    while (threads() > 1) {
        sched_yield();
    }
    release_stderr();
    CHECK_SAYS_NOT("PEP788_EXIT_TIMEOUT_MS");
}

// env: PEP788_EXIT_TIMEOUT_MS=60000
SCENARIO(another_run, "The next run of the runtime is not taken for an exit that does not end")
{
    capture_stderr();
    for (int i = 0; i < 3; i++) {
        py_init();
        CHECK_INT(Pep788_ProtectGILState(), 0);
        PyGILState_Release(PyGILState_Ensure());
        run("x = 1");
        py_finalize();
    }
    /* One thread watches them all. */
    CHECK(threads() <= 2);
    release_stderr();
    CHECK_SAYS_NOT("PEP788_EXIT_TIMEOUT_MS");
}
