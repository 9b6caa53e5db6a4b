"""`python -m pep788`: flags for compilers and linkers, the doctor; `run app.py ...`, with PyGILState_Ensure
protected; `watch app.py ...` and `replay-exit app.py ...`, which explain exits and provoke races; `scan`, which says what may be unsafe at exit."""

import argparse
import ctypes
import os
import platform
import subprocess
import sys
from typing import NoReturn

import pep788


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pep788", description=__doc__)
    parser.add_argument("--version", action="version", version=pep788.__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    running = commands.add_parser(
        "run", help="runs a program with PyGILState_Ensure protected, as `python app.py ...` would",
        usage="%(prog)s [-h] [--wait-ms N] [--exit-timeout-ms N] [--trace] app.py | -m module | -c code | ...",
        description="Runs a program with PyGILState_Ensure protected, in it and in its children. All that follows the options "
                    "is as for `python`.")
    running.add_argument("--wait-ms", type=milliseconds, metavar="N",
                         help="how long the exit waits for threads inside PyGILState_Ensure; -1: as long as it takes")
    running.add_argument("--exit-timeout-ms", type=milliseconds, metavar="N",
                         help="how long the exit may take after that, before the process is ended; 0: as long as it takes")
    running.add_argument("--trace", action="store_true", help="notes where each guard is taken, for the report of an exit that waits")
    watching = commands.add_parser(
        "watch", help="runs a program, and says which threads called Python, and what its exit did with them",
        usage="%(prog)s [-h] [--protect] [--json FILE] [--html FILE] [--perfetto FILE] [--hang-after S] app.py | -m module | -c code | ...",
        description="Runs a program, and explains its end on stderr: which native threads called Python, which were inside when it exited, which "
                    "came too late, and for whom the exit waited. The program ends, crashes or hangs as it would have.")
    replaying = commands.add_parser(
        "replay-exit", help="provokes races at exit, over and over, and counts crashes, hangs and lost calls",
        usage="%(prog)s [-h] [--runs N] [--seed N] [--within-ms N] [--protect] [--hang-after S] [--json FILE] app.py | -m module | -c code | ...",
        description="Runs a program many times, has it leave at a random moment after its native threads have begun to call Python, and delays its threads "
                    "where that is dangerous. Says how many exits crashed, hung, or lost calls, with a stack of each kind. Its status is 1 if any did.")
    scanning = commands.add_parser("scan", help="says which packages may be unsafe at exit, by their files",
                                   description="Reads extension modules and the libraries with them, and loads nothing.")
    commands.add_parser("doctor", help="says who serves PEP 788 to this Python, and with which settings",
                        description="Uses the library once, and has it tell about itself.")
    add_flags(commands.add_parser("build-flags", help="flags for compilers and linkers; the same without this word",
                                  description="Flags for compilers and linkers."))
    add_flags(parser)

    words = sys.argv[1:]
    if words[:1] == ["scan"]:
        from pep788 import _scan

        _scan.add_arguments(scanning)
        sys.exit(_scan.main(scanning.parse_args(words[1:])))
    if words[:1] == ["run"]:
        asked, program = of_a_program(running, words[1:])
        command, environment = preloaded(program)
        run(asked, command, environment)
    if words[:1] in (["watch"], ["replay-exit"]):
        from pep788 import _replay, _watch

        tool, its = (_watch, watching) if words[0] == "watch" else (_replay, replaying)
        tool.add_arguments(its)
        asked, program = of_a_program(its, words[1:])
        command, environment = preloaded(program)
        if asked.protect:
            environment["PEP788_GILSTATE"] = "protect"
        sys.exit(tool.main(asked, command, environment))
    asked = parser.parse_args(words)
    if asked.command == "doctor":
        doctor()
    else:
        build_flags(parser, asked)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cflags", action="store_true", help="flags for the compiler")
    parser.add_argument("--libs", action="store_true", help="flags for the linker")
    parser.add_argument("--static", action="store_true",
                        help="with --libs: for a copy of the library inside the extension")
    parser.add_argument("--pkgconfigdir", action="store_true", help="for PKG_CONFIG_PATH")
    parser.add_argument("--cmakedir", action="store_true", help="for pep788_DIR")


def milliseconds(text: str) -> int:
    number = int(text)
    if number < -1:
        raise ValueError
    return number


def of_a_program(parser: argparse.ArgumentParser, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of `run` or `watch`, and the program with its own: those of Python come after these."""
    values = {word: action.nargs != 0 for action in parser._actions for word in action.option_strings}
    own = 0
    while own < len(words):
        name, equals, _ = words[own].partition("=")
        if name not in values:
            break
        own += 2 if values[name] and not equals else 1
    asked = parser.parse_args(words[:own])
    if not words[own:]:
        parser.error("no program is given")
    return asked, words[own:]


def preloaded(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """`python WORDS` with the library loaded before Python runs, and the environment for that. Its children have it too."""
    if os.name == "nt":
        sys.exit("python -m pep788: this is for Linux; on Windows the library cannot redirect PyGILState_Ensure")
    if sys.maxsize < 2**32 or platform.machine() not in ("x86_64", "aarch64"):
        sys.exit("python -m pep788: this is for x86-64 and aarch64; on this processor (%s, %d bits) the library cannot redirect "
                 "PyGILState_Ensure" % (platform.machine(), sys.maxsize.bit_length() + 1))
    libraries = [pep788.get_library(), *filter(None, [os.environ.get("LD_PRELOAD")])]
    # The options that this interpreter was started with, as for children of `multiprocessing`.
    options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *options, *words], dict(os.environ, LD_PRELOAD=":".join(libraries))


def run(asked: argparse.Namespace, command: list[str], environment: dict[str, str]) -> NoReturn:
    """Becomes `python app.py ...`, protected."""
    environment["PEP788_GILSTATE"] = "protect"
    for name, value in ("PEP788_GILSTATE_WAIT_MS", asked.wait_ms), ("PEP788_EXIT_TIMEOUT_MS", asked.exit_timeout_ms):
        if value is not None:
            environment[name] = str(value)
    if asked.trace:
        environment["PEP788_TRACE"] = "1"
    os.execve(command[0], command, environment)


def build_flags(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> None:
    words: list[str] = []
    if asked.cflags:
        words += pep788.get_compile_args()
    if asked.libs or asked.static:
        words += pep788.get_link_args(asked.static)
    if asked.pkgconfigdir:
        words.append(pep788.get_pkgconfig_dir())
    if asked.cmakedir:
        words.append(pep788.get_cmake_dir())
    if not words:
        parser.error("nothing is asked for")
    print(*words)


def doctor() -> None:
    """Uses the library once, and has it tell about itself."""
    path = pep788.get_library()
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
