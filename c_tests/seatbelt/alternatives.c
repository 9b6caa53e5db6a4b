/* What else was proposed for PyGILState: failure instead of sleep, another interpreter, a callback
 * at the beginning of the end. */

// macos-file: no, the seatbelt is for Linux
// windows-file: no, the seatbelt is for Linux

#define _GNU_SOURCE
#include "harness.h"
#include "pep788_gilstate.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

static event ready = EVENT_INIT, go = EVENT_INIT;

static void protect(void)
{
    CHECK_INT(Pep788_ProtectGILState(), 0);
}

static void ensure_twice(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    CHECK_INT(PyGILState_Failed(state), 0);
    PyGILState_STATE inner = PyGILState_Ensure();
    CHECK_INT(PyGILState_Failed(inner), 0);
    PyGILState_Release(inner);
    PyGILState_Release(state);
    event_set(&ready);
    event_wait(&go);
    state = PyGILState_Ensure();
    CHECK_INT(PyGILState_Failed(state), 1);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    PyGILState_Release(state);
}

SCENARIO(failure, "Asked for, Ensure fails where it would have slept")
{
    py_init();
    protect();
    PyGILState_SetHangDuringFini(0);
    pthread_t thread = thread_start(ensure_twice, NULL);
    py_event_wait(&ready);
    py_finalize();
    event_set(&go);
    thread_join(thread);
}

/* Of which copy of the library. */
static int (*set_interpreter)(PyInterpreterState *) = PyGILState_SetInterpreter;

static void attach_to(void *sub)
{
    PyInterpreterState *interpreter = PyThreadState_GetInterpreter(sub);
    CHECK_INT(set_interpreter(interpreter), 0);
    PyGILState_STATE state = PyGILState_Ensure();
    CHECK_INT(state, PyGILState_UNLOCKED);
    CHECK_PTR(attached_interpreter(), interpreter);
    CHECK_PTR(PyGILState_GetThisThreadState(), PyThreadState_Get());
    run("here = 1");
    PyGILState_Release(state);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    CHECK_INT(set_interpreter(NULL), 0);
    state = PyGILState_Ensure();
    CHECK(attached_interpreter() != interpreter);
    PyGILState_Release(state);
    CHECK_INT(set_interpreter(interpreter), 0);
    event_set(&ready);
    event_wait(&go);
    state = PyGILState_Ensure();
    CHECK_INT(PyGILState_Failed(state), 1);
}

/* After py_init(), where Ensure fails when it is too late. */
static void end_an_interpreter_that_was_chosen(void)
{
    PyThreadState *main = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(main, sub);
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    pthread_t thread = thread_start(attach_to, sub);
    py_event_wait(&ready);
    CHECK_INT(eval_long("here"), 1);
    PyInterpreterGuard_Close(guard);
    swap(sub, main);
    sub_end(sub);
    event_set(&go);
    py_thread_join(thread);
    py_finalize();
}

SCENARIO(other_interpreter, "A thread can choose the interpreter that Ensure attaches it to, until that is gone")
{
    py_init();
    protect();
    PyGILState_SetHangDuringFini(0);
    end_an_interpreter_that_was_chosen();
}

static void *load_copy_of_the_library(void)
{
    Dl_info info;
    CHECK(dladdr((void *)Pep788_ProtectGILState, &info) != 0);
    int original = open(info.dli_fname, O_RDONLY), copy = memfd_create("copy", 0);
    struct stat about;
    CHECK(original >= 0 && copy >= 0 && fstat(original, &about) == 0);
    for (off_t done = 0; done < about.st_size;) {
        CHECK(sendfile(copy, original, &done, (size_t)(about.st_size - done)) > 0);
    }
    close(original);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", copy);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        check_failed(__FILE__, __LINE__, "%s", dlerror());
    }
    return library;
}

static void (*set_hangs)(int);

static void find_in_copy(void *library)
{
    int (*copy_protects)(void);
    *(void **)&copy_protects = dlsym(library, "Pep788_ProtectGILState");
    *(void **)&set_hangs = dlsym(library, "PyGILState_SetHangDuringFini");
    *(void **)&set_interpreter = dlsym(library, "PyGILState_SetInterpreter");
    CHECK(copy_protects != NULL && copy_protects != Pep788_ProtectGILState);
    CHECK_INT(copy_protects(), 0);
}

