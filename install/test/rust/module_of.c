/* What module.rs leaves to C: the layout of a module's definition. */

#include <Python.h>

PyObject *module_of(PyMethodDef *methods)
{
    static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "module", .m_size = -1};
    definition.m_methods = methods;
    return PyModule_Create(&definition);
}
