/* What an exit says while it waits, and that no stderr can keep it from going on. */

#include "handles.h"
#include "report.h"

#include <fcntl.h>
#ifndef _WIN32
#  include <sys/wait.h>
#endif

/* --- Guards that are closed when the report has been read ---------------------------------------- */

static PyInterpreterGuard *guards[100];
static int taken;

/* Not inlined, so that the report can name it. */
__attribute__((noinline))
static void take_a_guard(void)
{
    guards[taken] = PyInterpreterGuard_FromCurrent();
    CHECK(guards[taken] != NULL);
    taken++;
}

static void take_three_guards(void)
{
    for (int i = 0; i < 3; i++) {
        take_a_guard();
    }
}

static void close_guards(void)
{
    while (taken > 0) {
        PyInterpreterGuard_Close(guards[--taken]);
    }
}

static void read_then_close(void *end)
{
    read_report((const char *)end);
    close_guards();
}

/* Finalizes under guards that are out, and reads the report up to `end`. */
static void finalize_and_read(const char *end)
{
    capture_stderr();
    pthread_t reader = thread_start(read_then_close, (void *)end);
    py_finalize();
    thread_join(reader);
    release_stderr();
}

// env: PEP788_WAIT_WARN_MS=1
// native: no, its exit waits in silence
SCENARIO(says_for_whom, "An exit that waits says which, for how many guards, what ends them, and how to learn more")
{
    py_init();
    take_a_guard();
    take_a_guard();
    finalize_and_read(END_UNTRACED);
    CHECK_SAYS("libpep788: the end of the main interpreter has waited ");
    CHECK_SAYS("the main interpreter: 2 not closed\n");
    CHECK_SAYS("PyInterpreterGuard_Close");
    CHECK_SAYS_NOT("- PyInterpreterGuard");
}

static void take_by_view(void *view)
{
    guards[taken] = PyInterpreterGuard_FromView(view);
    CHECK(guards[taken] != NULL);
    taken++;
}

// env: PEP788_WAIT_WARN_MS=1
// native: no, its exit waits in silence
SCENARIO(says_how_many_of_many_threads, "Guards that many threads took, each counting by itself, are counted exactly")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    count_apart(view);
    /* More threads than there are places to count in. All of them are gone when the exit begins. */
    for (int i = 0; i < 20; i++) {
        py_thread_join(thread_start(take_by_view, view));
    }
    PyInterpreterGuard_Close(guards[--taken]);
    PyInterpreterView_Close(view);
    finalize_and_read(END_UNTRACED);
    CHECK_SAYS("the main interpreter: 19 not closed\n");
}

// env: PEP788_WAIT_WARN_MS=1
// native: no, its exit waits in silence
SCENARIO(says_it_of_a_subinterpreter, "The end of a subinterpreter says it too, of its own guards alone")
{
    py_init();
    take_a_guard();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(own, sub);
    take_a_guard();
    PyInterpreterGuard *of_main = guards[0];
    guards[0] = guards[1];
    taken = 1;
    swap(sub, own);
    capture_stderr();
    pthread_t reader = thread_start(read_then_close, (void *)END_UNTRACED);
    sub_end(sub);
    py_thread_join(reader);
    release_stderr();
    CHECK_SAYS("the end of subinterpreter 1 has waited");
    CHECK_SAYS("subinterpreter 1: 1 not closed\n");
    CHECK_SAYS_NOT("the main interpreter");
    PyInterpreterGuard_Close(of_main);
    py_finalize();
}

static event exiting = EVENT_INIT;

static void await_rounds_then_close(void *unused)
{
    (void)unused;
    event_wait(&exiting);
    await_rounds(3);
    close_guards();
}

/* Finalizes while a guard is out for three rounds of the wait. */
static void finalize_in_rounds(void)
{
    watch_rounds();
    take_a_guard();
    when_exit_callbacks_have_run(set_event, &exiting);
    pthread_t thread = thread_start(await_rounds_then_close, NULL);
    py_finalize();
    thread_join(thread);
}

// env: PEP788_WAIT_WARN_MS=1
// native: no, its exit waits in silence
SCENARIO(says_it_once, "However long it waits, it says so once")
{
    py_init();
    capture_stderr();
    finalize_in_rounds();
    release_stderr();
    CHECK_INT(count_in_report("has waited"), 1);
}

static int told[2];