// sanitize: not address thread valgrind, which take a library for one, whatever its name
SCENARIO(another_copy, "... also by a second copy of the library in the process, which hands it on to the one that serves the calls")
{
    py_init();
    protect();
    find_in_copy(load_copy_of_the_library());
    set_hangs(0);
    end_an_interpreter_that_was_chosen();
}

// sanitize: not address thread valgrind, which take a library for one, whatever its name
SCENARIO(another_copy_told_before, "... and what it was told before it found the first one")
{
    py_init();
    protect();
    void *library = load_copy_of_the_library();
    *(void **)&set_hangs = dlsym(library, "PyGILState_SetHangDuringFini");
    set_hangs(0);
    find_in_copy(library);
    end_an_interpreter_that_was_chosen();
}

static void attach_to_unknown(void *sub)
{
    PyInterpreterState *interpreter = PyThreadState_GetInterpreter(sub);
    CHECK_INT(PyGILState_SetInterpreter(interpreter), 0);
    CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    PyGILState_STATE state = PyGILState_Ensure();
    CHECK_PTR(attached_interpreter(), interpreter);
    PyGILState_Release(state);
}

SCENARIO(unknown_interpreter, "... even one that the library was never used in")
{
    py_init();
    protect();
    PyThreadState *sub = sub_new();
    py_thread_join(thread_start(attach_to_unknown, sub));
    sub_end(sub);
    py_finalize();
}

SCENARIO(no_interpreter, "What is no interpreter is refused, and all without protection")
{
    py_init();
    PyThreadState *sub = sub_new();
    CHECK_INT(PyGILState_SetInterpreter(PyThreadState_GetInterpreter(sub)), -1);
    protect();
    static char nothing[1 << 16];
    CHECK_INT(PyGILState_SetInterpreter((PyInterpreterState *)(void *)nothing), -1);
    CHECK_INT(PyGILState_SetInterpreter(NULL), 0);
    sub_end(sub);
    py_finalize();
}

/* --- The callback ------------------------------------------------------------------------------- */

static int called(PyThreadState *state, void *argument)
{
    CHECK(attached() != NULL);
    CHECK(argument == (void *)&ready || argument == (void *)state);
    log_event("called");
    event_set(&ready);
    return 0;
}

static void stops_when_told(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    CHECK_INT(PyThreadState_SetFiniCallback(PyThreadState_Get(), called, &ready), 0);
    event_set(&go);
    py_event_wait(&ready);
    log_event("stopped");
    PyGILState_Release(state);
}

// env: PEP788_GILSTATE_WAIT_MS=-1
SCENARIO(told_to_stop, "The callback is called when the exit begins to wait, so that a thread can be told")
{
    py_init();
    protect();
    pthread_t thread = thread_start(stops_when_told, NULL);
    py_event_wait(&go);
    py_finalize();
    thread_join(thread);
    expect_log("called,stopped");
}

static int fails(PyThreadState *state, void *argument)
{
    (void)state;
    (void)argument;
    PyErr_SetString(PyExc_ValueError, "of the callback");
    return -1;
}

// expect: stderr "ValueError: of the callback"
SCENARIO(callback_fails, "Its exception is reported, and the exit goes on")
{
    py_init();
    CHECK_INT(PyThreadState_SetFiniCallback(PyThreadState_Get(), fails, NULL), 0);
    py_finalize();
}

static void sets_and_ends(void *unused)
{
    (void)unused;
    PyGILState_STATE state = PyGILState_Ensure();
    CHECK_INT(PyThreadState_SetFiniCallback(PyThreadState_Get(), called, NULL), 0);
    PyGILState_Release(state);
}

SCENARIO(replaced_and_taken_back, "A thread state has one callback, which can be taken back, and goes with it")
{
    py_init();
    PyThreadState *state = PyThreadState_Get();
    CHECK_INT(PyThreadState_SetFiniCallback(state, called, NULL), 0);
    CHECK_INT(PyThreadState_SetFiniCallback(state, called, state), 0);
    PyThreadState *sub = sub_new();
    swap(state, sub);
    CHECK_INT(PyThreadState_SetFiniCallback(sub, called, sub), 0);
    CHECK_INT(PyThreadState_SetFiniCallback(sub, NULL, NULL), 0);
    swap(sub, state);
    sub_end(sub);
    py_thread_join(thread_start(sets_and_ends, NULL));
    py_finalize();
    expect_log("called");
}
