/* What begins while an exit waits: exit callbacks that guarded threads register, Python threads that they
 * start, and what those begin in turn. */

#include "handles.h"

#ifndef _WIN32
#  include <sys/wait.h>
#endif

static event exiting = EVENT_INIT;

static void callback(void)
{
    log_event("callback");
}

/* Runs Python code with a guard once the exit has begun. */
struct late {
    PyInterpreterGuard *guard;
    const char *code;
};

static void run_late(void *argument)
{
    struct late *late = argument;
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(late->guard);
    CHECK(token != NULL);
    log_event("late");
    run(late->code);
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(late->guard);
}

/* A whole program whose guarded thread runs `code` in __main__ while the exit waits. */
static void exit_with(const char *code)
{
    struct late late = {guard_here(), code};
    run("import atexit");
    pthread_t thread = thread_start(run_late, &late);
    at_exit(set_event, &exiting);
    py_finalize();
    log_event("finalized");
    thread_join(thread);
}

/* --- Exit callbacks registered during the wait ---------------------------------------------------- */

SCENARIO(a_callback_runs, "An atexit callback that a guarded thread registers during the wait runs")
{
    py_init();
    expose("callback", callback);
    exit_with("atexit.register(callback)");
    expect_log("late,callback,finalized");
}

static void check_order(void)
{
    CHECK_INT(eval_long("seen == [(3, 0), (2, 5), (1, 0)]"), 1);
    log_event("checked");
}

SCENARIO(callbacks_in_order, "They run with their arguments, the last registered first; register is a decorator too")
{
    py_init();
    expose("check", check_order);
    run("seen = []\n"
        "def note(number, keyword=0):\n"
        "    seen.append((number, keyword))");
    exit_with("assert atexit.register(check) is check\n"
              "atexit.register(note, 1)\n"
              "atexit.register(note, 2, keyword=5)\n"
              "@atexit.register\n"
              "def decorated():\n"
              "    note(3)");
    expect_log("late,checked,finalized");
}

// expect: stderr "ZeroDivisionError"
// expect: stderr "a text to be found"
SCENARIO(a_callback_that_raises, "One that raises is reported, and the others run")
{
    py_init();
    expose("callback", callback);
    run("def fail():\n"
        "    raise RuntimeError('a text to be found')");
    exit_with("atexit.register(callback)\n"
              "atexit.register(lambda: 1 / 0)\n"
              "atexit.register(callback)\n"
              "atexit.register(fail)");
    expect_log("late,callback,callback,finalized");
}

SCENARIO(bad_arguments, "What cannot be registered is refused as ever")
{
    py_init();
    exit_with("for arguments in ((), (5,)):\n"
              "    try:\n"
              "        atexit.register(*arguments)\n"
              "    except TypeError:\n"
              "        pass\n"
              "    else:\n"
              "        raise AssertionError(arguments)\n"
              "try:\n"
              "    atexit.unregister()\n"
              "except TypeError:\n"
              "    pass\n"
              "else:\n"
              "    raise AssertionError");
    expect_log("late,finalized");
}

SCENARIO(unregistered, "unregister takes back what was registered during the wait, all of it that is equal")
{
    py_init();
    expose("callback", callback);
    run("class Equal:\n"
        "    def __init__(self, number):\n"
        "        self.number = number\n"
        "    def __eq__(self, other):\n"
        "        return isinstance(other, Equal) and self.number == other.number\n"
        "    def __call__(self):\n"
        "        1 / 0");
    exit_with("atexit.register(Equal(1))\n"
              "atexit.register(callback)\n"
              "atexit.register(Equal(1))\n"
              "atexit.unregister(Equal(1))\n"
              "atexit.unregister(Equal(2))\n"
              "for _ in range(3): atexit.register(print)\n"
              "atexit.unregister(print)");
    expect_log("late,callback,finalized");
}

