/*
 * pep788.hpp: guards, views and attaching for C++17, over pep788.h.
 *
 *     pep788::view view = pep788::view::from_current();   // while attached: on import, say
 *
 *     if (pep788::attach attached{view}) {                 // in any thread, at any time
 *         PyRun_SimpleString("...");                       // the exit waits for it
 *     }                                                    // else: Python is exiting, or gone
 *
 * Nothing here throws but what says so; it compiles with -fno-exceptions and -fno-rtti. What fails is empty, and an
 * empty guard or view attaches nothing. The functions behind it are described in pep788.h.
 */

#ifndef PEP788_HPP
#define PEP788_HPP

#include "pep788.h"
#include "pep788_keep.h"

#include <memory>
#include <type_traits>
#include <utility>

/* `attach{view};` lets go at once. Compilers know the attribute on constructors by this version of it. */
#if defined(__has_cpp_attribute)
#if __has_cpp_attribute(nodiscard) >= 201907L
#define PEP788_NODISCARD [[nodiscard]]
#endif
#endif
#ifndef PEP788_NODISCARD
#define PEP788_NODISCARD
#endif

namespace pep788 {

class view;

/**
 * Keeps its interpreter from finalizing for as long as it is there. May be destroyed by any
 * thread, attached or not.
 */
class guard {
public:
    /** An empty guard, which keeps nothing. */
    guard() noexcept = default;

    /** Takes over a guard of the C API; NULL makes an empty one. */
    explicit guard(PyInterpreterGuard *handle) noexcept : handle_(handle) {}

    /**
     * Guards the current interpreter. The caller must have an attached thread state. Empty, with a
     * Python exception, once the interpreter gives no more guards.
     */
    [[nodiscard]] static guard from_current() noexcept
    {
        return guard(PyInterpreterGuard_FromCurrent());
    }

    guard(guard &&other) noexcept : handle_(other.release()) {}

    guard &operator=(guard &&other) noexcept
    {
        guard(std::move(other)).swap(*this);
        return *this;
    }

    ~guard()
    {
        if (handle_ != nullptr) {
            PyInterpreterGuard_Close(handle_);
        }
    }

    explicit operator bool() const noexcept { return handle_ != nullptr; }

    /** The guard for the C API; NULL if empty. It stays this object's. */
    [[nodiscard]] PyInterpreterGuard *get() const noexcept { return handle_; }

    /** Gives up the guard without closing it, to be closed by the caller. */
    [[nodiscard]] PyInterpreterGuard *release() noexcept { return std::exchange(handle_, nullptr); }

    void swap(guard &other) noexcept { std::swap(handle_, other.handle_); }

private:
    PyInterpreterGuard *handle_ = nullptr;
};

/**
 * Names an interpreter without keeping it from finalizing. May be used and destroyed by any thread,
 * attached or not, also after the interpreter is gone.
 */
class view {
public:
    /** An empty view, which is refused by everything. */
    view() noexcept = default;

    /** Takes over a view of the C API; NULL makes an empty one. */
    explicit view(PyInterpreterView *handle) noexcept : handle_(handle) {}

    /**
     * A view of the current interpreter. The caller must have an attached thread state. Empty, with
     * a Python exception, only when out of memory.
     */
    [[nodiscard]] static view from_current() noexcept
    {
        return view(PyInterpreterView_FromCurrent());
    }

    /**
     * A view of the main interpreter, for any thread at any time. Empty only when out of memory.
     * Code that uses it cannot work in subinterpreters.
     */
    [[nodiscard]] static view from_main() noexcept { return view(PyInterpreterView_FromMain()); }

    view(view &&other) noexcept : handle_(other.release()) {}

    view &operator=(view &&other) noexcept
    {
        view(std::move(other)).swap(*this);
        return *this;
    }

    ~view()
    {
        if (handle_ != nullptr) {
            PyInterpreterView_Close(handle_);
        }
    }

    explicit operator bool() const noexcept { return handle_ != nullptr; }

    /** A guard on the interpreter; empty if that is finalizing or gone. */
    [[nodiscard]] pep788::guard lock() const noexcept
    {
        return pep788::guard(handle_ != nullptr ? PyInterpreterGuard_FromView(handle_) : nullptr);
    }