static void start_a_thread(void *unused)
{
    (void)unused;
    char code[100];
    snprintf(code, sizeof code, "threading.Thread(target=os.read, args=(%d, 1), daemon=False).start()", told[0]);
    run(code);
}

static void read_then_tell_the_thread(void *unused)
{
    (void)unused;
    read_report("Python threads that were started meanwhile\n");
    CHECK_INT(write(told[1], "", 1), 1);
}

// env: PEP788_WAIT_WARN_MS=1
// pythons: !=3.12
// native: no, it does not join such a thread
SCENARIO(says_it_of_threads, "An exit that waits for a Python thread alone says so")
{
    py_init();
    run("import os, threading");
    take_a_guard();
    close_guards();
    CHECK_INT(pipe(told), 0);
    at_exit(start_a_thread, NULL);
    capture_stderr();
    pthread_t reader = thread_start(read_then_tell_the_thread, NULL);
    py_finalize();
    thread_join(reader);
    release_stderr();
    CHECK_SAYS("libpep788: the end of the main interpreter has waited ");
    CHECK_SAYS_NOT("guard");
}

// env: PEP788_WAIT_WARN_MS=0
// native: no, SIGUSR1 does not get through to Python while its exit waits
SCENARIO(silent, "PEP788_WAIT_WARN_MS=0: nothing is said")
{
    py_init();
    capture_stderr();
    finalize_in_rounds();
    release_stderr();
    CHECK_INT(report_length, 0);
}

/* --- Ctrl-C -------------------------------------------------------------------------------------- */

/* As Python has it, whether or not the suite is run in the background, where it is ignored. */
static void init_with_ctrl_c(void)
{
    py_init();
    run("import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)");
    take_a_guard();
    when_exit_callbacks_have_run(set_event, &exiting);
    capture_stderr();
}

static void interrupt_once(void *unused)
{
    (void)unused;
    event_wait(&exiting);
    kill(getpid(), SIGINT);
    read_report("press Ctrl-C again to end the process without waiting\n");
    close_guards();
}

// env: PEP788_WAIT_WARN_MS=0
// expect: exit 3
// native: no, its exit cannot be interrupted
SCENARIO(first_ctrl_c, "The first Ctrl-C says for whom the exit waits, which goes on as ever")
{
    init_with_ctrl_c();
    pthread_t thread = thread_start(interrupt_once, NULL);
    py_finalize();
    thread_join(thread);
    release_stderr();
    CHECK_SAYS("the main interpreter: 1 not closed\n");
    exit(3);
}

static void interrupt_twice(void *unused)
{
    (void)unused;
    event_wait(&exiting);
    kill(getpid(), SIGINT);
    read_report("press Ctrl-C again to end the process without waiting\n");
    kill(getpid(), SIGINT);
}

// env: PEP788_WAIT_WARN_MS=0
// expect: signal SIGINT
// native: no, its exit cannot be interrupted
SCENARIO(second_ctrl_c, "The second Ctrl-C ends the process by SIGINT")
{
    init_with_ctrl_c();
    thread_start(interrupt_twice, NULL);
    py_finalize();
}

/* --- A broken stderr ----------------------------------------------------------------------------- */

// env: PEP788_WAIT_WARN_MS=1
// expect: exit 3
// native: no, SIGUSR1 does not get through to Python while its exit waits
SCENARIO(stderr_closed, "A closed stderr changes nothing")
{
    py_init();
    close(STDERR_FILENO);
    finalize_in_rounds();
    exit(3);
}

static void replace_stderr(int file)
{
    CHECK(file >= 0);
    CHECK(dup2(file, STDERR_FILENO) >= 0);
    close(file);
}

#ifndef _WIN32

// env: PEP788_WAIT_WARN_MS=1
// expect: exit 3
// native: no, SIGUSR1 does not get through to Python while its exit waits
// windows: no, there is no /dev/full
SCENARIO(stderr_on_a_full_disk, "A stderr that takes nothing changes nothing")
{
    py_init();
    replace_stderr(open("/dev/full", O_WRONLY));
    finalize_in_rounds();
    exit(3);
}

#endif

