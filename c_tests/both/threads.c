/* Both dialects in eight threads at once. */
// sources: _draft.c

#include "harness.h"

#include "_draft.h"

#include <stdatomic.h>

enum { THREADS = 8, ROUNDS = 200 };

static event exiting = EVENT_INIT;

static PyInterpreterGuard *guard;
static PyInterpreterView *view;
static void *ref;
static void *wref;

static void take_all(void)
{
    guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != NULL);
    view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    ref = draft_ref();
    wref = draft_weak_ref();
}

static void start_all(pthread_t threads[THREADS], void (*body)(void *))
{
    static int numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        threads[i] = thread_start(body, &numbers[i]);
    }
}

/* --- Taking turns ---------------------------------------------------------------------------------- */

static void count_one(PyThreadState *same)
{
    CHECK_PTR(PyThreadState_Get(), same);
    run("counts.append(sum(range(20)))");
}

static void outer_is_accepted(void)
{
    PyThreadStateToken *outer = PyThreadState_Ensure(guard);
    CHECK(outer != NULL);
    PyThreadState *state = PyThreadState_Get();
    count_one(state);
    draft_ensure(ref);
    PyThreadStateToken *inner = PyThreadState_EnsureFromView(view);
    CHECK(inner != NULL);
    count_one(state);
    PyThreadState_Release(inner);
    draft_release();
    CHECK_PTR(PyThreadState_Get(), state);
    PyThreadState_Release(outer);
}

static void outer_is_draft(void)
{
    void *own = draft_as_strong(wref);
    CHECK(own != NULL);
    draft_ensure(own);
    draft_close(own);
    PyThreadState *state = PyThreadState_Get();
    count_one(state);
    PyThreadStateToken *inner = PyThreadState_EnsureFromView(view);
    CHECK(inner != NULL);
    draft_ensure(ref);
    count_one(state);
    draft_release();
    PyThreadState_Release(inner);
    CHECK_PTR(PyThreadState_Get(), state);
    draft_release();
}

static void take_turns(void *number)
{
    for (int i = 0; i < ROUNDS; i++) {
        if ((*(int *)number + i) % 2 == 0) {
            outer_is_accepted();
        } else {
            outer_is_draft();
        }
        CHECK_PTR(PyGILState_GetThisThreadState(), NULL);
    }
}

SCENARIO(take_turns_in_eight_threads, "Ensures of both dialects nest and are released properly in many threads")
{
    py_init();
    run("import sys\n"
        "sys.setswitchinterval(1e-5)\n"
        "counts = []");
    take_all();
    pthread_t threads[THREADS];
    start_all(threads, take_turns);
    for (int i = 0; i < THREADS; i++) {
        py_thread_join(threads[i]);
    }
    CHECK_INT(eval_long("len(counts)"), 2 * THREADS * ROUNDS);
    CHECK_INT(count_thread_states(), 1);
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(view);
    draft_close(ref);
    draft_weak_close(wref);
    /* Would hang if one of all these was still held. */
    py_finalize();
}

/* --- Hand over hand ---------------------------------------------------------------------------------- */

struct held {
    PyInterpreterGuard *guard;
    void *ref;
};

/* Holds the interpreter without a break: each is taken inside an Ensure of the one before. */
static void hand_over_hand(void *argument)
{
    struct held *held = argument;
    event_wait(&exiting);
    for (int i = 0; i < ROUNDS; i++) {
        PyThreadStateToken *token = PyThreadState_Ensure(held->guard);
        CHECK(token != NULL);
        held->ref = draft_ref();
        run("x = sum(range(20))");
        PyThreadState_Release(token);
        PyInterpreterGuard_Close(held->guard);

        draft_ensure(held->ref);
        held->guard = PyInterpreterGuard_FromCurrent();
        CHECK(held->guard != NULL);
        run("x = sum(range(20))");
        draft_release();
        draft_close(held->ref);
    }
    log_event("done");
    PyInterpreterGuard_Close(held->guard);
}

// env: PEP788_DRAIN_GRACE_MS=0
// native: no, it counts its guards apart from our references
SCENARIO(hand_over_hand_through_the_exit,
         "The exit waits for as long as some thread holds the interpreter, now by a guard and now by a reference")
{
    py_init();
    struct held held[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        held[i].guard = PyInterpreterGuard_FromCurrent();
        CHECK(held[i].guard != NULL);
        threads[i] = thread_start(hand_over_hand, &held[i]);
    }
    at_exit(set_event, &exiting);
    py_finalize();
    CHECK_INT(log_count("done"), THREADS);
    for (int i = 0; i < THREADS; i++) {
        thread_join(threads[i]);
    }
}

/* --- Until they are refused --------------------------------------------------------------------------- */

static atomic_int inside;
static event all_inside = EVENT_INIT;

static void been_inside(bool *before)
{
    if (!*before && atomic_fetch_add(&inside, 1) + 1 == THREADS) {
        event_set(&all_inside);
    }
    *before = true;
}

static void knock(void *number)
{
    bool been = false;
    if (*(int *)number % 2 == 0) {
        PyThreadStateToken *token;
        while ((token = PyThreadState_EnsureFromView(view)) != NULL) {
            run("x = sum(range(20))");
            PyThreadState_Release(token);
            been_inside(&been);
        }
    } else {
        void *own;
        while ((own = draft_as_strong(wref)) != NULL) {
            draft_ensure(own);
            run("x = sum(range(20))");
            draft_release();
            draft_close(own);
            been_inside(&been);
        }
    }
    /* What one dialect is refused, the other is not given either. */
    CHECK_PTR(PyInterpreterGuard_FromView(view), NULL);
    CHECK_PTR(draft_as_strong(wref), NULL);
    CHECK_PTR(draft_main(), NULL);
    CHECK_PTR(attached(), NULL);
}

// native: no, threads that knock without a pause keep its exit from ever seeing the count at zero
// env: PEP788_DRAIN_GRACE_MS=50
// repeat: 5
SCENARIO(knock_until_refused, "An exit while eight threads knock in both dialects comes to its end, and they are refused in both")
{
    py_init();
    view = PyInterpreterView_FromCurrent();
    CHECK(view != NULL);
    wref = draft_weak_ref();
    pthread_t threads[THREADS];
    start_all(threads, knock);
    py_event_wait(&all_inside);
    py_finalize();
    for (int i = 0; i < THREADS; i++) {
        thread_join(threads[i]);
    }
    PyInterpreterView_Close(view);
    draft_weak_close(wref);
}
