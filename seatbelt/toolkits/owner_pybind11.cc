// Threads that are owned, in pybind11.

#include <pybind11/pybind11.h>

namespace toolkit = pybind11;
using callable = toolkit::function;
using raised = toolkit::error_already_set;

#include "owner_classes.h"

PYBIND11_MODULE(owner_pybind11, module)
{
    define(module);
}
