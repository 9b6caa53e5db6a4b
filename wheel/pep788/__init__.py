"""libpep788, for builds of extension modules: where its headers and its library are.

    cc -shared -fPIC $(python -m pep788 --cflags --libs --static) ...
    Extension(..., extra_compile_args=pep788.get_compile_args(), extra_link_args=pep788.get_link_args(static=True))
    python -m pep788 doctor

And protection for extensions that call PyGILState_Ensure:

    python -m pep788 run app.py ...
    PEP788_GILSTATE=protect python app.py ...
"""

import os as _os
from pathlib import Path as _Path

__all__ = [
    "get_cmake_dir", "get_compile_args", "get_include", "get_library", "get_library_dir", "get_link_args", "get_pkgconfig_dir",
    "protect_gilstate",
]

_folder = _Path(__file__).resolve().parent
_is_windows = _os.name == "nt"

if _is_windows:
    # Extensions that are linked with the shared library find it, once this package is imported.
    _os.add_dll_directory(str(_folder / "lib"))


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError("module 'pep788' has no attribute %r" % name)
    # Not at every start of Python: see _at_start.py.
    from importlib.metadata import version

    return version("pep788")


def get_include() -> str:
    """The folder of `pep788.h`."""
    return str(_folder / "include")


def get_library_dir() -> str:
    """The folder of the shared library and of the static one, `libpep788.a`."""
    return str(_folder / "lib")


def get_library() -> str:
    """The shared library: `libpep788.so`, or `pep788.dll` on Windows."""
    return str(_folder / "lib" / ("pep788.dll" if _is_windows else "libpep788.so"))


def get_pkgconfig_dir() -> str:
    """For PKG_CONFIG_PATH: the folder of `pep788.pc` and `pep788-static.pc`."""
    return str(_folder / "lib" / "pkgconfig")


def get_cmake_dir() -> str:
    """For `pep788_DIR`: the folder of the CMake package."""
    return str(_folder / "lib" / "cmake" / "pep788")


def get_compile_args() -> list[str]:
    """For `extra_compile_args` of a setuptools `Extension`: what `python -m pep788 --cflags` prints."""
    return ["-I" + get_include()]


def get_link_args(static: bool = False) -> list[str]:
    """For `extra_link_args`: of the shared library; or, for a copy of the library inside the extension, of the static one."""
    folder = get_library_dir()
    if _is_windows:
        return _get_link_args_of_windows(static)
    if not static:
        return ["-L" + folder, "-Wl,-rpath," + folder, "-lpep788"]
    with open(_Path(get_pkgconfig_dir()) / "pep788-static.pc") as package:
        libs = next(line for line in package if line.startswith("Libs:"))
    return libs.replace("${libdir}", folder).split()[1:]


def _get_link_args_of_windows(static: bool) -> list[str]:
    """By file, which both compilers take: that of Microsoft, and mingw's. The static library is for mingw."""
    folder = _folder / "lib"
    if not static:
        return [str(folder / "pep788.lib")]
    return [str(folder / "libpep788.a"), "-Wl,--exclude-all-symbols", "-lkernel32", "-lntdll", "-lsynchronization"]


def protect_gilstate() -> None:
    """Has the library serve PyGILState_Ensure and PyGILState_Release from now on, in this process.

    Threads inside them are then waited for when Python exits, for PEP788_GILSTATE_WAIT_MS at most, and later ones
    are ended instead of crashing. RuntimeError: it cannot be done here; stderr says why.
    """
    import ctypes

    # Attached, as it has to be.
    if ctypes.PyDLL(get_library()).Pep788_ProtectGILState() != 0:
        raise RuntimeError("PyGILState_Ensure cannot be protected in this process; stderr says why")
