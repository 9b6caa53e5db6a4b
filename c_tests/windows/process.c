/* What is different on Windows: the environment, and the end of the process. */

#include "handles.h"

// expect: stderr "is ignored: it takes a number of milliseconds, or -1"
SCENARIO(settings_from_python, "What Python puts into os.environ before the first use is a setting")
{
    py_init();
    run("import os\n"
        "os.environ['PEP788_WAIT_WARN_MS'] = 'soon'");
    PyInterpreterGuard_Close(guard_here());
    py_finalize();
}

static event attached_once = EVENT_INIT;

static void attach_over_and_over(void *view)
{
    for (;;) {
        PyThreadState_Release(ensure_from_view(view));
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
        CHECK(guard != NULL);
        PyInterpreterGuard_Close(guard);
        event_set(&attached_once);
    }
}

// expect: exit 3
// repeat: 20
SCENARIO(ends_beside_threads, "The process can end without the end of Python, while threads are anywhere in the library")
{
    py_init();
    PyInterpreterView *view = view_here();
    for (int i = 0; i < 4; i++) {
        thread_start(attach_over_and_over, view);
    }
    py_event_wait(&attached_once);
    PyEval_SaveThread();
    exit(3);
}
