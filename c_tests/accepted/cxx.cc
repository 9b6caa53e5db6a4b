/* pep788.hpp: guards, views and attaching for C++. What they attach to and wait for is the C API's; here
 * is who owns what. */

#include "harness.h"

#include "../../include/pep788.hpp" /* also where the library is not linked */

#ifndef _WIN32
#pragma weak Pep788_KeepThreadState
#endif

#include <memory>
#include <thread>
#include <type_traits>

template <typename T>
constexpr bool moves_only = std::is_nothrow_move_constructible_v<T> && !std::is_copy_constructible_v<T> &&
                            !std::is_copy_assignable_v<T>;

static_assert(moves_only<pep788::guard> && std::is_nothrow_move_assignable_v<pep788::guard>);
static_assert(moves_only<pep788::view> && std::is_nothrow_move_assignable_v<pep788::view>);
static_assert(moves_only<pep788::attach> && !std::is_move_assignable_v<pep788::attach>);
static_assert(std::is_constructible_v<pep788::attach, const pep788::guard &>);
static_assert(!std::is_constructible_v<pep788::attach, pep788::guard>, "such a guard would be gone at once");
static_assert(std::is_constructible_v<pep788::attach, pep788::view>);
static_assert(!std::is_convertible_v<pep788::attach, bool>);

SCENARIO(a_guard_is_closed_where_it_ends_up, "pep788::guard: moving keeps it; the last owner closes it")
{
    py_init();
    pep788::guard first = pep788::guard::from_current();
    CHECK(first);
    pep788::guard second = std::move(first);
    CHECK(!first);
    pep788::guard third;
    CHECK(!third);
    third = std::move(second);
    CHECK(!second);
    CHECK(third);
    std::thread thread([guard = std::move(third)] {
        log_event("guarded");
        pep788::attach attached{guard};
        CHECK(attached);
        run("x = 1");
        log_event("done");
    });
    /* Waits for the guard, which is in the thread. */
    py_finalize();
    log_event("finalized");
    thread.join();
    expect_log("guarded,done,finalized");
}

SCENARIO(assigning_closes_the_old_one, "pep788::guard, pep788::view: assigning closes what was there")
{
    py_init();
    pep788::guard guard = pep788::guard::from_current();
    guard = pep788::guard::from_current();
    guard = pep788::guard();
    pep788::view view = pep788::view::from_main();
    view = pep788::view::from_current();
    CHECK(view);
    view = pep788::view();
    CHECK(!view);
    /* Nothing is left to wait for. */
    py_finalize();
}

SCENARIO(handles_of_the_c_api, "pep788::guard, pep788::view: get, release and taking over")
{
    py_init();
    PyInterpreterView *c_view = PyInterpreterView_FromCurrent();
    pep788::view view{c_view};
    CHECK_PTR(view.get(), c_view);
    pep788::guard guard = view.lock();
    CHECK(guard);
    PyInterpreterGuard *c_guard = guard.release();
    CHECK(!guard);
    CHECK(c_guard != nullptr);
    PyInterpreterGuard_Close(c_guard);
    CHECK_PTR(view.release(), c_view);
    CHECK(!view);
    PyInterpreterView_Close(c_view);
    py_finalize();
}

SCENARIO(empty_ones_attach_nothing, "pep788::attach: an empty guard or view attaches nothing")
{
    py_init();
    PyThreadState *state = attached();
    CHECK(!pep788::attach{pep788::view()});
    pep788::guard guard;
    CHECK(!pep788::attach{guard});
    CHECK(!pep788::view().lock());
    CHECK_PTR(attached(), state);
    py_finalize();
}

static pep788::attach attach_here(const pep788::view &view)
{
    pep788::attach attached{view};
    CHECK(attached);
    return attached;
}

SCENARIO(attached_for_the_scope, "pep788::attach: what was attached before is attached again, also after a move")
{
    py_init();
    pep788::view view = pep788::view::from_current();
    std::thread thread([&view] {
        CHECK_PTR(attached(), nullptr);
        {
            pep788::attach outer = attach_here(view);
            CHECK(outer);
            PyThreadState *state = attached();
            CHECK(state != nullptr);
            {
                pep788::guard guard = view.lock();
                pep788::attach inner{guard};
                CHECK_PTR(attached(), state);
            }
            CHECK_PTR(attached(), state);
            pep788::attach moved = std::move(outer);
            CHECK(moved);
            CHECK(!outer);
            CHECK_PTR(attached(), state);
        }
        CHECK_PTR(attached(), nullptr);
    });
    Py_BEGIN_ALLOW_THREADS
    thread.join();
    Py_END_ALLOW_THREADS
    py_finalize();
}

