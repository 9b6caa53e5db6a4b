/* Where the library has no seatbelt: see `C_SUITE_UNPROTECTED`. */

#include "handles.h"
#include "pep788_gilstate.h"

/* Programs that are linked with the interpreter's own functions alone have no such function. */
#ifndef _WIN32
#pragma weak Pep788_ProtectGILState
#endif

// expect: stderr "cannot be protected here: the library redirects functions on Linux on x86-64 and aarch64 only, and was built for "
// native: no, it has no such function
SCENARIO(refuses_to_protect, "Pep788_ProtectGILState fails, says why, and leaves everything as it was")
{
    py_init();
    CHECK_INT(Pep788_ProtectGILState(), -1);
    PyGILState_STATE state = PyGILState_Ensure();
    CHECK_INT(state, PyGILState_LOCKED);
    PyGILState_Release(state);
    py_finalize();
}

// env: PEP788_GILSTATE=protect
// expect: stderr "cannot be protected here: the library redirects functions on Linux on x86-64 and aarch64 only, and was built for "
// native: no, it has no such function
SCENARIO(refuses_by_the_environment, "With PEP788_GILSTATE=protect it says so too, and the program goes on")
{
    py_init();
    PyInterpreterGuard_Close(guard_here());
    py_finalize();
}
