/* Forks while other threads hold guards, are inside Ensure, or are in the middle of taking one: the child
 * finalizes and uses the API afresh, what it inherited does no harm, and the parent is undisturbed. */

// windows-file: no, there is no fork
// sanitize-file: not address thread, their malloc may stay locked in a forked child of a process with threads

#include "handles.h"

#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/wait.h>

/* Without a GIL the threads take the children's processor time. */
#ifdef Py_GIL_DISABLED
enum { THREADS = 6, FORKS = 10 };
#else
enum { THREADS = 6, FORKS = 40 };
#endif

static PyInterpreterGuard *guard;
static PyInterpreterView *view;
static atomic_bool enough;
static event running[THREADS];

/* Without a GIL, a fork stops the other threads wherever they are, also with an object's lock, or the one for
   a collection. The child never gets it: pure Python programs hang there too. So then Python is left alone. */
static void use_python(void)
{
#ifndef Py_GIL_DISABLED
    run("x = sum(range(20))");
#endif
}

static void take_and_give_for_a_while(void)
{
    while (!atomic_load(&enough)) {
        PyInterpreterGuard *more = PyInterpreterGuard_FromView(view);
        CHECK(more != NULL);
        PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
        CHECK(token != NULL);
        use_python();
        PyThreadState_Release(token);
        PyInterpreterGuard_Close(more);
    }
}

/* Takes and gives back all there is, with one thread state throughout. */
static void take_and_give(void *started)
{
    PyThreadStateToken *outer = PyThreadState_Ensure(guard);
    CHECK(outer != NULL);
    PyThreadState *own = PyEval_SaveThread();
    event_set(started);
    take_and_give_for_a_while();
    PyEval_RestoreThread(own);
    PyThreadState_Release(outer);
}

/* The same, with a new one each time. */
static void take_and_give_afresh(void *started)
{
    event_set(started);
    take_and_give_for_a_while();
}

static pthread_t threads[THREADS];

static void start_threads(void (*body)(void *))
{
    for (int i = 0; i < THREADS; i++) {
        running[i] = (event)EVENT_INIT;
        threads[i] = thread_start(body, &running[i]);
        py_event_wait(&running[i]);
    }
}

static void stop_threads(void)
{
    atomic_store(&enough, true);
    for (int i = 0; i < THREADS; i++) {
        py_thread_join(threads[i]);
    }
}

static void await(pid_t child)
{
    int status;
    CHECK(child > 0);
    Py_BEGIN_ALLOW_THREADS
    CHECK_INT(waitpid(child, &status, 0), child);
    Py_END_ALLOW_THREADS
    CHECK_INT(status, 7 << 8);
}

static void use_afresh(void *own)
{
    for (int i = 0; i < 20; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(own);
        CHECK(token != NULL);
        run("x = sum(range(20))");
        PyThreadState_Release(token);
    }
    log_event("worked");
    PyInterpreterGuard_Close(own);
}

/* What is `os.fork()`, without Python code around it. */
static bool python_forks(pid_t *child)
{
    PyOS_BeforeFork();
    *child = fork();
    if (*child == 0) {
        PyOS_AfterFork_Child();
        return true;
    }
    PyOS_AfterFork_Parent();
    return false;
}

/* The child goes on as a program of its own. */
static void live_in_the_child(void)
{
    pthread_t thread = thread_start(use_afresh, guard_here());
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    PyThreadState_Release(token);
    /* Of the parent: they hold nothing, and may be closed as often as one likes. */
    token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);
    PyInterpreterGuard_Close(guard);
    py_finalize();
    CHECK_INT(log_count("worked"), 1);
    thread_join(thread);
    CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
    PyInterpreterView_Close(view);
    _exit(7);
}

static void fork_through_python_among(void (*threads_body)(void *))
{
    py_init();
    guard = guard_here();
    view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    start_threads(threads_body);
    for (int i = 0; i < FORKS; i++) {
        pid_t child;
        if (python_forks(&child)) {
            live_in_the_child();
        }
        await(child);
        run("x = 1");
    }
    stop_threads();
    PyInterpreterGuard_Close(guard);
    py_finalize();
    PyInterpreterView_Close(view);
}

// native: no, a child never stops waiting for guards of threads it does not have
// timeout: 180
SCENARIO(through_python, "os.fork() while threads take and give back guards and tokens: parent and child both work and finalize")
{
    fork_through_python_among(take_and_give);
}

// native: no, a child never stops waiting for guards of threads it does not have
// timeout: 180
SCENARIO(among_thread_states, "... while they make and delete thread states: up to 3.11 that has a lock which the child needs")
{
    fork_through_python_among(take_and_give_afresh);
}

/* The child has no Python to speak of: it may use handles only. */
static void use_handles_in_the_child(void)
{
    PyInterpreterGuard *own = PyInterpreterGuard_FromView(view);
    CHECK(own != NULL);
    PyInterpreterGuard_Close(own);
    PyInterpreterGuard_Close(guard);
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(view);
    _exit(7);
}

static void fork_again_and_again(void *unused)
{
    (void)unused;
    for (int i = 0; i < FORKS; i++) {
        pid_t child = fork();
        if (child == 0) {
            use_handles_in_the_child();
        }
        int status;
        CHECK(child > 0);
        CHECK_INT(waitpid(child, &status, 0), child);
        CHECK_INT(status, 7 << 8);
    }
}

