"""libpep788, for builds of extension modules: where its headers and its library are.

    cc -shared -fPIC $(python -m pep788 --cflags --libs --static) ...
    python -m pep788 doctor
"""

from importlib.metadata import version as _version
from pathlib import Path as _Path

__all__ = ["get_cmake_dir", "get_include", "get_library_dir", "get_pkgconfig_dir"]
__version__ = _version("pep788")

_folder = _Path(__file__).resolve().parent


def get_include() -> str:
    """The folder of `pep788.h`."""
    return str(_folder / "include")


def get_library_dir() -> str:
    """The folder of the shared library, `libpep788.so`, and of the static one, `libpep788.a`."""
    return str(_folder / "lib")


def get_pkgconfig_dir() -> str:
    """For PKG_CONFIG_PATH: the folder of `pep788.pc` and `pep788-static.pc`."""
    return str(_folder / "lib" / "pkgconfig")


def get_cmake_dir() -> str:
    """For `pep788_DIR`: the folder of the CMake package."""
    return str(_folder / "lib" / "cmake" / "pep788")