static void check_the_module(void *unused)
{
    (void)unused;
    run("import atexit\n"
        "assert (atexit.register, atexit.unregister) == originals");
    log_event("checked");
}

static void use_what_was_kept(void *unused)
{
    (void)unused;
    /* Native 3.15 runs this callback before the wait. */
    run("register, unregister = globals().get('kept', originals)\n"
        "assert register(print) is print\n"
        "unregister(print)");
    log_event("used");
}

SCENARIO(the_module_is_as_before, "After the wait `atexit` is as it was, and what code took from it during the wait works on")
{
    py_init();
    expose("callback", callback);
    run("import atexit\n"
        "originals = atexit.register, atexit.unregister");
    at_exit(use_what_was_kept, NULL);
    at_exit(check_the_module, NULL);
    struct late late = {guard_here(), "from atexit import register, unregister\n"
                                      "kept = register, unregister"};
    pthread_t thread = thread_start(run_late, &late);
    at_exit(set_event, &exiting);
    py_finalize();
    thread_join(thread);
    CHECK_INT(log_count("checked"), 1);
    CHECK_INT(log_count("used"), 1);
}

static event handed = EVENT_INIT;
static PyInterpreterGuard *handed_over;

static void hand_over(void)
{
    log_event("handed");
    handed_over = guard_here();
    event_set(&handed);
}

static void work_with_what_is_handed_over(void *unused)
{
    (void)unused;
    event_wait(&handed);
    for (int i = 0; i < 200; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(handed_over);
        CHECK(token != NULL);
        run("x = sum(range(100))");
        PyThreadState_Release(token);
    }
    log_event("worked");
    PyInterpreterGuard_Close(handed_over);
}

// env: PEP788_DRAIN_GRACE_MS=0
SCENARIO(a_callback_takes_a_guard,
         "It may take guards, after the grace too, and hand them to threads, for which the exit waits")
{
    py_init();
    expose("hand_over", hand_over);
    pthread_t thread = thread_start(work_with_what_is_handed_over, NULL);
    exit_with("atexit.register(hand_over)");
    expect_log("late,handed,worked,finalized");
    thread_join(thread);
}

// native: no, it drops callbacks that an exit callback registers
SCENARIO(callbacks_that_register_callbacks, "A callback may register the next one, to any depth")
{
    py_init();
    expose("callback", callback);
    run("def count_down(left):\n"
        "    atexit.register(count_down, left - 1) if left else atexit.register(callback)");
    exit_with("atexit.register(count_down, 2000)");
    expect_log("late,callback,finalized");
}

SCENARIO(exits_that_callbacks_ask_for, "sys.exit in one ends nothing early")
{
    py_init();
    expose("callback", callback);
    run("import sys");
    exit_with("atexit.register(callback)\n"
              "atexit.register(sys.exit, 3)");
    expect_log("late,callback,finalized");
}

static void note_told(void)
{
    CHECK_INT(eval_long("sorted(called) == list(range(STAYING))"), 1);
    log_event("told");
}

// native: no, it drops callbacks that an exit callback registers
SCENARIO(callbacks_come_and_go, "A thread registers and takes back callbacks while the exit takes them: none is lost, and none is read that is gone")
{
    py_init();
    expose("tell", note_told);
    /* Late threads are waited for, daemons are not; and one that is to run during an exit has to be there before it. */
    run("import atexit, threading\n"
        "STAYING = 200\n"
        "called = []\n"
        "late, done = threading.Event(), threading.Event()\n"
        "def come_and_go():\n"
        "    late.wait()\n"
        "    for number in range(STAYING):\n"
        "        atexit.register(called.append, number)\n"
        "        for _ in range(20):\n"
        "            gone = lambda: None\n"
        "            atexit.register(gone)\n"
        "            atexit.unregister(gone)\n"
        "    done.set()\n"
        "threading.Thread(target=come_and_go, daemon=True).start()\n"
        "def look_again():\n"
        "    done.wait(0.0002) or atexit.register(look_again)\n"
        "def tell_at_last():\n"
        "    tell() if len(called) == STAYING else atexit.register(tell_at_last)");
    /* The exit looks for more as long as there is one: `look_again`, until all were registered. */
    exit_with("atexit.register(tell_at_last)\n"
              "atexit.register(look_again)\n"
              "late.set()");
    expect_log("late,told,finalized");
}

