/* A python3 whose interpreter is in the shared libpython, as embedders have it. Debian's own
 * executables carry the interpreter themselves. */
#include <Python.h>

int main(int argc, char **argv)
{
    return Py_BytesMain(argc, argv);
}
