/* PyGILState_Ensure and PyGILState_Release under protection, in a program that knows nothing else
 * of the library. */

// macos-file: no, the seatbelt is for Linux
// windows-file: no, the seatbelt is for Linux

#define _GNU_SOURCE
#include "harness.h"
#include "pep788.h"
#include "pep788_doctor.h"
#include "pep788_gilstate.h"

#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static event ready = EVENT_INIT, go = EVENT_INIT, exiting = EVENT_INIT;

static void protect(void)
{
    CHECK_INT(Pep788_ProtectGILState(), 0);
}

static void init_protected(void)
{
    py_init();
    protect();
}

/* --- As it was ---------------------------------------------------------------------------------- */

SCENARIO(twice, "It can be switched on again, to no effect")
{
    init_protected();
    protect();
    py_finalize();
}

SCENARIO(before_python, "It can be switched on before Py_Initialize, and goes on in the next run of the runtime")
{
    protect();
    for (int i = 0; i < 2; i++) {
        py_init();
        PyGILState_STATE state = PyGILState_Ensure();
        CHECK_INT(state, PyGILState_LOCKED);
        PyGILState_Release(state);
        py_finalize();
    }
}

static PyThreadState *acquires_and_releases(void)
{
    PyThreadState *own = PyThreadState_New(PyInterpreterState_Main());
    CHECK(own != NULL);
    PyEval_AcquireThread(own);
    run("x = 1");
    PyEval_ReleaseThread(own);
    CHECK_PTR(attached(), NULL);
    return own;
}

static void fresh_thread_body(void *unused);

static void acquires_first(void *unused)
{
    (void)unused;
    acquires_and_releases();
}

static void run_of_python(void *call_first)
{
    py_init();
    if (!call_first) {
        py_thread_join(thread_start(acquires_first, NULL));
    }
    else {
        py_thread_join(thread_start(fresh_thread_body, NULL));
    }
    py_finalize();
}

SCENARIO(runs_in_other_threads, "... whichever threads the runs are in, and whoever calls first in them")
{
    protect();
    for (int i = 0; i < 2; i++) {
        run_of_python(NULL);
        thread_join(thread_start(run_of_python, &ready));
        thread_join(thread_start(run_of_python, NULL));
        run_of_python(&ready);
    }
}

static bool doctor_says(const char *line)
{
    char said[2048] = "\n";
    CHECK(Pep788_Doctor(said + 1, sizeof said - 1) < sizeof said - 1);
    return strstr(said, line) != NULL;
}

// env: PEP788_GILSTATE=protect
SCENARIO(by_environment, "The environment can ask for it")
{
    py_init();
    CHECK(doctor_says("\nPyGILState_Ensure: protected\n"));
    py_thread_join(thread_start(fresh_thread_body, NULL));
    py_finalize();
}

// env: PEP788_GILSTATE=Protect
SCENARIO(by_environment_in_any_case, "... in any case")
{
    CHECK(doctor_says("\nPyGILState_Ensure: protected\n"));
}

// env: PEP788_GILSTATE=1
SCENARIO(by_environment_as_a_number, "... as a number")
{
    CHECK(doctor_says("\nPyGILState_Ensure: protected\n"));
}

// env: PEP788_GILSTATE=ON
SCENARIO(by_environment_switched_on, "... or as a switch")
{
    CHECK(doctor_says("\nPyGILState_Ensure: protected\n"));
}

// env: PEP788_GILSTATE=Off
SCENARIO(by_environment_switched_off, "... which can be off")
{
    CHECK(doctor_says("\nPyGILState_Ensure: not protected\n"));
}

// env: PEP788_GILSTAT=protect
// expect: stderr "libpep788: PEP788_GILSTAT is not a setting; there are PEP788_DRAIN_GRACE_MS, "
SCENARIO(by_environment_misspelled, "A variable that looks like a setting and is none is said")
{
    CHECK(doctor_says("\nPyGILState_Ensure: not protected\n"));
}

// env: PEP788_GILSTATE=yes
// expect: stderr "is ignored: it takes protect, 1, on, 0 or off"
SCENARIO(never_by_itself, "... and by nothing else, which is said; and nothing else switches it on")
{
    py_init();
    CHECK(doctor_says("\nPyGILState_Ensure: not protected\n"));
    PyGILState_Release(PyGILState_Ensure());
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    PyInterpreterGuard_Close(guard);
    CHECK(doctor_says("\nPyGILState_Ensure: not protected\n"));
    py_finalize();
}

static void protect_and_call(void *unused)
{
    protect();
    fresh_thread_body(unused);
}

SCENARIO(unattached, "A thread with nothing attached can switch it on too")
{
    py_init();
    py_thread_join(thread_start(protect_and_call, NULL));
    py_finalize();
}

