/* What the library says of itself, whichever dialect. */

#define API_DRAFT
#include "harness.h"

#include "../../include/pep788_doctor.h"

SCENARIO(version, "Pep788_Version is that of the headers it is built with, in words and as a number")
{
    CHECK_INT(strcmp(Pep788_Version(), PEP788_VERSION), 0);
    int major, minor, patch;
    CHECK_INT(sscanf(PEP788_VERSION, "%d.%d.%d", &major, &minor, &patch), 3);
    CHECK_INT(PEP788_VERSION_HEX, major << 24 | minor << 16 | patch << 8);
}

SCENARIO(engine, "Pep788_Engine says who serves the accepted API: the interpreter from 3.15 on, unless PEP788_ENGINE says otherwise")
{
    py_init();
    const char *setting = getenv("PEP788_ENGINE");
    bool is_native = PY_VERSION_HEX >= 0x030F0000 && !(setting != NULL && strcmp(setting, "backport") == 0);
    CHECK_INT(Pep788_Engine(), is_native ? PEP788_ENGINE_NATIVE : PEP788_ENGINE_LIBRARY);
    py_finalize();
    CHECK_INT(Pep788_Engine(), is_native ? PEP788_ENGINE_NATIVE : PEP788_ENGINE_LIBRARY);
}