    /** The view for the C API; NULL if empty. It stays this object's. */
    [[nodiscard]] PyInterpreterView *get() const noexcept { return handle_; }

    /** Gives up the view without closing it, to be closed by the caller. */
    [[nodiscard]] PyInterpreterView *release() noexcept { return std::exchange(handle_, nullptr); }

    void swap(view &other) noexcept { std::swap(handle_, other.handle_); }

private:
    PyInterpreterView *handle_ = nullptr;
};

/**
 * Attaches the calling thread to an interpreter, for as long as it is there; then exactly what was
 * attached before is attached again. Whether it succeeded must be asked of it.
 *
 * To be destroyed in the same thread, the latest first; so it can be moved out of a function, but
 * not assigned to. Python objects that the scope owns must go before it does.
 */
class [[nodiscard]] attach {
public:
    /** The guard must stay until this is destroyed. Fails only if it is empty or memory is out. */
    PEP788_NODISCARD explicit attach(const guard &held) noexcept
        : token_(held ? PyThreadState_Ensure(held.get()) : nullptr)
    {
    }

    /** A guard that is gone at once guards nothing. */
    explicit attach(guard &&) = delete;

    /**
     * Guards the interpreter until this is destroyed; the view need not stay. Fails if the
     * interpreter is finalizing or gone.
     */
    PEP788_NODISCARD explicit attach(const view &interpreter) noexcept
        : token_(interpreter ? PyThreadState_EnsureFromView(interpreter.get()) : nullptr)
    {
    }

    attach(attach &&other) noexcept : token_(std::exchange(other.token_, nullptr)) {}
    attach &operator=(attach &&) = delete;

    ~attach()
    {
        if (token_ != nullptr) {
            PyThreadState_Release(token_);
        }
    }

    /** Whether the thread is attached by this. */
    explicit operator bool() const noexcept { return token_ != nullptr; }

private:
    PyThreadStateToken *token_;
};

/**
 * The calling thread keeps the thread state that an attach makes for it, until the thread ends or this is called with
 * false: pep788_keep.h says what that means. Gives whether it does.
 */
inline bool keep(bool on = true) noexcept
{
    return Pep788_KeepThreadState(on) == 0;
}

/**
 * Has something that has Python objects, for threads that may be refused: a py::object, a nb::object, a
 * std::function around one, a PyObject * (whose reference it takes over). It may be let go of by any thread,
 * attached or not, also after the interpreter is gone.
 *
 *     std::thread([callback = pep788::kept{std::move(function)}] {
 *         pep788::attach attached{callback.interpreter()};
 *         if (attached) {
 *             (*callback)();
 *         }
 *     });
 *
 * What it has is destroyed attached to the interpreter in which this was made. Where that is refused, it is left
 * as it is: the objects go with the process, as others do that are there when the interpreter ends.
 *
 * Copies have the same thing, and the last one destroys it. Not for one that holds a lock which other threads take
 * while attached: to destroy it may wait for them.
 */
template <typename T> class kept {
public:
    /** The caller must have an attached thread state. Throws what `new` and the move of T throw, and nothing else. */
    explicit kept(T value)
        : interpreter_(std::make_shared<const view>(view::from_current())),
          value_(new T(std::move(value)), destroy{interpreter_})
    {
    }

    /** What it has. For Python objects in it the caller must be attached to their interpreter. */
    [[nodiscard]] T &operator*() const noexcept { return *value_; }
    [[nodiscard]] T *operator->() const noexcept { return value_.get(); }

    /** The interpreter in which this was made. */
    [[nodiscard]] const view &interpreter() const noexcept { return *interpreter_; }

private:
    struct destroy {
        std::shared_ptr<const view> interpreter;

        void operator()(T *value) const noexcept
        {
            attach attached{*interpreter};
            if (!attached) {
                return;
            }
            if constexpr (std::is_same_v<T, PyObject *>) {
                Py_XDECREF(*value);
            }
            delete value;
        }
    };

    std::shared_ptr<const view> interpreter_;
    std::shared_ptr<T> value_;
};

} // namespace pep788

#endif /* PEP788_HPP */
