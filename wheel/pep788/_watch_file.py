"""The file of a watched process: its layout, which is that of `src/watch/file.rs` of the library, and what it says."""

import struct
from typing import NamedTuple, Optional

MARK = b"pep788w1"
DEPTH = 64

# Each with the fields of the structure of that name.
STACK = "Q%dQ" % DEPTH
STOP = struct.Struct("=QQQ" + STACK)
MODULE = struct.Struct("=QQQ232s")
FUNCTION = "QQ96s152s"
SLOT = struct.Struct("=8Q16s" + 2 * STACK + 2 * FUNCTION)
HEADER = struct.Struct("=8s4Q4IQ8Q3Q")

OF_PYTHON, INSIDE_AT_EXIT, ARMED, BY_SCOPE, ENDED, UNWOUND, SLEEPS, BY_PEP788 = (1 << bit for bit in range(8))
PHASES = ("joining", "callbacks", "waiting", "closed", "callbacks_over", "process_ends")


class Stop(NamedTuple):
    """Where a thread was when a signal came. Times are in nanoseconds, of CLOCK_MONOTONIC; 0 means never."""

    signal: int
    thread: int
    when: int
    stack: tuple[int, ...]


class Module(NamedTuple):
    begin: int
    end: int
    offset: int
    path: str


class Function(NamedTuple):
    name: str
    file: str
    line: int


class Thread(NamedTuple):
    id: int
    flags: int
    calls: int
    first: int
    last: int
    is_inside: bool
    left: int
    late: int
    name: str
    stack: tuple[int, ...]
    late_stack: tuple[int, ...]
    first_function: Optional[Function]
    last_function: Optional[Function]


class Header(NamedTuple):
    process: int
    python: int
    is_protected: bool
    look_signal: int
    began: int
    phases: dict[str, int]
    modules_noted: int
    threads_seen: int


class Noted(NamedTuple):
    header: Header
    crash: Optional[Stop]
    look: Optional[Stop]
    modules: list[Module]
    threads: list[Thread]


def text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def addresses(depth: int, words: tuple[int, ...]) -> tuple[int, ...]:
    return words[:min(depth, DEPTH)]


def function(fields: tuple) -> Optional[Function]:
    line, _, name, file = fields
    return Function(text(name), text(file), line) if line else None


def header(data: memoryview) -> Optional[Header]:
    """`None`: no process has taken the file."""
    if len(data) < HEADER.size:
        return None
    mark, *fields = HEADER.unpack_from(data)
    if mark == bytes(8):
        return None
    sizes = fields[:4]
    if mark != MARK or sizes[0] != MODULE.size or sizes[2] != SLOT.size:
        raise SystemExit("python -m pep788 watch: the library that was preloaded is of another version than this package")
    process, python, is_protected, look_signal, began = fields[4:9]
    phases = {name: when for name, when in zip(PHASES, fields[9:17]) if when}
    modules_noted, threads_seen, _ = fields[17:]
    return Header(process, python, bool(is_protected), look_signal, began, phases, modules_noted, threads_seen)


def stop(data: memoryview, at: int) -> Optional[Stop]:
    signal, thread, when, depth, *words = STOP.unpack_from(data, at)
    return Stop(signal, thread, when, addresses(depth, tuple(words))) if when else None


def look(data: memoryview) -> Optional[Stop]:
    """Where the main thread was when it was asked."""
    return stop(data, HEADER.size + STOP.size)


def read(data: memoryview) -> Optional[Noted]:
    head = header(data)
    if head is None:
        return None
    modules_at = HEADER.size + 2 * STOP.size
    _, *sizes = HEADER.unpack_from(data)
    modules_room, threads_room = sizes[1], sizes[3]
    modules = []
    for index in range(min(head.modules_noted, modules_room)):
        begin, end, offset, path = MODULE.unpack_from(data, modules_at + index * MODULE.size)
        modules.append(Module(begin, end, offset, text(path)))
    threads_at = modules_at + modules_room * MODULE.size
    threads = [thread(SLOT.unpack_from(data, threads_at + index * SLOT.size))
               for index in range(min(head.threads_seen, threads_room))]
    return Noted(head, stop(data, HEADER.size), look(data), modules, [it for it in threads if it.id])


def thread(fields: tuple) -> Thread:
    number, flags, calls, first, last, is_inside, left, late, name = fields[:9]
    stacks = fields[9:9 + 2 * (1 + DEPTH)]
    functions = fields[9 + 2 * (1 + DEPTH):]
    return Thread(
        number, flags, calls, first, last, bool(is_inside), left, late, text(name),
        addresses(stacks[0], stacks[1:1 + DEPTH]),
        addresses(stacks[1 + DEPTH], stacks[2 + DEPTH:]),
        function(functions[:4]), function(functions[4:]))
