"""`python -m pep788 scan`: which packages may be unsafe at exit, told from their files. Nothing is loaded or run.

A package may be unsafe if it makes native threads and lets native code enter Python by `PyGILState_Ensure`, or by hand: a
thread that does so while Python finalizes is killed, hangs or crashes. Whether its threads do so is not to be seen from the files.
"""

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import NamedTuple, Optional

try:
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
except ImportError:
    sys.exit("python -m pep788 scan: reads files with pyelftools, which is not installed: pip install 'pep788[scan]'")

# What a file takes from the interpreter to enter it, each with what else it takes for that.
ENTERS = {
    "PyGILState_Ensure": (),
    "PyEval_AcquireThread": ("PyThreadState_New",),
    "PyEval_RestoreThread": ("PyThreadState_New",),
    "PyThreadState_Swap": ("PyThreadState_New",),
}
PEP_788 = (
    "PyInterpreterGuard_FromCurrent", "PyInterpreterGuard_FromView", "PyThreadState_Ensure", "PyThreadState_EnsureFromView",
    "PyInterpreterRef_FromCurrent", "PyInterpreterWeakRef_Promote",
)
# What makes threads: names, and parts of the names of C++.
THREADS = {
    "pthread_create": "pthread_create", "thrd_create": "thrd_create", "GOMP_parallel": "OpenMP", "__kmpc_fork_call": "OpenMP",
    "uv_thread_create": "libuv", "uv_queue_work": "libuv", "g_thread_new": "GLib", "dispatch_async_f": "libdispatch",
}
THREADS_OF_CXX = {"St6thread15_M_start_thread": "std::thread", "3tbb": "TBB", "7QThread": "QThread", "11QThreadPool": "QThreadPool"}
# What toolkits leave in what they make: one of these.
MARKS = {
    "pybind11": (b"__pybind11_internals_v",), "nanobind": (b"nanobind::", b"nb_internals"),
    "Cython": (b"__pyx_capi__", b"cython_runtime"), "cffi": (b"_init_cffi_1_0_external_module",),
    "PyO3": (b"pyo3_runtime", b"PyO3 modules"), "SWIG": (b"swig_runtime_data",), "Boost.Python": (b"Boost.Python.",),
    "sip": (b"sip_init_library", b"PyQt6.sip"),
}
# What a static copy of the library has in it, whose functions have no names that are seen.
COPY = b"libpep788: PyGILState_Ensure cannot be protected"

SAFE, DEPENDS, UNSAFE = "safe", "depends", "unsafe"


class File(NamedTuple):
    path: str
    is_module: bool
    is_abi3: bool
    toolkits: list[str]
    enters: list[str]
    threads: list[str]
    pep788: list[str]
    returns_to_cxx: bool


class Package(NamedTuple):
    name: str
    version: str
    files: list[File]
    unread: list[str]


# --- Reading ----------------------------------------------------------------------------------------


def dynamic_symbols(elf: ELFFile) -> Iterator[tuple[str, bool]]:
    """Names, and whether they are defined in the file."""
    section = elf.get_section_by_name(".dynsym")
    segments = (segment for segment in elf.iter_segments() if isinstance(segment, DynamicSegment))
    source = section or next(segments, None)
    for symbol in source.iter_symbols() if source is not None else ():
        if symbol.name:
            yield symbol.name, symbol["st_shndx"] != "SHN_UNDEF"


def read(path: str, data: bytes) -> Optional[File]:
    """`None`: an executable, or for debuggers only."""
    elf = ELFFile(io.BytesIO(data))
    if elf["e_type"] != "ET_DYN":
        return None
    defined, wanted = set(), set()
    for name, is_defined in dynamic_symbols(elf):
        (defined if is_defined else wanted).add(name)
    toolkits = sorted(name for name, marks in MARKS.items() if any(mark in data for mark in marks))
    threads = {told for name, told in THREADS.items() if name in wanted}
    threads |= {told for part, told in THREADS_OF_CXX.items() if any(part in name for name in wanted)}
    pep788 = [name for name in PEP_788 if name in wanted]
    if COPY in data and "Pep788_Doctor" not in defined:
        pep788.append("a copy of libpep788")
    return File(
        path=path,
        is_module=any(name.startswith("PyInit_") for name in defined),
        is_abi3=".abi3." in path,
        toolkits=toolkits,
        enters=[name for name, besides in ENTERS.items() if name in wanted and all(other in wanted for other in besides)],
        threads=sorted(threads),
        pep788=pep788,
        returns_to_cxx="PyEval_RestoreThread" in wanted and "__gxx_personality_v0" in wanted,
    )


def package(name: str, version: str, files: Iterable[tuple[str, bytes]]) -> Package:
    found, unread = [], []
    for path, data in files:
        if data[:4] != b"\x7fELF":
            if path.endswith((".so", ".pyd", ".dylib", ".dll")):
                unread.append(path)
            continue
        try:
            file = read(path, data)
        except (ELFError, ValueError, KeyError, IndexError) as error:
            unread.append("%s (%s)" % (path, error))
            continue
        if file is not None:
            found.append(file)
    return Package(name, version, sorted(found), sorted(unread))


