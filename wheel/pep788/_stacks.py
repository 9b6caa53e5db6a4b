"""Which function, library and source line an address of code was in, told from files when the process is gone."""

import bisect
import os
import shutil
import subprocess
from collections.abc import Iterable
from typing import NamedTuple, Optional

from pep788._watch_file import Module

try:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection
    HAS_ELFTOOLS = True
except ImportError:
    HAS_ELFTOOLS = False

# Names of files begin with these: the interpreter and what calls it for others; what any thread begins in.
PYTHON = ("python", "libpython", "_ctypes", "_cffi_backend", "libffi")
RUNTIME = ("libc.so", "libc-", "libpthread", "ld-linux", "ld-musl", "libstdc++", "libgcc_s", "libpep788", "libm.so", "[")
STANDARD = ("std::", "void std::", "core::", "<alloc::", "<core::", "<std::", "__rust", "rust_")


class Frame(NamedTuple):
    function: Optional[str]
    library: str
    path: str
    source: Optional[str]
    """`file:line`, if the library has that."""
    offset: int
    """Where in the library's file the address is."""

    def is_python(self) -> bool:
        return self.library.startswith(PYTHON)

    def is_runtime(self) -> bool:
        return self.library.startswith(RUNTIME)

    def is_standard(self) -> bool:
        """Whether the function is of C++'s or Rust's standard library, compiled into another one."""
        return (self.function or "").startswith(STANDARD)

    def __str__(self) -> str:
        where = self.library + (", " + self.source if self.source else "")
        return "%s (%s)" % (self.function, where) if self.function else "? (%s+%#x)" % (self.library, self.offset)


class Stacks:
    """Frames of addresses, looked up once for all."""

    def __init__(self, modules: list[Module], addresses: Iterable[int]) -> None:
        self.frames: dict[int, Frame] = {}
        by_path: dict[str, list[tuple[int, int]]] = {}
        for address in set(addresses):
            # A return address is after the call.
            module = next((module for module in modules if module.begin <= address - 1 < module.end), None)
            if module is None:
                self.frames[address] = Frame(None, "?", "", None, address)
            else:
                offset = address - 1 - module.begin + module.offset
                by_path.setdefault(module.path, []).append((address, offset))
        for path, places in by_path.items():
            self.look_up(path, places)
        demangle(self.frames)

    def of(self, addresses: Iterable[int]) -> list[Frame]:
        return [self.frames[address] for address in addresses]

    def look_up(self, path: str, places: list[tuple[int, int]]) -> None:
        library = os.path.basename(path)
        named, sources = {}, {}
        try:
            named, sources = symbols(path, [offset for _, offset in places])
        except (OSError, ValueError, KeyError):
            pass  # The file is gone, or not what it was. The library's name and the offset are told all the same.
        for address, offset in places:
            self.frames[address] = Frame(named.get(offset), library, path, sources.get(offset), offset)


def symbols(path: str, offsets: list[int]) -> tuple[dict[int, str], dict[int, str]]:
    """Names of functions and places in sources, by offsets in the file."""
    if not HAS_ELFTOOLS:
        return {}, {}
    with open(path, "rb") as file:
        try:
            elf = ELFFile(file)
            segments = [it for it in elf.iter_segments() if it["p_type"] == "PT_LOAD"]
            virtual = {}
            for offset in offsets:
                for it in segments:
                    if it["p_offset"] <= offset < it["p_offset"] + it["p_filesz"]:
                        virtual[offset] = it["p_vaddr"] + offset - it["p_offset"]
            functions = table(elf)
            starts = [begin for begin, _, _ in functions]
            named = {}
            for offset, at in virtual.items():
                index = bisect.bisect_right(starts, at) - 1
                if index >= 0 and at < functions[index][1]:
                    named[offset] = functions[index][2]
            has_lines = elf.get_section_by_name(".debug_line") is not None
        except ELFError:
            return {}, {}
    return named, lines(path, virtual) if has_lines else {}


def table(elf: "ELFFile") -> list[tuple[int, int, str]]:
    """Functions, by where they begin and end, sorted."""
    sections = [elf.get_section_by_name(name) for name in (".symtab", ".dynsym")]
    functions = {}
    for section in sections:
        if isinstance(section, SymbolTableSection):
            for symbol in section.iter_symbols():
                if symbol["st_info"]["type"] in ("STT_FUNC", "STT_GNU_IFUNC", "STT_LOOS") and symbol["st_value"] and symbol["st_size"]:
                    functions.setdefault(symbol["st_value"], (symbol["st_value"] + symbol["st_size"], symbol.name))
    return sorted((begin, end, name) for begin, (end, name) in functions.items())


def lines(path: str, virtual: dict[int, int]) -> dict[int, str]:
    """Places in sources, by binutils' `addr2line`, if it is there."""
    if shutil.which("addr2line") is None or not virtual:
        return {}
    done = subprocess.run(["addr2line", "-e", path, *map(hex, virtual.values())], text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    told = zip(virtual, done.stdout.splitlines())
    return {offset: line.partition(" ")[0] for offset, line in told if not line.startswith("?") and not line.endswith((":0", ":?"))}


def demangle(frames: dict[int, Frame]) -> None:
    """Names of C++ and Rust as their sources have them, by binutils' `c++filt`, if it is there."""
    mangled = {frame.function for frame in frames.values() if frame.function and frame.function.startswith(("_Z", "_R"))}
    if not mangled or shutil.which("c++filt") is None:
        return
    names = sorted(mangled)
    done = subprocess.run(["c++filt", *names], text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    plain = dict(zip(names, done.stdout.splitlines()))
    for address, frame in frames.items():
        if frame.function in plain:
            frames[address] = frame._replace(function=plain[frame.function])