static void fresh_thread_body(void *unused)
{
    (void)unused;
    for (int i = 0; i < 3; i++) {
        CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
        PyGILState_STATE outer = PyGILState_Ensure();
        CHECK_INT(outer, PyGILState_UNLOCKED);
        CHECK_INT(PyGILState_Check(), 1);
        PyThreadState *state = PyThreadState_Get();
        CHECK_PTR(PyGILState_GetThisThreadState(), state);
        CHECK_INT(count_thread_states(), 2);
        PyGILState_STATE inner = PyGILState_Ensure();
        CHECK_INT(inner, PyGILState_LOCKED);
        PyThreadState *saved = PyEval_SaveThread();
        CHECK_PTR(saved, state);
        PyGILState_STATE again = PyGILState_Ensure();
        CHECK_INT(again, PyGILState_UNLOCKED);
        CHECK_PTR(PyThreadState_Get(), state);
        CHECK_INT(count_thread_states(), 2);
        PyGILState_Release(again);
        CHECK_INT(PyGILState_Check(), 0);
        CHECK_PTR(PyGILState_GetThisThreadState(), state);
        PyEval_RestoreThread(saved);
        run("x = 1");
        PyGILState_Release(inner);
        CHECK_PTR(PyThreadState_Get(), state);
        PyGILState_Release(outer);
    }
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

SCENARIO(fresh_thread, "States, reuse, nesting and detaching inside are as they were, in a thread that Python does not know")
{
    init_protected();
    py_thread_join(thread_start(fresh_thread_body, NULL));
    CHECK_INT(count_thread_states(), 1);
    py_finalize();
}

SCENARIO(threads_own_state, "A thread that has a thread state keeps it")
{
    init_protected();
    PyThreadState *own = PyThreadState_Get();
    PyGILState_STATE locked = PyGILState_Ensure();
    CHECK_INT(locked, PyGILState_LOCKED);
    PyGILState_Release(locked);
    CHECK_PTR(PyThreadState_Get(), own);
    PyEval_SaveThread();
    for (int i = 0; i < 3; i++) {
        PyGILState_STATE unlocked = PyGILState_Ensure();
        CHECK_INT(unlocked, PyGILState_UNLOCKED);
        CHECK_PTR(PyThreadState_Get(), own);
        PyGILState_Release(unlocked);
        CHECK_PTR(attached(), NULL);
        CHECK_PTR(PyGILState_GetThisThreadState(), own);
    }
    PyEval_RestoreThread(own);
    py_finalize();
}

static void ensure_in_a_destructor(void)
{
    PyGILState_STATE inner = PyGILState_Ensure();
    CHECK_INT(inner, PyGILState_LOCKED);
    PyThreadState *saved = PyEval_SaveThread();
    PyGILState_STATE again = PyGILState_Ensure();
    CHECK_INT(again, PyGILState_UNLOCKED);
    PyGILState_Release(again);
    PyEval_RestoreThread(saved);
    PyGILState_Release(inner);
    log_event("destroyed");
}

static void destructor_body(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    run("import threading\n"
        "class Kept:\n"
        "    def __del__(self):\n"
        "        ensure()\n"
        "local = threading.local()\n"
        "local.kept = Kept()");
    PyGILState_Release(state);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    log_event("released");
}

SCENARIO(destructors, "What the last Release destroys may use the two functions")
{
    init_protected();
    expose("ensure", ensure_in_a_destructor);
    py_thread_join(thread_start(destructor_body, NULL));
    expect_log("destroyed,released");
    CHECK_INT(count_thread_states(), 1);
    py_finalize();
}

static void release_nothing(void *unused)
{
    (void)unused;
    PyGILState_Release(PyGILState_UNLOCKED);
}

// expect: fatal PyGILState_Release "auto-releasing thread-state"
SCENARIO(release_of_nothing, "A Release without a thread state is fatal, as it was")
{
    init_protected();
    PyEval_SaveThread();
    thread_join(thread_start(release_nothing, NULL));
}

// expect: fatal PyGILState_Release "must be current when releasing"
SCENARIO(release_detached, "A Release with its thread state detached is fatal, as it was")
{
    init_protected();
    PyGILState_STATE state = PyGILState_Ensure();
    PyEval_SaveThread();
    PyGILState_Release(state);
}

/* --- Switched on in the middle --------------------------------------------------------------------- */

static event inside = EVENT_INIT;

static void begun_before_body(void *nested)
{
    PyGILState_STATE outer = PyGILState_Ensure();
    CHECK_INT(outer, PyGILState_UNLOCKED);
    PyGILState_STATE inner = PyGILState_LOCKED;
    if (nested) {
        inner = PyGILState_Ensure();
    }
    PyThreadState *state = PyEval_SaveThread();
    PyGILState_STATE innermost = PyGILState_LOCKED;
    if (nested) {
        innermost = PyGILState_Ensure();
        CHECK_INT(innermost, PyGILState_UNLOCKED);
        PyThreadState *saved = PyEval_SaveThread();
        event_set(&inside);
        event_wait(&go);
        PyEval_RestoreThread(saved);
        PyGILState_Release(innermost);
        CHECK_PTR(PyGILState_GetThisThreadState(), state);
        CHECK_PTR(attached(), NULL);
    }
    else {
        event_set(&inside);
        event_wait(&go);
    }
    /* All of this is new, inside of what is old. */
    PyGILState_STATE again = PyGILState_Ensure();
    CHECK_INT(again, PyGILState_UNLOCKED);
    CHECK_PTR(PyThreadState_Get(), state);
    PyGILState_Release(again);
    PyEval_RestoreThread(state);
    if (nested) {
        PyGILState_Release(inner);
        CHECK_PTR(PyThreadState_Get(), state);
    }
    PyGILState_Release(outer);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

static void begun_before(void *nested)
{
    py_init();
    pthread_t thread = thread_start(begun_before_body, nested);
    py_event_wait(&inside);
    CHECK_INT(count_thread_states(), 2);
    protect();
    event_set(&go);
    py_thread_join(thread);
    CHECK_INT(count_thread_states(), 1);
    py_finalize();
}

SCENARIO(begun_before_ended_after, "A call that began before the switching on ends as it would have")
{
    begun_before(NULL);
}

SCENARIO(nested_before_ended_after, "So do nested calls")
{
    begun_before(&ready);
}

SCENARIO(found_before_ended_after, "A call that began with the thread's own thread state leaves it there")
{
    py_init();
    PyThreadState *own = PyEval_SaveThread();
    PyGILState_STATE unlocked = PyGILState_Ensure();
    CHECK_INT(unlocked, PyGILState_UNLOCKED);
    PyGILState_STATE locked = PyGILState_Ensure();
    CHECK_INT(locked, PyGILState_LOCKED);
    protect();
    PyGILState_Release(locked);
    CHECK_PTR(PyThreadState_Get(), own);
    PyGILState_Release(unlocked);
    CHECK_PTR(attached(), NULL);
    PyEval_RestoreThread(own);
    CHECK_INT(count_thread_states(), 1);
    py_finalize();
}

enum { THREADS = 8 };

static bool stop;

static bool is_stopped(void)
{
    return __atomic_load_n(&stop, __ATOMIC_RELAXED);
}

static void hammer(void *counted)
{
    while (!is_stopped()) {
        PyGILState_STATE outer = PyGILState_Ensure();
        CHECK_INT(outer, PyGILState_UNLOCKED);
        PyGILState_STATE inner = PyGILState_Ensure();
        CHECK_INT(inner, PyGILState_LOCKED);
        PyGILState_Release(inner);
        PyGILState_Release(outer);
        CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
        __atomic_fetch_add((long *)counted, 1, __ATOMIC_RELAXED);
    }
}

/* The bytes alone, a thousand times: src/patch/patch.rs. */
// repeat: 5
// sanitize: not thread, it delivers signals late to threads that run, so they do not stand still in time
SCENARIO(under_fire, "It can be switched on while threads are in the middle of the functions")
{
    py_init();
    static long counted[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(hammer, &counted[i]);
    }
    for (int after = 0; after < 2; after++) {
        for (int i = 0; i < THREADS; i++) {
            long before = __atomic_load_n(&counted[i], __ATOMIC_RELAXED);
            while (__atomic_load_n(&counted[i], __ATOMIC_RELAXED) == before) {
                run("x = 1");
                Py_BEGIN_ALLOW_THREADS
                sched_yield();
                Py_END_ALLOW_THREADS
            }
        }
        if (!after) {
            protect();
        }
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (int i = 0; i < THREADS; i++) {
        py_thread_join(threads[i]);
    }
    CHECK_INT(count_thread_states(), 1);
    py_finalize();
}

static void fork_all_the_time(void *counted)
{
    while (!is_stopped()) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(30);
            _exit(Pep788_ProtectGILState() == 0 ? 7 : 8);
        }
        int status;
        CHECK_INT(waitpid(child, &status, 0), child);
        CHECK_INT(status, 7 << 8);
        __atomic_fetch_add((long *)counted, 1, __ATOMIC_RELAXED);
    }
}

/* One that has begun since: the first that is counted may be older. */
static void wait_for_one_more(long *counted)
{
    long before = __atomic_load_n(counted, __ATOMIC_RELAXED);
    while (__atomic_load_n(counted, __ATOMIC_RELAXED) < before + 2) {
        sched_yield();
    }
}

// repeat: 5
// sanitize: not address thread, their malloc may stay locked in a forked child of a process with threads
SCENARIO(while_others_fork, "... and of forks: a child finds it on, or switches it on")
{
    enum { FORKING = 4 };
    static long counted[FORKING];
    pthread_t threads[FORKING];
    py_init();
    for (int i = 0; i < FORKING; i++) {
        threads[i] = thread_start(fork_all_the_time, &counted[i]);
    }
    for (int i = 0; i < FORKING; i++) {
        wait_for_one_more(&counted[i]);
    }
    protect();
    for (int i = 0; i < FORKING; i++) {
        wait_for_one_more(&counted[i]);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (int i = 0; i < FORKING; i++) {
        thread_join(threads[i]);
    }
    py_finalize();
}

static sigset_t block_all_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    CHECK_INT(pthread_sigmask(SIG_BLOCK, &all, NULL), 0);
    return all;
}

/* Those too that the C library lets nobody block. */
static void block_every_signal(void)
{
    unsigned long every = ~0UL;
    CHECK_INT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &every, NULL, sizeof every), 0);
}

