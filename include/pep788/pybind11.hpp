/*
 * pep788/pybind11.hpp: pybind11's gil_scoped_acquire, for threads that outlive the interpreter.
 *
 *     using pep788::gil_scoped_acquire;        // instead of py::gil_scoped_acquire
 *
 * pybind11's own, where its headers use it (in a std::function that holds a Python callable, say),
 * finds the thread attached inside such a scope, and leaves it alone. Outside of one it does not: whoever may be refused
 * has such a function, or a py::object, in a pep788::kept, or its destructor may crash.
 */

#ifndef PEP788_PYBIND11_HPP
#define PEP788_PYBIND11_HPP

#include "../pep788.hpp"

#include <pybind11/pybind11.h>

#include <new>
#include <stdexcept>

namespace pep788 {

/** What gil_scoped_acquire throws where Python can no longer be called. */
class interpreter_gone : public std::runtime_error {
public:
    interpreter_gone() : std::runtime_error("the Python interpreter is exiting, or gone") {}
};

/**
 * Attaches the calling thread for as long as it is there, and keeps the interpreter from finalizing
 * meanwhile.
 *
 * Once the interpreter is exiting or gone, code that does not ask must not go on: the constructors
 * throw interpreter_gone. Given std::nothrow they do not; whether they succeeded must be asked then.
 * Without a view they attach to the main interpreter, as pybind11's own does in most extensions.
 */
class gil_scoped_acquire {
public:
    gil_scoped_acquire() : gil_scoped_acquire(main_view()) {}

    explicit gil_scoped_acquire(const view &interpreter) : attached_(interpreter)
    {
        if (!attached_) {
            throw interpreter_gone();
        }
    }

    explicit gil_scoped_acquire(std::nothrow_t) noexcept : attached_(main_view()) {}
    gil_scoped_acquire(const view &interpreter, std::nothrow_t) noexcept : attached_(interpreter) {}

    gil_scoped_acquire(const gil_scoped_acquire &) = delete;
    gil_scoped_acquire &operator=(const gil_scoped_acquire &) = delete;

    /** Whether the thread is attached. */
    explicit operator bool() const noexcept { return static_cast<bool>(attached_); }

private:
    /** Never closed: threads may ask for it while static objects are destroyed. */
    static const view &main_view() noexcept
    {
        static const view &kept = *new view(view::from_main());
        return kept;
    }

    attach attached_;
};

} // namespace pep788

#endif /* PEP788_PYBIND11_HPP */
