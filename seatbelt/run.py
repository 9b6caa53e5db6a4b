"""run.py [--exits N] [--program NAME]... [PYTHON...]: programs that nobody adapted, with and without protection.

Each is ended N times (200) in the middle of its threads' calls, on every Python that is found, plain and with libpep788
preloaded and PEP788_GILSTATE=protect. Prints a table; fails if a protected exit crashed or hung.
"""
import argparse
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "bench"))
import pythons  # noqa: E402

OUT = os.path.join(pythons.TARGET, "seatbelt")
PACKAGES = {"cffi": "cffi", "pybind11": "pybind11"}


def say(text):
    print("seatbelt: " + text, file=sys.stderr, flush=True)


class Skip(Exception):
    """Why a program is not run."""


def programs(chosen):
    for name in sorted(os.listdir(os.path.join(HERE, "programs"))):
        if name.endswith(".py") and (not chosen or name[:-3] in chosen):
            path = os.path.join(HERE, "programs", name)
            with open(path) as file:
                text = file.read()
            yield name[:-3], path, re.findall(r"^# needs: (\w+)$", text, re.M), re.findall(r"^# module: (\S+)$", text, re.M)


def with_packages(python):
    """An executable of this Python that has the packages; its own if they cannot be had."""
    folder = os.path.join(OUT, "venv-" + python.label)
    executable = os.path.join(folder, "bin", "python")
    done = os.path.join(folder, "done")
    if python.root is not None:
        return python.executable
    if not os.path.exists(done):
        said = subprocess.DEVNULL
        made = subprocess.call([python.executable, "-m", "venv", "--system-site-packages", folder], stdout=said, stderr=said)
        if made == 0:
            for package in PACKAGES.values():
                subprocess.call([executable, "-m", "pip", "-q", "install", package], stdout=said, stderr=said)
            open(done, "w").close()
    return executable if os.path.exists(done) else python.executable


def compile_library(python):
    library = os.path.join(OUT, python.label, "libnative.so")
    os.makedirs(os.path.dirname(library), exist_ok=True)
    command = ["c++", "-std=c++17", "-O1", "-g", "-shared", "-fPIC", "-pthread", os.path.join(HERE, "native.cc"), "-o", library]
    subprocess.run(python.command(*command), check=True, env=pythons.visible())
    return library


def compile_module(python, executable, source):
    name = source.rsplit(".", 1)[0]
    module = os.path.join(OUT, python.label, name + ".so")
    where = ask(python, executable, "import pybind11; print(pybind11.get_include())")
    command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-I" + where.strip(),
               *python.facts["cflags"].split(), os.path.join(HERE, source), "-o", module]
    subprocess.run(python.command(*command), check=True, env=pythons.visible())
    return os.path.dirname(module)


def ask(python, executable, code):
    return subprocess.run(python.command(executable, "-c", code), check=True, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, env=pythons.visible()).stdout


def exits(python, executable, program, preloaded, number, library):
    name, path, needs, modules = program
    environment = {}
    for package in needs:
        try:
            ask(python, executable, "import " + package)
        except subprocess.CalledProcessError:
            raise Skip("it has no " + package) from None
    for source in modules:
        environment["PYTHONPATH"] = compile_module(python, executable, source)
    command = [executable, os.path.join(HERE, "exits.py"), str(number), preloaded, path, library]
    done = subprocess.run(python.command(*command, **environment), check=True, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=pythons.visible())
    if done.stderr.strip():
        say("%s, %s, %s: last failure: %s" % (python.label, name, preloaded != "-" and "protected" or "plain",
                                            done.stderr.strip()[-300:]))
    return [int(word) for word in done.stdout.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exits", type=int, default=200)
    parser.add_argument("--program", action="append")
    parser.add_argument("python", nargs="*")
    asked = parser.parse_args()
    found = [python for name in asked.python for python in pythons.find(name)] or pythons.find()
    rows, failed = [], 0
    print("| Python | program | exits | plain: crashes | hangs | calls lost | protected: crashes | hangs | calls lost |")
    print("| --- | --- " + "| ---: " * 7 + "|", flush=True)
    for python in found:
        executable = with_packages(python)
        library = compile_library(python)
        for program in programs(asked.program):
            try:
                plain, protected = [exits(python, executable, program, preloaded, asked.exits, library)
                                    for preloaded in ("-", pythons.LIBRARY)]
            except Skip as why:
                say("%s: %s is skipped: %s" % (python.label, program[0], why))
                continue
            failed += protected[0] + protected[1]
            rows.append([python.label, program[0], asked.exits, *plain, *protected])
            print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
    if failed:
        sys.exit("seatbelt: %d protected exits crashed or hung" % failed)


main()
