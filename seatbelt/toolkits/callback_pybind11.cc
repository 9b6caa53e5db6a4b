// A module in pybind11 whose threads call back.

#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdio>
#include <thread>

namespace {

std::atomic<long> begun, ended;
PyObject *python_function;

void call() noexcept
{
    pybind11::gil_scoped_acquire acquired;
    begun++;
    pybind11::handle{python_function}();
    ended++;
}

__attribute__((destructor)) void count()
{
    std::fprintf(stderr, "lost %ld\n", begun - ended);
}

} // namespace

PYBIND11_MODULE(callback_pybind11, module)
{
    module.def("start", [](pybind11::object callback, int threads) {
        python_function = callback.release().ptr();
        while (threads-- > 0) {
            std::thread([] {
                for (;;) {
                    call();
                }
            }).detach();
        }
    });
}