static void run_late_in_subinterpreter(PyThreadState *sub)
{
    PyThreadState *own = PyThreadState_Get();
    swap(own, sub);
    expose("callback", callback);
    run("import atexit");
    struct late late = {guard_here(), "atexit.register(callback)"};
    pthread_t thread = thread_start(run_late, &late);
    at_exit(set_event, &exiting);
    swap(sub, own);
    sub_end(sub);
    log_event("ended");
    py_thread_join(thread);
    py_finalize();
    expect_log("late,callback,ended");
}

SCENARIO(in_a_subinterpreter, "The same at the end of a subinterpreter")
{
    py_init();
    run_late_in_subinterpreter(sub_new());
}

// pythons: >=3.12
SCENARIO(in_an_isolated_subinterpreter, "The same where it has its own GIL")
{
    py_init();
    run_late_in_subinterpreter(sub_new_isolated());
}

#ifndef _WIN32

static void fork_and_register(void *guard)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    PyOS_BeforeFork();
    pid_t child = fork();
    if (child == 0) {
        PyOS_AfterFork_Child();
        run("atexit._clear()\n"
            "atexit.register(callback)\n"
            "atexit._run_exitfuncs()");
        _exit(log_count("callback") == 1 ? 7 : 1);
    }
    PyOS_AfterFork_Parent();
    int status;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), 7);
    log_event("child checked");
    PyThreadState_Release(token);
    PyInterpreterGuard_Close(guard);
}

// windows: no, there is no fork
SCENARIO(in_a_child_forked_during_the_wait, "In a child that a guarded thread forks during the wait, atexit works by itself")
{
    py_init();
    expose("callback", callback);
    run("import atexit");
    pthread_t thread = thread_start(fork_and_register, guard_here());
    at_exit(set_event, &exiting);
    py_finalize();
    thread_join(thread);
    expect_log("child checked");
}

#endif

/* --- Python threads started during the wait --------------------------------------------------------- */

/* In 3.12 no thread can be started once the exit has begun. */
// pythons: !=3.12
// native: no, it does not join such a thread
SCENARIO(threads_and_callbacks_in_turns, "A late thread registers a callback that starts a thread that registers a callback ...")
{
    py_init();
    expose("callback", callback);
    run("import threading\n"
        "def call(left):\n"
        "    if left:\n"
        "        threading.Thread(target=register, args=(left - 1,), daemon=False).start()\n"
        "    else:\n"
        "        callback()\n"
        "def register(left):\n"
        "    atexit.register(call, left)");
    exit_with("threading.Thread(target=register, args=(20,), daemon=False).start()");
    expect_log("late,callback,finalized");
}

static void unraisable(void)
{
    log_event("unraisable");
}

static void note_unraisable(void)
{
    expose("unraisable", unraisable);
    run("import sys, threading\n"
        "sys.unraisablehook = lambda _: unraisable()\n"
        "threading.excepthook = lambda _: unraisable()");
}