static void blocked_signals(void *unused)
{
    (void)unused;
    block_all_signals();
    event_set(&ready);
    event_wait(&go);
    fresh_thread_body(NULL);
}

/* Until a thread is in one of two system calls. */
static void wait_until_in_call(pid_t thread, long number, long other)
{
    char path[64], said[256];
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)thread);
    for (;;) {
        FILE *file = fopen(path, "r");
        CHECK(file != NULL);
        CHECK(fgets(said, sizeof said, file) != NULL);
        fclose(file);
        long call = said[0] == 'r' ? -1 : strtol(said, NULL, 10);
        if (call == number || call == other) {
            return;
        }
        sched_yield();
    }
}

static pid_t sleeper;

static void note_sleeper(void)
{
    __atomic_store_n(&sleeper, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
}

static pid_t noted_sleeper(void)
{
    return __atomic_load_n(&sleeper, __ATOMIC_ACQUIRE);
}

static void handles_signals(void *unused)
{
    (void)unused;
    sigset_t all = block_all_signals();
    note_sleeper();
    event_set(&ready);
    int signal = 0;
    CHECK_INT(sigwait(&all, &signal), 0);
    CHECK_INT(signal, SIGUSR1);
}

// emulated: no, in which system call a thread is cannot be told: the kernel has the numbers of another processor
SCENARIO(thread_that_handles_signals, "A thread that waits for all signals is sent none")
{
    py_init();
    pthread_t thread = thread_start(handles_signals, NULL);
    py_event_wait(&ready);
    wait_until_in_call(noted_sleeper(), SYS_rt_sigtimedwait, SYS_rt_sigtimedwait);
    protect();
    CHECK_INT(pthread_kill(thread, SIGUSR1), 0);
    py_thread_join(thread);
    py_finalize();
}

SCENARIO(threads_that_block_signals, "A thread that blocks all signals does not stand in the way while it waits for something")
{
    py_init();
    pthread_t thread = thread_start(blocked_signals, NULL);
    py_event_wait(&ready);
    protect();
    event_set(&go);
    py_thread_join(thread);
    py_finalize();
}

/* The kernel's thread looks for something to do, without a pause, for a long time after it had something. */
static void have_the_kernel_poll(void)
{
    enum { ENTRIES = 8 };
    struct io_uring_params parameters = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 60000};
    int ring = (int)syscall(SYS_io_uring_setup, ENTRIES, &parameters);
    if (ring < 0) {
        /* Unknown or forbidden here: so there is no such thread, and nothing in the way. */
        perror("io_uring_setup");
        return;
    }
    size_t size = parameters.sq_off.array + ENTRIES * sizeof(unsigned);
    char *queue = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    CHECK(queue != MAP_FAILED);
    /* One that does nothing: all zeros. */
    __atomic_store_n((unsigned *)(void *)(queue + parameters.sq_off.tail), 1, __ATOMIC_RELEASE);
    CHECK(syscall(SYS_io_uring_enter, ring, 1, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0) >= 0);
    unsigned *head = (unsigned *)(void *)(queue + parameters.sq_off.head);
    while (__atomic_load_n(head, __ATOMIC_ACQUIRE) != 1) {
        sched_yield();
    }
}

