/* C++: the report has names as they are written. */

#include "report.h"

#include <thread>

namespace app {

PyInterpreterGuard *guard;

__attribute__((noinline))
void take_for(int)
{
    guard = PyInterpreterGuard_FromCurrent();
    CHECK(guard != nullptr);
}

}  // namespace app

// env: PEP788_WAIT_WARN_MS=1
// env: PEP788_TRACE=1
// native: no, its exit waits in silence
// musl: no, zig has the C++ library in the program, where the library does not find the function that knows how names are written
// windows: no, only exported functions have names there
SCENARIO(trace_demangles, "With PEP788_TRACE=1, functions of C++ are named as they are written")
{
    py_init();
    app::take_for(1);
    capture_stderr();
    /* Not the harness's: the C++ library, which knows how names are written, is to be linked. */
    std::thread reader([] {
        read_report(END_TRACED);
        PyInterpreterGuard_Close(app::guard);
    });
    py_finalize();
    reader.join();
    release_stderr();
    CHECK_SAYS(" app::take_for(int) (report_names)\n");
}