SCENARIO(scopes_that_end_in_another_order, "pep788::attach: two coroutines of a thread may end in the order in which they began")
{
    py_init();
    std::thread thread([view = pep788::view::from_current()] {
        pep788::attach outermost(view);
        PyThreadState *state = PyThreadState_Get();
        auto first = std::make_unique<pep788::attach>(view);
        auto second = std::make_unique<pep788::attach>(view);
        CHECK(outermost && *first && *second);
        first.reset();
        CHECK_PTR(PyThreadState_Get(), state);
        run("x = 1");
        second.reset();
        CHECK_PTR(PyThreadState_Get(), state);
    });
    Py_BEGIN_ALLOW_THREADS
    thread.join();
    Py_END_ALLOW_THREADS
    CHECK_INT(count_thread_states(), 1);
    py_finalize();
}

SCENARIO(refused_when_python_is_gone, "pep788::view: refuses when the interpreter is gone, and may outlive it")
{
    py_init();
    pep788::view view = pep788::view::from_current();
    py_finalize();
    CHECK(!view.lock());
    CHECK(!pep788::attach{view});
}

/* --- What outlives a refusal ---------------------------------------------------------------------- */

namespace {

/* As py::object and nb::object do: to be destroyed while attached, by whoever has it last. */
class owning {
public:
    explicit owning(PyObject *object) : object_(object) {}
    owning(owning &&other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    owning &operator=(owning &&) = delete;

    ~owning()
    {
        if (object_ != nullptr) {
            CHECK(attached() != nullptr);
            Py_DECREF(object_);
            log_event("destroyed");
        }
    }

    PyObject *get() const { return object_; }

private:
    PyObject *object_;
};

event exiting = EVENT_INIT;

} // namespace

SCENARIO(kept_is_destroyed_attached, "pep788::kept: the last one lets go of what it has, attached to its interpreter, in any thread")
{
    py_init();
    PyObject *object = PyList_New(0);
    Py_INCREF(object);
    std::thread thread([first = pep788::kept{owning{object}}] {
        auto second = first;
        {
            pep788::attach attached{second.interpreter()};
            CHECK(attached);
            CHECK_INT(PyList_Size(second->get()), 0);
            CHECK_PTR((*first).get(), second->get());
        }
        CHECK_PTR(attached(), nullptr);
        log_event("done");
    });
    Py_BEGIN_ALLOW_THREADS
    thread.join();
    Py_END_ALLOW_THREADS
    expect_log("done,destroyed");
#ifndef Py_GIL_DISABLED     /* there the decrement of another thread comes later */
    CHECK_INT(Py_REFCNT(object), 1);
#endif
    Py_DECREF(object);
    py_finalize();
}

SCENARIO(kept_of_a_reference, "pep788::kept: of a PyObject * it has the reference")
{
    py_init();
    PyObject *object = PyList_New(0);
    Py_INCREF(object);
    {
        pep788::kept<PyObject *> reference{object};
        CHECK_PTR(*reference, object);
        CHECK_INT(Py_REFCNT(object), 2);
        pep788::kept<PyObject *> none{nullptr};
    }
    CHECK_INT(Py_REFCNT(object), 1);
    Py_DECREF(object);
    py_finalize();
}

// env: PEP788_DRAIN_GRACE_MS=0
SCENARIO(kept_outlives_a_refusal, "pep788::kept: where its interpreter refuses, what it has is left as it is")
{
    py_init();
    std::thread thread([held = pep788::kept{owning{PyList_New(0)}}, reference = pep788::kept<PyObject *>{PyList_New(0)}] {
        event_wait(&exiting);
        pep788::attach attached{held.interpreter()};
        CHECK(!attached);
        log_event("refused");
    });
    py_finalize();
    event_set(&exiting);
    thread.join();
    expect_log("refused");
}

// pythons: <3.15
SCENARIO(a_thread_keeps_its_thread_state, "pep788::keep: a thread finds in a threading.local what it has put there")
{
    py_init();
    pep788::view view = pep788::view::from_current();
    run("import threading; local = threading.local()");
    std::thread thread([&view] {
        CHECK(pep788::keep());
        for (int i = 0; i < 3; i++) {
            pep788::attach attached{view};
            CHECK(attached);
            run(i == 0 ? "local.x = 1" : "assert local.x == 1");
        }
        CHECK(pep788::keep(false));
        pep788::attach attached{view};
        CHECK(attached);
        run("assert not hasattr(local, 'x')");
    });
    Py_BEGIN_ALLOW_THREADS
    thread.join();
    Py_END_ALLOW_THREADS
    py_finalize();
}