// emulated: no, the thread is not one of the emulated program
SCENARIO(threads_of_the_kernel, "A thread of io_uring's, which runs and never takes a signal, does not stand in the way")
{
    py_init();
    have_the_kernel_poll();
    protect();
    py_finalize();
}

// expect: stderr "libpep788: PyGILState_Ensure cannot be protected here: its code may not be changed in this process"
// emulated: no, QEMU has no filters of system calls
SCENARIO(sealed, "Where code must not become writable, a line says so, and all is as before")
{
    py_init();
    /* What SELinux and systemd's MemoryDenyWriteExecute do. */
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, PROT_WRITE | PROT_EXEC),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PROT_WRITE | PROT_EXEC, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    CHECK_INT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_INT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    CHECK_INT(Pep788_ProtectGILState(), -1);
    py_thread_join(thread_start(fresh_thread_body, NULL));
    py_finalize();
}

/* --- The exit ----------------------------------------------------------------------------------- */

static void work_through_the_exit(void *detached)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyThreadState *saved = PyEval_SaveThread();
    event_set(&ready);
    event_wait(&exiting);
    for (int i = 0; i < 50; i++) {
        if (detached) {
            PyGILState_STATE again = PyGILState_Ensure();
            run("x = sum(range(100))");
            PyGILState_Release(again);
        }
        else {
            PyEval_RestoreThread(saved);
            run("x = sum(range(100))");
            saved = PyEval_SaveThread();
        }
    }
    PyEval_RestoreThread(saved);
    log_event("worked");
    PyGILState_Release(state);
}

