// Threads that are owned, in nanobind.

#include <nanobind/nanobind.h>

namespace toolkit = nanobind;
using callable = toolkit::callable;
using raised = toolkit::python_error;

#include "owner_classes.h"

NB_MODULE(owner_nanobind, module)
{
    define(module);
}
