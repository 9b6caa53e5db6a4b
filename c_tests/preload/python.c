/* A program that is not linked with the library and gets it by LD_PRELOAD: the accepted API is then
 * there as if the interpreter had it. */

// macos-file: no, what is preloaded there does not come first for names

#include "harness.h"

#include <dlfcn.h>

static event exiting = EVENT_INIT;

static void work_through_the_exit(void *guard)
{
    event_wait(&exiting);
    for (int i = 0; i < 50; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(guard);
        CHECK(token != NULL);
        run("x = sum(range(100))");
        PyThreadState_Release(token);
    }
    log_event("worked");
    PyInterpreterGuard_Close(guard);
}

SCENARIO(waits_for_a_guard, "A preloaded library serves programs that were built without it")
{
    py_init();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    at_exit(set_event, &exiting);
    pthread_t thread = thread_start(work_through_the_exit, guard);
    py_finalize_beside(thread, "worked,finalized");
}

typedef PyInterpreterView *(*from_main_function)(void);
typedef void (*close_function)(PyInterpreterView *);

SCENARIO(found_by_dlsym, "A library that looks for the API at run time finds it")
{
    py_init();
    from_main_function from_main;
    close_function close_view;
    /* The way POSIX asks for: a void pointer does not convert to a function pointer in C. */
    *(void **)&from_main = dlsym(RTLD_DEFAULT, "PyInterpreterView_FromMain");
    *(void **)&close_view = dlsym(RTLD_DEFAULT, "PyInterpreterView_Close");
    CHECK(from_main != NULL);
    CHECK(close_view != NULL);
    PyInterpreterView *view = from_main();
    CHECK(view != NULL);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    PyThreadState_Release(token);
    close_view(view);
    py_finalize();
}

SCENARIO(unused, "A Python that nobody uses the API of starts and ends as ever")
{
    py_init();
    run("import threading\n"
        "thread = threading.Thread(target=print)\n"
        "thread.start()\n"
        "thread.join()");
    py_finalize();
}
