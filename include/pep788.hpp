/*
 * pep788.hpp: guards, views and attaching for C++17, over pep788.h.
 *
 *     pep788::view view = pep788::view::from_current();   // while attached: on import, say
 *
 *     if (pep788::attach attached{view}) {                 // in any thread, at any time
 *         PyRun_SimpleString("...");                       // the exit waits for it
 *     }                                                    // else: Python is exiting, or gone
 *
 * Nothing here throws; it compiles with -fno-exceptions and -fno-rtti. What fails is empty, and an
 * empty guard or view attaches nothing. The functions behind it are described in pep788.h.
 */

#ifndef PEP788_HPP
#define PEP788_HPP

#include "pep788.h"

#include <utility>

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
    explicit attach(const guard &held) noexcept
        : token_(held ? PyThreadState_Ensure(held.get()) : nullptr)
    {
    }

    /** A guard that is gone at once guards nothing. */
    explicit attach(guard &&) = delete;

    /**
     * Guards the interpreter until this is destroyed; the view need not stay. Fails if the
     * interpreter is finalizing or gone.
     */
    explicit attach(const view &interpreter) noexcept
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

} // namespace pep788

#endif /* PEP788_HPP */
