// A pybind11 module: native threads call a Python function.
#include <pep788/pybind11.hpp> // includes pybind11, and Python.h

#include <events.h>

namespace py = pybind11;

namespace {

py::function *function; // what Python wants called; kept for ever

void call()
{
    try {
        (*function)();
    } catch (py::error_already_set &error) {
        error.discard_as_unraisable("callback");
    }
}

void before(void *)
{
    py::gil_scoped_acquire gil; // may crash, or never come back
    call();                     // so may this
}

void after(void *)
try {
    pep788::gil_scoped_acquire gil;
    call(); // the exit waits for it
} catch (const pep788::interpreter_gone &) {
    // Python is exiting, or gone
}

void start(const py::function &callable, void (*callback)(void *))
{
    function = new py::function(callable);
    events_start(callback, nullptr);
}

} // namespace

PYBIND11_MODULE(client_pybind11, module, py::mod_gil_not_used())
{
    module.def("start_before", [](const py::function &callable) { start(callable, before); });
    module.def("start", [](const py::function &callable) { start(callable, after); });
}