def may_be_binary(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return ".so" in name or name.endswith((".pyd", ".dylib", ".dll"))


def of_distribution(found: Distribution) -> Package:
    # The same file may be listed twice, and some are gone.
    paths = {str(file): found.locate_file(file) for file in found.files or () if may_be_binary(str(file))}
    files = ((name, Path(path).read_bytes()) for name, path in paths.items() if Path(path).is_file())
    return package(found.metadata["Name"], found.version, files)


def of_wheel(path: Path) -> Package:
    name, version = (path.name.split("-") + [""])[:2]
    with zipfile.ZipFile(path) as wheel:
        names = [member for member in wheel.namelist() if may_be_binary(member)]
        return package(name, version, [(member, wheel.read(member)) for member in names])


def of_folder(path: Path) -> Iterator[Package]:
    """The distributions that are installed there; and what belongs to none, together."""
    belongs = set()
    for found in distributions(path=[str(path)]):
        belongs |= {Path(found.locate_file(file)).resolve() for file in found.files or ()}
        yield of_distribution(found)
    others = [file for file in sorted(path.rglob("*")) if may_be_binary(file.name) and file.is_file()]
    others = [file for file in others if file.resolve() not in belongs]
    if others:
        yield package(str(path), "", ((str(file.relative_to(path)), file.read_bytes()) for file in others))


def asked_for(target: str) -> Iterator[Package]:
    path = Path(target)
    if path.is_dir():
        yield from of_folder(path)
    elif path.is_file() and path.suffix == ".whl":
        yield of_wheel(path)
    elif path.is_file():
        yield package(target, "", [(target, path.read_bytes())])
    else:
        try:
            yield of_distribution(distribution(target))
        except PackageNotFoundError:
            raise LookupError("%s is no file, no folder, and no distribution that is installed" % target) from None


# --- What it means ----------------------------------------------------------------------------------


def verdict(found: Package) -> tuple[str, str]:
    """How it is called, and in words."""
    if not found.files:
        return SAFE, "cannot be read: %s" % ", ".join(found.unread) if found.unread else "no native code"
    entering = [file for file in found.files if file.enters and not file.pep788]
    uses = [file for file in found.files if file.pep788]
    making = [file for file in found.files if file.threads]
    if entering and making:
        functions = sorted({file.enters[0] for file in entering})
        threads = sorted({name for file in making for name in file.threads})
        words = "may be unsafe at exit: %s in %s; threads by %s" % (
            ", ".join(functions), names_of(entering), ", ".join(threads))
        return UNSAFE, "uses PEP 788 in part, and " + words if uses else words
    if uses:
        return SAFE, "uses PEP 788"
    if entering:
        return DEPENDS, "makes no threads, and enters Python from those of others: %s" % names_of(entering)
    if making:
        return SAFE, "native threads that do not enter Python"
    return SAFE, "no native threads"


def names_of(files: list[File]) -> str:
    """Three of them, and how many more; and the toolkits of all."""
    names = sorted({file.path.rsplit("/", 1)[-1].split(".")[0] for file in files})
    listed = ", ".join(names[:3]) + (" and %d more" % (len(names) - 3) if len(names) > 3 else "")
    toolkits = sorted({toolkit for file in files for toolkit in file.toolkits})
    return "%s (%s)" % (listed, ", ".join(toolkits)) if toolkits else listed


def as_json(packages: list[Package]) -> str:
    def told(found: Package) -> dict:
        called, words = verdict(found)
        files = [file._asdict() for file in found.files]
        return {"name": found.name, "version": found.version, "is": called, "verdict": words, "files": files,
                "unread": found.unread}

    return json.dumps([told(found) for found in packages], indent=2)


def tell(found: Package, verbose: bool) -> None:
    print("%s: %s" % (" ".join(filter(None, (found.name, found.version))), verdict(found)[1]))
    if not verbose:
        return
    for file in found.files:
        what = [*(["abi3"] if file.is_abi3 else []), *file.toolkits, *file.pep788, *file.enters, *file.threads]
        if file.returns_to_cxx:
            what.append("PyEval_RestoreThread in C++: up to 3.13 a daemon thread there may abort the process")
        if what:
            print("    %s: %s" % (file.path, ", ".join(what)))
    for path in found.unread:
        print("    %s: not read" % path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="*", metavar="PATH | DISTRIBUTION",
                        help="a folder, a shared library, a wheel, or what is installed under that name; else all that is installed")
    parser.add_argument("--verbose", action="store_true", help="names the functions, file by file")
    parser.add_argument("--json", action="store_true", help="all that was found out, as JSON")
    parser.add_argument("--fail-on", choices=[UNSAFE, DEPENDS],
                        help="ends with 1 if one may be unsafe; or if one is, or depends on the threads of others")


def main(asked: argparse.Namespace) -> int:
    packages: list[Package] = []
    try:
        for target in asked.targets:
            packages.extend(asked_for(target))
    except (LookupError, OSError, zipfile.BadZipFile) as error:
        print("python -m pep788 scan: %s" % error, file=sys.stderr)
        return 2
    if not asked.targets:
        packages.extend(found for found in map(of_distribution, distributions()) if found.files or found.unread)
    packages.sort(key=lambda found: found.name.lower())
    if asked.json:
        print(as_json(packages))
    else:
        for found in packages:
            tell(found, asked.verbose)
    bad = {UNSAFE: {UNSAFE}, DEPENDS: {UNSAFE, DEPENDS}, None: set()}[asked.fail_on]
    return int(any(verdict(found)[0] in bad for found in packages))