static void exit_while_it_works(void (*works)(void *), void *argument)
{
    init_protected();
    pthread_t thread = thread_start(works, argument);
    py_event_wait(&ready);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(exit_waits, "The exit waits for a call in flight, which may detach and attach again")
{
    exit_while_it_works(work_through_the_exit, NULL);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(exit_waits_for_nested_calls, "... and call the functions again")
{
    exit_while_it_works(work_through_the_exit, &ready);
}

static void call_often(void)
{
    for (int i = 0; i < 20; i++) {
        PyGILState_STATE state = PyGILState_Ensure();
        run("x = 1");
        PyGILState_Release(state);
    }
}

static void calls_often_before(void *detached)
{
    call_often();
    work_through_the_exit(detached);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(exit_waits_for_later_calls, "... for the first call of a thread and for later ones, which are held in a cheaper way")
{
    exit_while_it_works(calls_often_before, NULL);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(exit_waits_for_later_nested_calls, "... also where these call the functions again")
{
    exit_while_it_works(calls_often_before, &ready);
}

static void calls_often_with_its_own(void *detached)
{
    PyThreadState *own = PyThreadState_New(PyInterpreterState_Main());
    CHECK(own != NULL);
    PyEval_AcquireThread(own);
    PyEval_SaveThread();
    calls_often_before(detached);
    /* It is the interpreter's to delete now. */
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(exit_waits_for_thread_states, "... of a thread that has a thread state of its own")
{
    exit_while_it_works(calls_often_with_its_own, NULL);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(exit_waits_for_thread_states_nested, "... also where these call the functions again")
{
    exit_while_it_works(calls_often_with_its_own, &ready);
}

static void ends_inside(void *unused)
{
    (void)unused;
    PyGILState_Ensure();
    PyEval_SaveThread();
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(thread_ends_inside, "A thread that ends without its Release is not waited for")
{
    init_protected();
    py_thread_join(thread_start(ends_inside, NULL));
    py_finalize();
}

static void ends_inside_a_later_call(void *unused)
{
    call_often();
    ends_inside(unused);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(thread_ends_inside_a_later_call, "... nor in a later call")
{
    init_protected();
    py_thread_join(thread_start(ends_inside_a_later_call, NULL));
    py_finalize();
}

/* pybind11's gil_scoped_acquire, in a thread that Python does not know. */
static PyThreadState *scope_begin(void)
{
    PyThreadState *state = PyThreadState_New(PyInterpreterState_Main());
    CHECK(state != NULL);
    state->gilstate_counter = 0;
    PyEval_AcquireThread(state);
    state->gilstate_counter++;
    return state;
}

static void scope_end(PyThreadState *state)
{
    CHECK_INT(--state->gilstate_counter, 0);
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
}

static void scope_through_the_exit(void *unused)
{
    (void)unused;
    PyThreadState *state = scope_begin();
    CHECK_PTR(PyGILState_GetThisThreadState(), state);
    PyThreadState *saved = PyEval_SaveThread();
    event_set(&ready);
    event_wait(&exiting);
    for (int i = 0; i < 50; i++) {
        PyGILState_STATE again = PyGILState_Ensure();
        CHECK_INT(again, PyGILState_UNLOCKED);
        CHECK_PTR(PyThreadState_Get(), state);
        run("x = sum(range(100))");
        PyGILState_Release(again);
        PyEval_AcquireThread(saved);
        PyGILState_Release(PyGILState_Ensure());
        PyEval_ReleaseThread(saved);
    }
    PyEval_RestoreThread(saved);
    log_event("worked");
    scope_end(state);
    CHECK_PTR(attached(), NULL);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(exit_waits_for_scopes, "... also for those of pybind11, which do without the functions")
{
    exit_while_it_works(scope_through_the_exit, NULL);
}

static void has_own_thread_states(void *unused)
{
    (void)unused;
    PyEval_AcquireThread(acquires_and_releases());
    CHECK_INT(count_thread_states(), 2);
    PyThreadState_Clear(PyThreadState_Get());
    PyThreadState_DeleteCurrent();
    CHECK_PTR(attached(), NULL);
    acquires_and_releases();
    event_set(&ready);
    event_wait(&go);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(own_thread_states, "Threads that attach thread states of their own are as they were, and not waited for")
{
    init_protected();
    pthread_t thread = thread_start(has_own_thread_states, NULL);
    py_event_wait(&ready);
    CHECK_INT(count_thread_states(), 2);
    py_finalize();
    event_set(&go);
    thread_join(thread);
}

/* cffi keeps the thread state of its first call, by one more in the count; since 2.1 it calls Ensure each time. */
static void keeps_thread_state(void *unused)
{
    (void)unused;
    PyGILState_STATE first = PyGILState_Ensure();
    PyThreadState *state = PyThreadState_Get();
    state->gilstate_counter++;
    PyGILState_Release(first);
    CHECK_PTR(attached(), NULL);
    for (int i = 0; i < 3; i++) {
        CHECK_PTR(PyGILState_GetThisThreadState(), state);
        PyGILState_STATE again = PyGILState_Ensure();
        CHECK_INT(again, PyGILState_UNLOCKED);
        CHECK_PTR(PyThreadState_Get(), state);
        run("x = 1");
        PyGILState_Release(again);
    }
    CHECK_INT(state->gilstate_counter, 1);
    event_set(&ready);
    event_wait(&go);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(kept_thread_state, "A thread state that another keeps stays, and is not waited for")
{
    init_protected();
    pthread_t thread = thread_start(keeps_thread_state, NULL);
    py_event_wait(&ready);
    py_finalize();
    event_set(&go);
    thread_join(thread);
}

static void attaches_kept_thread_state(void *unused)
{
    (void)unused;
    PyGILState_STATE first = PyGILState_Ensure();
    PyThreadState *state = PyThreadState_Get();
    state->gilstate_counter++;
    PyGILState_Release(first);
    CHECK_PTR(PyGILState_GetThisThreadState(), state);
    state->gilstate_counter++;
    PyEval_RestoreThread(state);
    run("x = 1");
    PyGILState_Release(PyGILState_UNLOCKED);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    first = PyGILState_Ensure();
    PyThreadState_Get()->gilstate_counter++;
    PyGILState_Release(first);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(kept_and_attached, "... but not where that attaches it by itself, as cffi up to 2.0 does")
{
    init_protected();
    py_thread_join(thread_start(attaches_kept_thread_state, NULL));
    CHECK_INT(count_thread_states(), 1);
    py_finalize();
}

static void comes_too_late(void *in_a_scope)
{
    PyThreadState *state = NULL;
    if (in_a_scope) {
        state = PyThreadState_New(PyInterpreterState_Main());
        state->gilstate_counter = 0;
    }
    else {
        PyGILState_Release(PyGILState_Ensure());
    }
    event_set(&ready);
    event_wait(&go);
    if (in_a_scope) {
        PyEval_AcquireThread(state);
    }
    else {
        PyGILState_Ensure();
    }
    check_failed(__FILE__, __LINE__, "it returned after the end of Python");
}

static void finalize_before_it_comes(void *in_a_scope)
{
    init_protected();
    pthread_t thread = thread_start(comes_too_late, in_a_scope);
    py_event_wait(&ready);
    py_finalize();
    event_set(&go);
    thread_join(thread);
}

// sanitize: not thread, whose join waits until a thread has come to its end by itself
SCENARIO(too_late, "Once Python is gone a thread is ended in Ensure, without a word, and can be joined")
{
    finalize_before_it_comes(NULL);
}

// sanitize: not thread, whose join waits until a thread has come to its end by itself
SCENARIO(scope_too_late, "... and in a scope of pybind11")
{
    finalize_before_it_comes(&ready);
}

static pthread_t the_thread;

static void join_a_caller(void *unused)
{
    (void)unused;
    event_set(&go);
    py_thread_join(the_thread);
    log_event("joined");
}

static void calls_again(void *unused)
{
    (void)unused;
    PyGILState_Release(PyGILState_Ensure());
    event_set(&ready);
    event_wait(&go);
    PyGILState_Release(PyGILState_Ensure());
    log_event("served");
}

SCENARIO(older_exit_callbacks, "Exit callbacks older than the library's, and threads that they join, are served")
{
    py_init();
    at_exit(join_a_caller, NULL);
    protect();
    the_thread = thread_start(calls_again, NULL);
    py_event_wait(&ready);
    py_finalize();
    expect_log("served,joined");
}

// sanitize: not thread, whose join waits until a thread has come to its end by itself
SCENARIO(door_closes_after_exit_callbacks, "After them the door is closed: who comes then is ended, and can be joined")
{
    py_init();
    after_exit_callbacks(join_a_caller, NULL);
    protect();
    the_thread = thread_start(comes_too_late, NULL);
    py_event_wait(&ready);
    py_finalize();
    expect_log("joined");
}

/* What a thread that is ended has to be to the others. */

static pthread_mutex_t robust;
static pthread_key_t key;

static void count_destructor(void *unused)
{
    (void)unused;
    log_event("destructor");
}

static void unwound(void *unused)
{
    (void)unused;
    log_event("unwound");
}

/* Comes back in the way of every blocking call. */
static void restores_too_late(void *unused)
{
    (void)unused;
    CHECK_INT(pthread_mutex_lock(&robust), 0);
    CHECK_INT(pthread_setspecific(key, &key), 0);
    PyThreadState *state = PyThreadState_New(PyInterpreterState_Main());
    PyEval_RestoreThread(state);
    CHECK_PTR(PyEval_SaveThread(), state);
    event_set(&ready);
    event_wait(&go);
    pthread_cleanup_push(unwound, NULL);
    PyEval_RestoreThread(state);
    pthread_cleanup_pop(0);
    check_failed(__FILE__, __LINE__, "it returned after the end of Python");
}

// sanitize: not thread, whose join waits until a thread has come to its end by itself
SCENARIO(restored_too_late,
         "In PyEval_RestoreThread too: nothing is unwound, no destructor runs, a robust mutex is passed on")
{
    init_protected();
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    CHECK_INT(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST), 0);
    CHECK_INT(pthread_mutex_init(&robust, &attributes), 0);
    CHECK_INT(pthread_key_create(&key, count_destructor), 0);
    pthread_t thread = thread_start(restores_too_late, NULL);
    py_event_wait(&ready);
    py_finalize();
    event_set(&go);
    CHECK_INT(pthread_mutex_lock(&robust), EOWNERDEAD);
    thread_join(thread);
    expect_log("");
}

static void finds_nothing(void *unused)
{
    (void)unused;
    CHECK_PTR(pthread_getspecific(key), NULL);
    PyGILState_Release(PyGILState_Ensure());
}

// sanitize: not thread, whose join waits until a thread has come to its end by itself
SCENARIO(stack_of_a_late_thread, "The next thread on its stack has nothing under the keys, and no destructor runs for the late one")
{
    init_protected();
    CHECK_INT(pthread_mutex_init(&robust, NULL), 0);
    CHECK_INT(pthread_key_create(&key, count_destructor), 0);
    pthread_t thread = thread_start(restores_too_late, NULL);
    py_event_wait(&ready);
    py_finalize();
    event_set(&go);
    thread_join(thread);
    for (int i = 0; i < 3; i++) {
        init_protected();
        thread = thread_start(finds_nothing, NULL);
        py_thread_join(thread);
        py_finalize();
    }
    expect_log("");
}

static void ends_the_process(void)
{
    /* Not by the runner's way: there is no main thread to return from `main`. */
    _exit(3);
}

// sanitize: not thread, which has a thread of its own
// expect: exit 3
SCENARIO(last_thread, "A late thread that is the last one ends the process as any other would, by exit()")
{
    init_protected();
    thread_start(comes_too_late, NULL);
    py_event_wait(&ready);
    py_finalize();
    CHECK_INT(atexit(ends_the_process), 0);
    event_set(&go);
    pthread_exit(NULL);
}

static void ends_by_itself(void *unused)
{
    (void)unused;
    pthread_cleanup_push(unwound, NULL);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    PyThread_exit_thread();
#pragma GCC diagnostic pop
    pthread_cleanup_pop(0);
}

SCENARIO(not_too_late, "A thread that is ended by PyThread_exit_thread before that is unwound as ever")
{
    init_protected();
    pthread_t thread = thread_start(ends_by_itself, NULL);
    py_thread_join(thread);
    py_finalize();
    expect_log("unwound");
}

static void ensure_again(void *unused)
{
    (void)unused;
    PyThreadState *own = PyEval_SaveThread();
    PyGILState_STATE state = PyGILState_Ensure();
    CHECK_INT(state, PyGILState_UNLOCKED);
    CHECK_PTR(PyThreadState_Get(), own);
    run("x = 1");
    PyGILState_Release(state);
    PyEval_RestoreThread(own);
    log_event("let in");
}

SCENARIO(finalizing_thread, "The thread that finalizes is let in to the end")
{
    py_init();
    at_exit(ensure_again, NULL);
    at_teardown(ensure_again, NULL);
    protect();
    PyGILState_Release(PyGILState_Ensure());
    py_finalize();
    expect_log("let in,let in");
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(finalized_inside, "Finalization inside an Ensure of its own thread does not wait for itself")
{
    py_init();
    PyEval_SaveThread();
    PyGILState_Ensure();
    protect();
    PyEval_SaveThread();
    PyGILState_Ensure();
    py_finalize();
}

static void stays(void *unused)
{
    (void)unused;
    CHECK_INT(pthread_setname_np(pthread_self(), "never leaves"), 0);
    PyGILState_Ensure();
    PyEval_SaveThread();
    event_set(&ready);
    for (;;) {
        pause();
    }
}

// env: PEP788_GILSTATE_WAIT_MS=50
// expect: stderr "s for threads inside PyGILState_Ensure, and goes on without them"
// expect: stderr "never leaves"
SCENARIO(never_released, "A thread that never leaves is waited for as long as it says, and named")
{
    init_protected();
    thread_start(stays, NULL);
    py_event_wait(&ready);
    py_finalize();
}

static int stayers;

static void stays_too(void *unused)
{
    (void)unused;
    PyGILState_Ensure();
    stayers++;
    PyEval_SaveThread();
    for (;;) {
        pause();
    }
}

// env: PEP788_GILSTATE_WAIT_MS=50
// expect: stderr "libpep788:   and 5 more"
SCENARIO(many_never_released, "Twenty of them are named, and the others counted")
{
    init_protected();
    for (int i = 0; i < 25; i++) {
        thread_start(stays_too, NULL);
    }
    while (stayers < 25) {
        PyThreadState *own = PyEval_SaveThread();
        sched_yield();
        PyEval_RestoreThread(own);
    }
    py_finalize();
}

static void guarded_body(void *guard)
{
    event_wait(&exiting);
    /* The wait for the other thread is long over, or never was. */
    for (int i = 0; i < 50; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        run("x = 1");
        PyThreadState_Release(token);
    }
    log_event("worked");
    PyInterpreterGuard_Close(guard);
}

// env: PEP788_GILSTATE_WAIT_MS=0
SCENARIO(guards_keep_their_promise, "Guards of PEP 788 are waited for, however short the wait for PyGILState is")
{
    init_protected();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    thread_start(stays, NULL);
    py_event_wait(&ready);
    pthread_t thread = thread_start(guarded_body, guard);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "worked,finalized");
}

static void call_from_a_fresh_thread(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    run("x = 1");
    log_event("called");
    PyGILState_Release(state);
}

static void guarded_and_needs_another(void *guard)
{
    event_wait(&exiting);
    thread_join(thread_start(call_from_a_fresh_thread, NULL));
    PyInterpreterGuard_Close(guard);
}

// native: no, the interpreter waits for its own guards after the library has closed the door
SCENARIO(guarded_work_needs_another_thread, "While guards are out, threads are let in: what is guarded may need them")
{
    init_protected();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    pthread_t thread = thread_start(guarded_and_needs_another, guard);
    at_exit(set_event, &exiting);
    py_finalize();
    thread_join(thread);
    expect_log("called");
}

static void call_that_needs_another(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    PyThreadState *saved = PyEval_SaveThread();
    event_set(&ready);
    event_wait(&exiting);
    thread_join(thread_start(call_from_a_fresh_thread, NULL));
    PyEval_RestoreThread(saved);
    log_event("worked");
    PyGILState_Release(state);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
// env: PEP788_DRAIN_GRACE_MS=-1
SCENARIO(call_needs_another_thread, "A call in flight may need a call of another thread")
{
    init_protected();
    pthread_t thread = thread_start(call_that_needs_another, NULL);
    py_event_wait(&ready);
    at_exit(set_event, &exiting);
    py_finalize_beside(thread, "called,worked,finalized");
}

static void forks_inside(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    PyThreadState *before = PyThreadState_Get();
    run("import os\nchild = os.fork()");
    bool is_child = eval_long("child") == 0;
    CHECK_PTR(PyThreadState_Get(), before);
    if (is_child) {
        /* Not the Release: CPython 3.11 and 3.12 make no thread state in a child that had none left. */
        PyEval_SaveThread();
        PyGILState_STATE again = PyGILState_Ensure();
        CHECK_INT(again, PyGILState_UNLOCKED);
        CHECK_PTR(PyThreadState_Get(), before);
        PyGILState_Release(again);
        PyEval_RestoreThread(before);
#if PY_VERSION_HEX < 0x030D0000
        /* From then on Py_Finalize crashes in a child of another thread than the main one, without the library too. */
        py_finalize();
#endif
        _exit(7);
    }
    CHECK_INT(eval_long("os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])"), 7);
    PyGILState_Release(state);
}

// env: PYTHONWARNINGS=ignore
// env: PEP788_GILSTATE_WAIT_MS=-1
// sanitize: not thread, which wants to be told of a thread's end
SCENARIO(fork_inside, "A child that was forked inside a call calls again, and exits without waiting for threads that it does not have")
{
    init_protected();
    thread_start(stays, NULL);
    py_event_wait(&ready);
    py_thread_join(thread_start(forks_inside, NULL));
    exit(0);
}

/* --- In one step --------------------------------------------------------------------------------------- */

/* What a subinterpreter's thread was about to do. Under the GIL. */
static bool is_about_to_go;

static void go_in_one_step(void *interpreter)
{
    PyThreadState *own = PyThreadState_New(interpreter);
    CHECK(own != NULL);
    PyEval_AcquireThread(own);
    run("x = 1");
    is_about_to_go = true;
    PyThreadState_Clear(own);
    PyThreadState_DeleteCurrent();
}

// pythons: gil
SCENARIO(deleted_in_one_step,
         "PyThreadState_DeleteCurrent: whoever has the GIL next finds the thread state gone, and may end the interpreter")
{
    init_protected();
    PyThreadState *own = PyThreadState_Get();
    for (int i = 0; i < 200; i++) {
        PyThreadState *sub = sub_new();
        is_about_to_go = false;
        pthread_t thread = thread_start(go_in_one_step, PyThreadState_GetInterpreter(sub));
        swap(own, sub);
        while (!is_about_to_go) {
            Py_BEGIN_ALLOW_THREADS
            sched_yield();
            Py_END_ALLOW_THREADS
        }
        /* Fatal if there is another thread state. */
        Py_EndInterpreter(sub);
        PyThreadState_Swap(own);
        py_thread_join(thread);
    }
    py_finalize();
}

static void release_in_one_step(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    CHECK_INT(state, PyGILState_UNLOCKED);
    run("x = 1");
    is_about_to_go = true;
    PyGILState_Release(state);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
}

// pythons: gil
SCENARIO(released_in_one_step, "PyGILState_Release: whoever has the GIL next finds the thread state gone")
{
    init_protected();
    for (int i = 0; i < 200; i++) {
        is_about_to_go = false;
        pthread_t thread = thread_start(release_in_one_step, NULL);
        while (!is_about_to_go) {
            Py_BEGIN_ALLOW_THREADS
            sched_yield();
            Py_END_ALLOW_THREADS
        }
        CHECK_INT(count_thread_states(), 1);
        py_thread_join(thread);
    }
    py_finalize();
}

static PyInterpreterView *view;
static PyObject *work;

/* Takes one guard after the other, until there are no more. */
static void ensure_without_a_pause(void *unused)
{
    (void)unused;
    PyThreadStateToken *token;
    while ((token = PyThreadState_EnsureFromView(view)) != NULL) {
        Py_XDECREF(PyObject_CallObject(work, NULL));
        PyThreadState_Release(token);
        event_set(&ready);
    }
}

enum { KNOCKING = 12 };
static pthread_t knocking[KNOCKING];

/* As the destructor of an object that owns the threads. */
static void join_those(PyObject *capsule)
{
    (void)capsule;
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < KNOCKING; i++) {
        thread_join(knocking[i]);
    }
    Py_END_ALLOW_THREADS
    log_event("joined");
}

// env: PEP788_DRAIN_GRACE_MS=200
SCENARIO(views_without_a_pause,
         "Threads that take guard after guard by a view keep an exit for the grace only, also where the interpreter serves views itself")
{
    init_protected();
    /* Of globals of its own: it does not keep the main module's. */
    run("import types\n"
        "work = types.FunctionType((lambda: sum(range(50))).__code__, {'__builtins__': __builtins__})");
    work = PyObject_GetAttrString(PyImport_AddModule("__main__"), "work");
    view = PyInterpreterView_FromCurrent();
    CHECK(work != NULL && view != NULL);
    PyObject *owner = PyCapsule_New(&knocking, NULL, join_those);
    CHECK(owner != NULL);
    CHECK_INT(PyObject_SetAttrString(PyImport_AddModule("__main__"), "owner", owner), 0);
    Py_DECREF(owner);
    for (int i = 0; i < KNOCKING; i++) {
        knocking[i] = thread_start(ensure_without_a_pause, NULL);
    }
    Py_BEGIN_ALLOW_THREADS
    event_wait(&ready);
    Py_END_ALLOW_THREADS
    py_finalize();
    expect_log("joined");
    PyInterpreterView_Close(view);
}

static void call_without_signals(void *counted)
{
    block_all_signals();
    while (!is_stopped()) {
        __atomic_fetch_add((long *)counted, 1, __ATOMIC_RELAXED);
    }
}

static void change_group_all_the_time(void *counted)
{
    while (!is_stopped()) {
        CHECK_INT(setgid(getgid()), 0);
        __atomic_fetch_add((long *)counted, 1, __ATOMIC_RELAXED);
    }
}

// repeat: 20
// emulated: no, the emulator has signals of its own
// musl: no, the C library blocks its own signals at times
// sanitize: not thread, the library does not use that signal there
SCENARIO(busy_threads_that_block_signals,
         "A thread that blocks all signals and runs is stopped as well, by the C library's own signal. Calls of setgid, "
         "for which the C library uses it, go on meanwhile and afterwards")
{
    static long counted[2];
    py_init();
    pthread_t threads[2] = {thread_start(call_without_signals, &counted[0]), thread_start(change_group_all_the_time, &counted[1])};
    for (int i = 0; i < 2; i++) {
        wait_for_one_more(&counted[i]);
    }
    protect();
    for (int i = 0; i < 2; i++) {
        wait_for_one_more(&counted[i]);
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++) {
        thread_join(threads[i]);
    }
    py_finalize();
}

/* --- Without means ---------------------------------------------------------------------------------------- */

static atomic_bool spins;

static void spin_without_signals(void *unused)
{
    (void)unused;
    block_every_signal();
    atomic_store(&spins, true);
    while (atomic_load(&spins)) {
    }
}

/* Switches on with so many file descriptors to spare, beside a thread that cannot be stopped. */
static void protect_with(int descriptors)
{
    py_init();
    pthread_t thread = thread_start(spin_without_signals, NULL);
    while (!atomic_load(&spins)) {
    }
    struct rlimit limit;
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 64;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
    int taken[64], count = 0;
    while (count < 64 && (taken[count] = dup(2)) >= 0) {
        count++;
    }
    for (int i = 0; i < descriptors; i++) {
        close(taken[--count]);
    }
    CHECK_INT(Pep788_ProtectGILState(), -1);
    while (count > 0) {
        close(taken[--count]);
    }
    atomic_store(&spins, false);
    thread_join(thread);
    py_finalize();
}

// emulated: no, its kernel tells other things
// expect: stderr "cannot be read"
SCENARIO(no_file_descriptor, "It is refused where the process's threads cannot be listed")
{
    protect_with(0);
}

// emulated: no, its kernel tells other things
// expect: stderr "cannot be read"
SCENARIO(one_file_descriptor, "It is refused where they can be listed, and none of them looked at: they are not gone")
{
    protect_with(1);
}

// emulated: no, its kernel tells other things
// expect: stderr "could not be stopped"
SCENARIO(a_thread_without_signals, "It is refused while a thread runs that blocks all signals")
{
    protect_with(2);
}