// env: PEP788_WAIT_WARN_MS=1
// expect: exit 3
// native: no, SIGUSR1 does not get through to Python while its exit waits
SCENARIO(stderr_without_a_reader, "A pipe without a reader as stderr changes nothing, where SIGPIPE is not ignored either")
{
    py_init();
    int ends[2];
    CHECK_INT(pipe(ends), 0);
    close(ends[0]);
    replace_stderr(ends[1]);
#ifdef SIGPIPE
    signal(SIGPIPE, SIG_DFL);
#endif
    finalize_in_rounds();
    exit(3);
}

#ifndef _WIN32

// env: PEP788_WAIT_WARN_MS=1
// expect: exit 3
// native: no, SIGUSR1 does not get through to Python while its exit waits
// windows: no, nobody can be asked there whether a pipe has room
SCENARIO(stderr_that_nobody_reads, "A full pipe that nobody reads as stderr does not stop the exit")
{
    py_init();
    int ends[2];
    CHECK_INT(pipe(ends), 0);
    CHECK_INT(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
    while (write(ends[1], "x", 1) == 1) {
    }
    CHECK_INT(fcntl(ends[1], F_SETFL, 0), 0);
    replace_stderr(ends[1]);
    finalize_in_rounds();
    exit(3);
}

#endif

/* --- PEP788_TRACE=1 ------------------------------------------------------------------------------ */

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// native: no, its exit waits in silence
// arm: no, the stack of CPython cannot be read there
// windows: no, only exported functions have names there
SCENARIO(trace_names_the_place, "With PEP788_TRACE=1 each guard is listed with its thread, the Python line and the native stack")
{
    py_init();
    expose("take_three_guards", take_three_guards);
    run("import threading\n"
        "exec(compile('''\n"
        "def take_in_python():\n"
        "    take_three_guards()\n"
        "take_in_python()''', 'jobs.py', 'exec'))");
    take_a_guard();
    finalize_and_read(END_TRACED);
    char id[100];
    snprintf(id, sizeof id, "thread \"report\" (id %ld, Python's \"MainThread\")", (long)getpid());
    CHECK_SAYS("the main interpreter: 4 not closed\n");
    CHECK_INT(count_in_report(id), 4);
    CHECK_INT(count_in_report("- PyInterpreterGuard, taken "), 4);
    CHECK_SAYS(" s ago by thread");
    CHECK_SAYS("3 of them, from\n");
    CHECK_INT(count_in_report("in Python: take_in_python, jobs.py:3\n"), 1);
    CHECK_INT(count_in_report(" take_a_guard (report)\n"), 2);
    CHECK_SAYS(" scenario_body_trace_names_the_place (report)\n");
    CHECK_SAYS(" PyRun_SimpleString");
    CHECK_SAYS_NOT("PEP788_TRACE");
}

static event attached_through_view = EVENT_INIT;
static event report_read = EVENT_INIT;
static char thread_line[100];

__attribute__((noinline))
static PyThreadStateToken *attach_through(PyInterpreterView *view)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    return token;
}

static void become(const char *name)
{
#ifdef __APPLE__
    pthread_setname_np(name);
#else
    pthread_setname_np(pthread_self(), name);
#endif
}

static void stay_inside(void *view)
{
    become("night-shift");
    PyThreadStateToken *token = attach_through(view);
    snprintf(thread_line, sizeof thread_line, "thread \"night-shift\" (id %lu)\n",
             PyThread_get_thread_native_id());
    event_set(&attached_through_view);
    py_event_wait(&report_read);
    PyThreadState_Release(token);
}

static void read_then_tell(void *end)
{
    read_report((const char *)end);
    event_set(&report_read);
}

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// native: no, its exit waits in silence
// windows: no, only exported functions have names there
SCENARIO(trace_names_ensures, "... and so is what an Ensure holds, with the thread that is in it")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    pthread_t thread = thread_start(stay_inside, view);
    py_event_wait(&attached_through_view);
    capture_stderr();
    pthread_t reader = thread_start(read_then_tell, (void *)END_TRACED);
    py_finalize();
    thread_join(reader);
    thread_join(thread);
    release_stderr();
    CHECK_SAYS("- hold of an Ensure");
    CHECK_SAYS(thread_line);
    CHECK_SAYS(" attach_through (report)\n");
    CHECK_SAYS(" stay_inside (report)\n");
    CHECK_SAYS_NOT("in Python");
    PyInterpreterView_Close(view);
}

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// native: no, its exit waits in silence
SCENARIO(trace_is_bounded, "Fifty guards are listed, the others are counted")
{
    py_init();
    for (int i = 0; i < 57; i++) {
        take_a_guard();
    }
    finalize_and_read(END_TRACED);
    CHECK_SAYS("the main interpreter: 57 not closed\n");
    CHECK_INT(count_in_report("- PyInterpreterGuard"), 50);
    CHECK_SAYS("and 7 more\n");
}

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// native: no, its exit waits in silence
SCENARIO(trace_forgets_the_closed, "What was closed or released is not listed")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    for (int i = 0; i < 1000; i++) {
        PyThreadState_Release(attach_through(view));
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
        CHECK(guard != NULL);
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        PyThreadState_Release(token);
        PyInterpreterGuard_Close(guard);
    }
    PyInterpreterView_Close(view);
    take_a_guard();
    finalize_and_read(END_TRACED);
    CHECK_SAYS("the main interpreter: 1 not closed\n");
    CHECK_INT(count_in_report("libpep788:     - "), 1);
}

