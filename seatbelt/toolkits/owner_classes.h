// Threads that are owned, for toolkits that are alike: `toolkit` is the namespace of one, `callable` its type of functions, and
// `raised` that of what a Python exception becomes.

#include "owner.h"

namespace {

// As nanobind asks for from its version 3 on, which is refused by a Python that has PEP 788.
template <typename Acquired> auto is_attached(const Acquired &acquired, int) -> decltype(acquired.is_valid())
{
    return acquired.is_valid();
}

template <typename Acquired> bool is_attached(const Acquired &, long)
{
    return true;
}

std::function<void()> calling(const callable &callback)
{
    // Never given back: its threads may have the last reference.
    PyObject *function = callable(callback).release().ptr();
    return [function] {
        toolkit::gil_scoped_acquire acquired;
        if (!is_attached(acquired, 0)) {
            return;
        }
        try {
            toolkit::handle{function}();
        } catch (raised &) {
        }
    };
}

class Object {
public:
    Object(const callable &callback, int threads) { owner_.start(calling(callback), threads); }

    ~Object()
    {
        toolkit::gil_scoped_release released;
        owner_.stop();
    }

private:
    Owner owner_;
};

// Destroyed after Python's end, unless it was stopped before.
Owner owner;

void detach_for_ever() noexcept
{
    for (;;) {
        toolkit::gil_scoped_release released;
        usleep(20);
    }
}

template <typename Module> void define(Module &module)
{
    toolkit::class_<Object>(module, "Owner").def(toolkit::init<callable, int>());
    module.def("start", [](const callable &callback, int threads) { owner.start(calling(callback), threads); });
    module.def("stop", [] { owner.stop(); }, toolkit::call_guard<toolkit::gil_scoped_release>());
    module.def("detach_for_ever", detach_for_ever);
}

} // namespace
