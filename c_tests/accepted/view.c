/* Views: they hold nothing, they always stay legal, and they are never fooled. */

#include "barrier.h"
#include "harness.h"

SCENARIO(from_current, "PyInterpreterView_FromCurrent: a view on the current interpreter")
{
    py_init();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
    PyThreadState_Release(token);
    PyInterpreterView_Close(view);
    py_finalize();
}

SCENARIO(from_main_names_the_main_interpreter,
         "PyInterpreterView_FromMain: a view on the main interpreter, from wherever it is called")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(main_state, sub);
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
    PyThreadState_Release(token);
    CHECK_PTR(PyThreadState_Get(), sub);
    PyInterpreterView_Close(view);
    swap(sub, main_state);
    sub_end(sub);
    py_finalize();
}

static void from_main_and_attach(void *answer)
{
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    *(long *)answer = eval_long("40 + 2");
    PyThreadState_Release(token);
    PyInterpreterView_Close(view);
}

SCENARIO(from_main_in_a_thread_without_anything,
         "PyInterpreterView_FromMain: the caller is attached or not; nothing is needed to call it")
{
    long answer = 0;
    py_init();
    py_thread_join(thread_start(from_main_and_attach, &answer));
    CHECK_INT(answer, 42);
    py_finalize();
}

SCENARIO(from_main_before_initialization, "PyInterpreterView_FromMain: may be called before Py_Initialize")
{
    PyInterpreterView *view = PyInterpreterView_FromMain();
    CHECK(view != NULL);
    CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
    CHECK_PTR(PyThreadState_EnsureFromView(view), NULL);
    py_init();
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    CHECK(token != NULL);
    CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
    PyThreadState_Release(token);
    py_finalize();
    CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
    PyInterpreterView_Close(view);
}

SCENARIO(closed_before_initialization, "PyInterpreterView_Close: cannot fail, also without a runtime")
{
    PyInterpreterView_Close(PyInterpreterView_FromMain());
    py_init();
    py_finalize();
    PyInterpreterView_Close(PyInterpreterView_FromMain());
}

SCENARIO(holds_nothing, "A view does not hold its interpreter: finalization ends while views are open")
{
    py_init();
    PyInterpreterView *current = PyInterpreterView_FromCurrent();
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    CHECK(current != NULL && main_view != NULL);
    py_finalize();
    PyInterpreterView_Close(current);
    PyInterpreterView_Close(main_view);
}

SCENARIO(close_after_the_end, "PyInterpreterView_Close: legal after the interpreter is gone")
{
    enum { MANY = 100 };
    PyInterpreterView *views[MANY];
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    for (int i = 0; i < MANY; i++) {
        swap(main_state, sub);
        views[i] = PyInterpreterView_FromCurrent();
        CHECK(views[i] != NULL);
        swap(sub, main_state);
    }
    sub_end(sub);
    for (int i = 0; i < MANY / 2; i++) {
        PyInterpreterView_Close(views[i]);
    }
    py_finalize();
    for (int i = MANY / 2; i < MANY; i++) {
        CHECK_PTR(PyInterpreterGuard_FromView(views[i]), NULL);
        PyInterpreterView_Close(views[i]);
    }
}

/* --- Dead interpreters ------------------------------------------------------------------------ */

static void check_refused(void *view)
{
    CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
    CHECK_PTR(PyThreadState_EnsureFromView(view), NULL);
    if (attached() != NULL) {
        CHECK(!PyErr_Occurred());
    }
}

static void dead_for_ever(PyThreadState *(*new_interpreter)(void))
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = new_interpreter();
    swap(main_state, sub);
    PyInterpreterState *address = PyInterpreterState_Get();
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    swap(sub, main_state);
    sub_end(sub);
    check_refused(view);

    /* Others come and go, until one has the dead one's address. */
    bool reused = false;
    for (int i = 0; i < 100 && !reused; i++) {
        PyThreadState *other = new_interpreter();
        reused = PyThreadState_GetInterpreter(other) == address;
        check_refused(view);
        swap(main_state, other);
        check_refused(view);
        /* The newcomer is known to the library too, under views of its own. */
        PyInterpreterView *own = PyInterpreterView_FromCurrent();
        CHECK(own != NULL);
        PyThreadStateToken *token = PyThreadState_EnsureFromView(own);
        CHECK(token != NULL);
        CHECK_PTR(PyThreadState_Get(), other);
        PyThreadState_Release(token);
        PyInterpreterView_Close(own);
        swap(other, main_state);
        py_thread_join(thread_start(check_refused, view));
        sub_end(other);
    }
    printf("address %s\n", reused ? "reused" : "not reused");
    check_refused(view);
    PyInterpreterView_Close(view);
    py_finalize();
}

SCENARIO(dead_subinterpreter_refused_for_ever,
         "A view on a dead interpreter is always refused, also after another took its address")
{
    dead_for_ever(sub_new);
}

// pythons: >=3.12
SCENARIO(dead_isolated_interpreter_refused_for_ever,
         "A view on a dead interpreter is always refused; the same where each has its own GIL")
{
    dead_for_ever(sub_new_isolated);
}

SCENARIO(dead_main_refused, "A view on the main interpreter is refused between two runs of the runtime")
{
    py_init();
    PyInterpreterView *current = PyInterpreterView_FromCurrent();
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    CHECK(current != NULL && main_view != NULL);
    py_finalize();
    check_refused(current);
    check_refused(main_view);
    thread_join(thread_start(check_refused, current));
    thread_join(thread_start(check_refused, main_view));
    PyInterpreterView_Close(current);
    PyInterpreterView_Close(main_view);
}

SCENARIO(refused_without_an_exception,
         "PyInterpreterGuard_FromView, PyThreadState_EnsureFromView: failure sets no exception, and "
         "leaves one alone that was there")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(main_state, sub);
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    swap(sub, main_state);
    sub_end(sub);

    check_refused(view);
    PyErr_SetString(PyExc_KeyError, "mine");
    CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
    CHECK_PTR(PyThreadState_EnsureFromView(view), NULL);
    CHECK_PTR(PyThreadState_Get(), main_state);
    CHECK(PyErr_ExceptionMatches(PyExc_KeyError));
    PyErr_Clear();
    PyInterpreterView_Close(view);
    py_finalize();
}

/* --- Many at once ------------------------------------------------------------------------------ */

static pthread_barrier_t together;

static void make_and_close(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&together);
    for (int i = 0; i < 1000; i++) {
        PyInterpreterView *view = PyInterpreterView_FromMain();
        CHECK(view != NULL);
        PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
        CHECK(guard != NULL);
        PyInterpreterView_Close(view);
        PyInterpreterGuard_Close(guard);
    }
}

SCENARIO(made_by_many_threads, "PyInterpreterView_FromMain: from any thread, also all at once")
{
    enum { THREADS = 8 };
    py_init();
    CHECK_INT(pthread_barrier_init(&together, NULL, THREADS), 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = thread_start(make_and_close, NULL);
    }
    for (int i = 0; i < THREADS; i++) {
        py_thread_join(threads[i]);
    }
    py_finalize();
}
