"""`python -m pep788`: flags for compilers and linkers, the doctor; `run app.py ...`, with PyGILState_Ensure protected."""

import argparse
import ctypes
import os
import subprocess
import sys

import pep788


def main() -> None:
    if sys.argv[1:2] == ["run"]:
        run(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m pep788", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["doctor"],
                        help="says who serves PEP 788 to this Python, and with which settings")
    parser.add_argument("--cflags", action="store_true", help="flags for the compiler")
    parser.add_argument("--libs", action="store_true", help="flags for the linker")
    parser.add_argument("--static", action="store_true",
                        help="with --libs: for a copy of the library inside the extension")
    parser.add_argument("--pkgconfigdir", action="store_true", help="for PKG_CONFIG_PATH")
    parser.add_argument("--cmakedir", action="store_true", help="for pep788_DIR")
    parser.add_argument("--version", action="version", version=pep788.__version__)
    asked = parser.parse_args()
    if asked.command:
        doctor()
        return
    words: list[str] = []
    if asked.cflags:
        words.append("-I" + pep788.get_include())
    if asked.libs or asked.static:
        words += static_libs() if asked.static else shared_libs()
    if asked.pkgconfigdir:
        words.append(pep788.get_pkgconfig_dir())
    if asked.cmakedir:
        words.append(pep788.get_cmake_dir())
    if not words:
        parser.error("nothing is asked for")
    print(*words)


def run(words: list[str]) -> None:
    """Becomes `python app.py ...`, with the library loaded before Python runs. Its children have it too."""
    if not words:
        sys.exit("usage: python -m pep788 run app.py ...")
    library = os.path.join(pep788.get_library_dir(), "libpep788.so")
    preloaded = [library, *filter(None, [os.environ.get("LD_PRELOAD")])]
    environment = dict(os.environ, LD_PRELOAD=":".join(preloaded), PEP788_GILSTATE="protect")
    # The options that this interpreter was started with, as for children of `multiprocessing`.
    options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    os.execve(sys.executable, [sys.executable, *options, *words], environment)


def shared_libs() -> list[str]:
    folder = pep788.get_library_dir()
    return ["-L" + folder, "-Wl,-rpath," + folder, "-lpep788"]


def static_libs() -> list[str]:
    """As in the pkg-config file."""
    with open(os.path.join(pep788.get_pkgconfig_dir(), "pep788-static.pc")) as package:
        libs = next(line for line in package if line.startswith("Libs:"))
    return libs.replace("${libdir}", pep788.get_library_dir()).split()[1:]


def doctor() -> None:
    """Uses the library once, and has it tell about itself."""
    path = os.path.join(pep788.get_library_dir(), "libpep788.so")
    library = ctypes.PyDLL(path)
    library.PyInterpreterGuard_FromCurrent.restype = ctypes.c_void_p
    guard = ctypes.c_void_p(library.PyInterpreterGuard_FromCurrent())
    library.PyInterpreterGuard_Close(guard)
    library.Pep788_Doctor.restype = ctypes.c_size_t
    size = library.Pep788_Doctor(None, ctypes.c_size_t(0)) + 1
    text = ctypes.create_string_buffer(size)
    library.Pep788_Doctor(text, ctypes.c_size_t(size))
    print("library: " + path)
    print(text.value.decode(), end="")


main()
