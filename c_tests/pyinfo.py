"""What a C program needs to know to embed the Python that runs this file.

Prints `key=value` lines; of a Python before 3.9 just which it is. In a virtual environment the
answers are those of the Python beneath. An embedding program finds its standard library when it is run
with PYTHONHOME set to `home`.
"""

import os
import platform
import re
import sys
import sysconfig

var = sysconfig.get_config_var


def first_with(name, folders):
    """The first of `folders` that holds the file `name`; relocated Pythons record stale ones."""
    for folder in folders:
        if folder and name and os.path.exists(os.path.join(folder, name)):
            return folder
    return None


def unique(items):
    return list(dict.fromkeys(items))


def base_prefixes():
    """PYTHONHOME's value: the prefix, and the platform's prefix where that is another one."""
    return os.pathsep.join(unique([sys.base_prefix, sys.base_exec_prefix]))


def embed_flags():
    """Everything that links a program with this Python in it: shared if it can be, else static."""
    if os.name == "nt":
        return os.path.join(sys.base_prefix, "libs", "python%d%d.lib" % sys.version_info[:2])
    folders = [var("LIBDIR"), os.path.join(sys.base_prefix, "lib"), var("LIBPL")]
    words = "%s %s" % (var("LIBS") or "", var("SYSLIBS") or "")
    # macOS: the word after `-framework` belongs to it.
    system = re.sub(r"-framework\s+", "-Wl,-framework,", words).split()
    shared = first_with(var("LDLIBRARY"), folders) if var("Py_ENABLE_SHARED") else None
    framework = first_with(var("LDLIBRARY"), [var("PYTHONFRAMEWORKPREFIX")]) if is_framework() else None
    if framework:
        flags = [os.path.join(framework, var("LDLIBRARY"))]
    elif shared:
        flags = ["-L" + shared, "-Wl,-rpath," + shared, "-lpython" + ld_version()]
    else:
        archive = first_with(var("LIBRARY"), [var("LIBPL")] + folders)
        flags = [os.path.join(archive or "", var("LIBRARY"))]
    return " ".join(unique(flags + ["-Wl,-export_dynamic" if sys.platform == "darwin" else "-Wl,-export-dynamic"] + system))


def is_framework():
    """macOS: whether the library is a framework, which says that it is not shared."""
    return bool(var("PYTHONFRAMEWORK"))


def ld_version():
    """3.11, with `t` for a free-threaded and `d` for a debug build."""
    return var("LDVERSION") or var("py_version_short") + sys.abiflags


def facts():
    yield "implementation", platform.python_implementation()
    yield "version", platform.python_version()
    yield "hexversion", "0x%08X" % sys.hexversion
    if sys.version_info < (3, 9):
        return  # the rest is spelled for what libpep788 serves
    includes = unique(sysconfig.get_path(kind) for kind in ("include", "platinclude"))
    yield "gil_disabled", int(bool(var("Py_GIL_DISABLED")))
    yield "debug", int(bool(var("Py_DEBUG")))
    yield "shared", int(bool(var("Py_ENABLE_SHARED")) or is_framework() or os.name == "nt")
    yield "has_headers", int(first_with("Python.h", includes) is not None)
    yield "include", includes[0]
    yield "platinclude", includes[-1]
    yield "ext_suffix", var("EXT_SUFFIX")
    yield "executable", os.path.realpath(sys.executable)
    yield "home", base_prefixes()
    yield "cflags", " ".join("-I" + folder for folder in includes)
    yield "ldflags_embed", embed_flags()


if __name__ == "__main__":
    for key, value in facts():
        print("%s=%s" % (key, value))