// pythons: !=3.12
// native: no, it does not join such a thread
// repeat: 5
SCENARIO(joined_by_others_too, "That the exit waits for a late thread is nothing to others who join it")
{
    py_init();
    note_unraisable();
    expose("callback", callback);
    run("sys.setswitchinterval(1e-6)\n"
        "def body():\n"
        "    for _ in range(300):\n"
        "        thread = threading.Thread(target=sum, args=((1, 2),))\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "    callback()");
    exit_with("for _ in range(3): threading.Thread(target=body, daemon=False).start()");
    CHECK_INT(log_count("unraisable"), 0);
    CHECK_INT(log_count("callback"), 3);
}

/* Nobody who starts a thread holds a guard here, so the exit comes to look while the thread has a number
 * but is not said to be started. That it looked is seen by the calls of `enumerate`. */
// pythons: !=3.12
// native: no, it does not join such a thread
SCENARIO(a_thread_that_is_about_to_start, "The exit waits for a thread that is just being started")
{
    py_init();
    note_unraisable();
    expose("callback", callback);
    run("class Slow(threading.Thread):\n"
        "    def _set_ident(self):\n"
        "        super()._set_ident()\n"
        "        in_the_gap.set()\n"
        "        looked.acquire()\n"
        "    def run(self):\n"
        "        for _ in range(1000): sum(range(1000))\n"
        "        callback()\n"
        "in_the_gap, looked = threading.Event(), threading.Semaphore(0)\n"
        "enumerate_threads = threading.enumerate\n"
        "def spy():\n"
        "    if in_the_gap.is_set(): looked.release()\n"
        "    return enumerate_threads()\n"
        "threading.enumerate = spy");
    exit_with("threading.Thread(target=lambda: Slow(daemon=False).start(), daemon=True).start()\n"
              "in_the_gap.wait()");
    expect_log("late,callback,finalized");
}

/* `threading` does not list it any more. What is left of it is Python code all the same, and it goes on
 * after the exit has looked for threads. Without a GIL it would be run by who made the object. */
// pythons: gil !=3.12
// native: no, it does not join such a thread
SCENARIO(a_thread_in_its_end, "The exit waits for a thread that `threading` has forgotten, and which is not over")
{
    py_init();
    note_unraisable();
    expose("callback", callback);
    run("class Ending(threading.Thread):\n"
        "    def run(self):\n"
        "        on_its_own.wait()\n"
        "    def __del__(self):\n"
        "        at_the_end.set()\n"
        "        looked.acquire()\n"
        "        for _ in range(1000): sum(range(1000))\n"
        "        callback()\n"
        "on_its_own, at_the_end = threading.Event(), threading.Event()\n"
        "looked = threading.Semaphore(0)\n"
        "enumerate_threads = threading.enumerate\n"
        "def spy():\n"
        "    if at_the_end.is_set(): looked.release()\n"
        "    return enumerate_threads()\n"
        "threading.enumerate = spy");
    exit_with("Ending(daemon=False).start()\n"
              "on_its_own.set()\n"
              "at_the_end.wait()");
    CHECK_INT(log_count("unraisable"), 0);
    expect_log("late,callback,finalized");
}

static void make_a_dummy(void *guard)
{
    event_wait(&exiting);
    PyThreadStateToken *token = PyThreadState_Ensure(guard);
    CHECK(token != NULL);
    /* From 3.13 on `threading` forgets it with the thread state, but not if it has it twice. */
    run("dummy = threading.current_thread()\n"
        "assert isinstance(dummy, threading._DummyThread)\n"
        "threading._active['again'] = dummy");
    PyInterpreterGuard *another = guard_here();
    PyInterpreterGuard_Close(another);
    PyThreadState_Release(token);
    log_event("closed");
    PyInterpreterGuard_Close(guard);
}

// pythons: >=3.12
SCENARIO(a_foreign_thread_is_not_joined,
         "Where daemon threads are not allowed, `threading` takes native threads for non-daemon; nobody can join them")
{
    py_init();
    PyThreadState *own = PyThreadState_Get();
    PyThreadState *sub = sub_new_isolated();
    swap(own, sub);
    note_unraisable();
    pthread_t thread = thread_start(make_a_dummy, guard_here());
    at_exit(set_event, &exiting);
    swap(sub, own);
    sub_end(sub);
    log_event("ended");
    py_thread_join(thread);
    py_finalize();
    expect_log("closed,ended");
}