// env: PEP788_TRACE=1
// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed already"
// expect: stderr "it was taken"
// expect: stderr "take_a_guard (report)"
// windows: no, only exported functions have names there
SCENARIO(trace_closed_twice, "A guard that is closed twice is known, also while others are out, and it is said where it was taken")
{
    py_init();
    take_a_guard();
    take_a_guard();
    PyInterpreterGuard_Close(guards[0]);
    PyInterpreterGuard_Close(guards[0]);
}

// env: PEP788_TRACE=1
// native: no, its functions trust their callers
// expect: fatal PyThreadState_Ensure "closed already"
// expect: stderr "take_a_guard (report)"
// windows: no, only exported functions have names there
SCENARIO(trace_used_after_close, "... as is one that is used after it was closed")
{
    py_init();
    take_a_guard();
    take_a_guard();
    PyInterpreterGuard_Close(guards[0]);
    PyThreadState_Ensure(guards[0]);
}

// env: PEP788_TRACE=1
// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "closed already"
SCENARIO(trace_closed_twice_late, "... and one that was closed a thousand guards ago")
{
    py_init();
    take_a_guard();
    PyInterpreterGuard_Close(guards[0]);
    for (int i = 0; i < 1000; i++) {
        PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
        CHECK(guard != NULL && guard != guards[0]);
        PyInterpreterGuard_Close(guard);
    }
    PyInterpreterGuard_Close(guards[0]);
}

// env: PEP788_TRACE=1
// native: no, its functions trust their callers
// expect: fatal PyInterpreterGuard_Close "not a PyInterpreterGuard of this library"
SCENARIO(trace_memory_as_a_guard, "Memory that is not a guard is not taken for one")
{
    static _Alignas(4096) char memory[4096];
    py_init();
    PyInterpreterGuard_Close((PyInterpreterGuard *)memory);
}

// env: PEP788_TRACE=1
SCENARIO(trace_during_an_import, "Nothing that is noted waits for an import of `threading` by another thread")
{
    py_init();
    run("import threading\n"
        "from importlib import _bootstrap\n"
        "lock = _bootstrap._get_module_lock('threading')\n"
        "held, done = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    lock.acquire()\n"
        "    held.set()\n"
        "    done.wait()\n"
        "    lock.release()\n"
        "importer = threading.Thread(target=hold)\n"
        "importer.start()\n"
        "held.wait()\n"
        "threading.__spec__._initializing = True\n");
    take_a_guard();
    PyInterpreterGuard_Close(guards[0]);
    run("threading.__spec__._initializing = False\n"
        "done.set()\n"
        "importer.join()\n");
    py_finalize();
}

#ifndef _WIN32

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// native: no, in a child its exit waits for the guards of the parent
// windows: no, there is no fork
SCENARIO(trace_after_fork, "In a forked child the parent's guards are not listed, and may be closed")
{
    py_init();
    take_a_guard();
    fflush(NULL);
    PyOS_BeforeFork();
    pid_t child = fork();
    if (child == 0) {
        PyOS_AfterFork_Child();
        take_a_guard();
        PyInterpreterGuard_Close(guards[0]);
        finalize_and_read(END_TRACED);
        CHECK_SAYS("the main interpreter: 1 not closed\n");
        CHECK_INT(count_in_report("libpep788:     - "), 1);
        exit(3);
    }
    PyOS_AfterFork_Parent();
    int status;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), 3);
    PyInterpreterGuard_Close(guards[0]);
    py_finalize();
}

#endif
