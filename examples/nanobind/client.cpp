// A nanobind module: native threads call a Python function.
//
// nanobind 3.1 has an attachment by PEP 788, for Python 3.15. Before that, compile nanobind itself with
//     -DNB_HAVE_INTERP_VIEW=1 -include pep788.h
// and link with -lpep788. The module is the same, and always asks whether the thread is attached:
// without, the answer is yes, if it ever comes.
#include <nanobind/nanobind.h>

#include <events.h>

namespace nb = nanobind;

namespace {

nb::callable *function; // what Python wants called; kept for ever

void callback(void *)
{
    nb::gil_scoped_acquire gil;
    if (!gil) {
        return; // Python is exiting, or gone
    }
    try {
        (*function)();
    } catch (nb::python_error &error) {
        error.discard_as_unraisable("callback");
    }
}

} // namespace

NB_MODULE(CLIENT, module)
{
    module.def("start", [](const nb::callable &callable) {
        function = new nb::callable(callable);
        events_start(callback, nullptr);
    });
}