// native: no, a child never stops waiting for guards of threads it does not have
// timeout: 180
SCENARIO(by_c_alone, "fork() in C, by threads with nothing attached, meanwhile: the child may use handles, and ends")
{
    py_init();
    guard = guard_here();
    view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    start_threads(take_and_give);
    pthread_t forking[2];
    for (int i = 0; i < 2; i++) {
        forking[i] = thread_start(fork_again_and_again, NULL);
    }
    for (int i = 0; i < 2; i++) {
        py_thread_join(forking[i]);
    }
    stop_threads();
    PyInterpreterGuard_Close(guard);
    py_finalize();
    PyInterpreterView_Close(view);
}

static event inside = EVENT_INIT, forked = EVENT_INIT;

static void stay_inside(void *unused)
{
    (void)unused;
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    event_set(&inside);
    py_event_wait(&forked);
    run("x = 1");
    log_event("released");
    PyThreadState_Release(token);
}

// native: no, a child never stops waiting for guards of threads it does not have
SCENARIO(beside_a_thread_inside_an_ensure, "The child does not wait for another thread's Ensure, and the parent does")
{
    py_init();
    guard = guard_here();
    view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    pthread_t thread = thread_start(stay_inside, NULL);
    py_event_wait(&inside);
    pid_t child;
    if (python_forks(&child)) {
        live_in_the_child();
    }
    await(child);
    PyInterpreterGuard_Close(guard);
    at_exit(set_event, &forked);
    py_finalize_beside(thread, "released,finalized");
    PyInterpreterView_Close(view);
}

static void fork_inside(void *unused)
{
    (void)unused;
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    pid_t child;
    if (python_forks(&child)) {
        PyInterpreterGuard *own = guard_here();
        PyThreadState_Release(token);
        token = PyThreadState_Ensure(own);
        CHECK(token != NULL);
        run("x = 1");
        PyThreadState_Release(token);
        PyInterpreterGuard_Close(own);
        _exit(7);
    }
    await(child);
    PyThreadState_Release(token);
}

/* 3.11 and 3.12 cannot make a thread state where there is none any more. */
// pythons: !=3.11 !=3.12
SCENARIO(inside_an_ensure, "A fork inside an Ensure: the child releases it, and makes new ones")
{
    py_init();
    guard = guard_here();
    view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    py_thread_join(thread_start(fork_inside, NULL));
    PyInterpreterGuard_Close(guard);
    py_finalize();
    PyInterpreterView_Close(view);
}

SCENARIO(children_of_children, "A child forks, and its child too: each lives on its own")
{
    py_init();
    guard = guard_here();
    view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    for (int i = 0; i < 5; i++) {
        pid_t child;
        if (!python_forks(&child)) {
            await(child);
            PyInterpreterGuard_Close(guard);
            py_finalize();
            PyInterpreterView_Close(view);
            if (i > 0) {
                _exit(7);
            }
            return;
        }
        PyInterpreterGuard_Close(guard);
        guard = guard_here();
    }
    PyInterpreterGuard_Close(guard);
    py_finalize();
    _exit(7);
}

/* --- During the first use ------------------------------------------------------------------------------- */

/* What a child may do that a fork in C made. */
static void use_handles(void *unused)
{
    (void)unused;
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    CHECK(main_view != NULL);
    PyInterpreterGuard *taken = PyInterpreterGuard_FromView(main_view);
    CHECK(taken != NULL);
    PyInterpreterGuard_Close(taken);
    PyInterpreterView_Close(main_view);
}

static pid_t fork_in_c(void)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        use_handles(NULL);
        _exit(7);
    }
    return child;
}

/* The second of two complaints finds a stderr that has room for one. */
// env: PEP788_WAIT_WARN_MS=never
// env: PEP788_TRACE=yes
// native: no, it has no such settings
// macos: no, a pipe there is as long as the system likes
SCENARIO(while_another_thread_complains, "A fork while another thread says that a setting is ignored: the child can use the library")
{
    py_init();
    int stderr_before = dup(2), ends[2];
    CHECK(stderr_before >= 0);
    CHECK_INT(pipe(ends), 0);
#ifdef __linux__
    CHECK(fcntl(ends[1], F_SETPIPE_SZ, 4096) > 0);
#endif
    CHECK_INT(dup2(ends[1], 2), 2);
    pthread_t first = thread_start(use_handles, NULL);
    struct pollfd said = {.fd = ends[0], .events = POLLIN};
    CHECK_INT(poll(&said, 1, 20000), 1);
    pid_t child = fork_in_c();
    CHECK_INT(dup2(stderr_before, 2), 2);
    await(child);
    py_thread_join(first);
    py_finalize();
}

static void spin(long nanoseconds)
{
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    do {
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - begun.tv_sec) * 1000000000 + now.tv_nsec - begun.tv_nsec < nanoseconds);
}

/* Each process uses the library for the first time but once. */
static pid_t process_that_forks_during_its_first_use(long moment)
{
    pid_t process = fork();
    if (process != 0) {
        return process;
    }
    alarm(30);
    pthread_t first = thread_start(use_handles, NULL);
    spin(moment);
    pid_t child = fork_in_c();
    int status;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 7 << 8);
    thread_join(first);
    _exit(7);
}

// native: no, a view of the main interpreter needs none of this library there
// timeout: 180
SCENARIO(at_any_moment_of_the_first_use, "A fork at any moment of another thread's first use: the child can use the library")
{
    py_init();
    for (long moment = 0; moment < 200; moment++) {
        await(process_that_forks_during_its_first_use(moment * 3000));
    }
    py_finalize();
}
