/* Py_FinalizeEx and Py_Initialize again: another run of the runtime, the same process. */

#include "barrier.h"
#include "harness.h"

SCENARIO(main_view_resolves_again,
         "A view on the main interpreter made in one run of the runtime resolves again after "
         "Py_FinalizeEx and Py_Initialize")
{
    py_init();
    PyInterpreterView *current = PyInterpreterView_FromCurrent();
    PyInterpreterView *main_view = PyInterpreterView_FromMain();
    CHECK(current != NULL && main_view != NULL);
    for (int round = 0; round < 4; round++) {
        PyInterpreterView *views[2] = {current, main_view};
        for (int i = 0; i < 2; i++) {
            PyThreadStateToken *token = PyThreadState_EnsureFromView(views[i]);
            CHECK(token != NULL);
            CHECK_PTR(attached_interpreter(), PyInterpreterState_Main());
            run("x = 1");
            PyThreadState_Release(token);
        }
        py_finalize();
        for (int i = 0; i < 2; i++) {
            CHECK_PTR(PyThreadState_EnsureFromView(views[i]), NULL);
        }
        py_init();
    }
    py_finalize();
    PyInterpreterView_Close(current);
    PyInterpreterView_Close(main_view);
}

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

SCENARIO(every_run_waits, "Py_FinalizeEx waits for guards in every run of the runtime")
{
    for (int round = 0; round < 4; round++) {
        py_init();
        PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
        CHECK(guard != NULL);
        at_exit(set_event, &exiting);
        pthread_t thread = thread_start(work_through_the_exit, guard);
        py_finalize();
        log_event("finalized");
        thread_join(thread);
        exiting.happened = false;
    }
    expect_log("worked,finalized,worked,finalized,worked,finalized,worked,finalized");
}

static PyInterpreterView *the_view;
static pthread_barrier_t turn;

/* The same OS thread attaches in one run after the other. */
static void attach_in_every_run(void *unused)
{
    (void)unused;
    for (int round = 0; round < 3; round++) {
        pthread_barrier_wait(&turn);
        PyThreadStateToken *token = PyThreadState_EnsureFromView(the_view);
        CHECK(token != NULL);
        CHECK_INT(eval_long("number"), round);
        PyThreadState_Release(token);
        pthread_barrier_wait(&turn);
        pthread_barrier_wait(&turn);
        CHECK_PTR(PyThreadState_EnsureFromView(the_view), NULL);
        pthread_barrier_wait(&turn);
    }
}

static void py_turn(void)
{
    Py_BEGIN_ALLOW_THREADS
    pthread_barrier_wait(&turn);
    Py_END_ALLOW_THREADS
}

SCENARIO(one_thread_in_every_run, "What a thread remembers of one run does not mislead it in the next")
{
    CHECK_INT(pthread_barrier_init(&turn, NULL, 2), 0);
    the_view = PyInterpreterView_FromMain();
    CHECK(the_view != NULL);
    pthread_t thread = thread_start(attach_in_every_run, NULL);
    for (int round = 0; round < 3; round++) {
        char code[32];
        snprintf(code, sizeof code, "number = %d", round);
        py_init();
        run(code);
        py_turn();
        py_turn();
        py_finalize();
        pthread_barrier_wait(&turn);
        pthread_barrier_wait(&turn);
    }
    thread_join(thread);
    PyInterpreterView_Close(the_view);
}

// native: no, it knows interpreters by numbers, which start again with the runtime
SCENARIO(subinterpreter_views_stay_dead, "A view on a subinterpreter of an earlier run is always refused")
{
    py_init();
    PyThreadState *main_state = PyThreadState_Get();
    PyThreadState *sub = sub_new();
    swap(main_state, sub);
    PyInterpreterView *view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    swap(sub, main_state);
    sub_end(sub);
    py_finalize();
    for (int round = 0; round < 3; round++) {
        py_init();
        PyThreadState *other = sub_new();
        CHECK_PTR(PyThreadState_EnsureFromView(view), NULL);
        CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
        sub_end(other);
        py_finalize();
    }
    PyInterpreterView_Close(view);
}

static PyInterpreterView *late_view;

static void view_in_a_destructor(PyObject *capsule)
{
    (void)capsule;
    late_view = PyInterpreterView_FromCurrent();
    CHECK(late_view != NULL);
}

SCENARIO(a_view_made_in_a_finalizer_names_main_again,
         "The main interpreter is \"main\" also for a view that was made while it was taken apart")
{
    static int anything;
    py_init();
    PyObject *module = PyImport_AddModule("__main__");
    CHECK(module != NULL);
    PyObject *capsule = PyCapsule_New(&anything, NULL, view_in_a_destructor);
    CHECK(capsule != NULL && PyModule_AddObject(module, "capsule", capsule) == 0);
    py_finalize();
    CHECK(late_view != NULL);
    CHECK_PTR(PyInterpreterGuard_FromView(late_view), NULL);
    py_init();
    PyInterpreterGuard *guard = PyInterpreterGuard_FromView(late_view);
    CHECK(guard != NULL);
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(late_view);
    py_finalize();
}
