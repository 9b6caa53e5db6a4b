"""The Pythons to measure: this machine's, and those that `make matrix` has brought in."""

import collections
import glob
import os
import re
import shlex
import shutil
import subprocess

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.path.abspath(os.environ.get("CARGO_TARGET_DIR", os.path.join(PROJECT, "target")))
LIBRARY = os.path.join(TARGET, "release", "libpep788.so")
CACHE = os.path.realpath(os.environ.get("MATRIX_CACHE", os.path.join(PROJECT, ".matrix")))


class Python(collections.namedtuple("Python", "executable root facts")):
    """An executable, in a root folder of the matrix or (None) on this machine."""

    @property
    def version(self):
        """(3, 13), for comparisons."""
        return tuple(int(part) for part in self.facts["version"].split(".")[:2])

    @property
    def free_threaded(self):
        return self.facts["gil_disabled"] == "1"

    @property
    def label(self):
        return self.facts["version"] + "t" * self.free_threaded

    def command(self, *words, **environment):
        """What runs `words` where this Python is."""
        return inside(self.root) + ["env"] + ["%s=%s" % item for item in environment.items()] + list(words)

    def run(self, *words, **environment):
        """What `words` print. This Python is the one that is embedded in them."""
        command = self.command(*words, PYTHONHOME=self.facts["home"], PEP788_ENGINE="backport", **environment)
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=visible()).stdout

    def compile(self, source, *flags):
        """The program made from a source in this folder, with this Python in it."""
        folder = os.path.join(TARGET, "bench", self.label)
        os.makedirs(folder, exist_ok=True)
        program = os.path.join(folder, source[: -len(".c")])
        compiler = os.environ.get("CC", "cc") if self.root is None else "cc"
        command = [compiler, "-O2", "-g", "-Wall", "-Wextra", "-pthread", *flags]
        command += shlex.split(self.facts["cflags"])
        command += [os.path.join(PROJECT, "bench", source), "-o", program, "-ldl"]
        command += shlex.split(self.facts["ldflags_embed"])
        subprocess.run(self.command(*command), check=True, env=visible())
        return program


def inside(root):
    return [] if root is None else [os.path.join(PROJECT, "matrix", "inside"), root]


def visible():
    """The environment, with the folders that a root folder is to see."""
    return dict(os.environ, VISIBLE="\n".join(dict.fromkeys([PROJECT, CACHE, TARGET])))


def inspect(executable, root=None):
    """The Python behind `executable`, or None if it cannot be measured."""
    command = inside(root) + [executable, "-B", os.path.join(PROJECT, "c_tests", "pyinfo.py")]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=visible())
    facts = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    if facts.get("implementation") != "CPython" or facts.get("has_headers") != "1" or facts["debug"] == "1":
        return None
    # The library that is measured is the one for glibc.
    if "musl" in facts["ext_suffix"]:
        return None
    return Python(facts["executable"], root, facts)


def of_machine():
    home = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found = [shutil.which("python3")] + glob.glob(home + "/versions/*/bin/python3")
    for folder in "/usr/bin", "/usr/local/bin":
        found += [path for path in glob.glob(folder + "/python3.*") if re.search(r"python3\.\d+t?$", path)]
    return [(path, None) for path in found if path]


def of_matrix():
    """What is in the root folders already; they are for root to enter."""
    if os.getuid() != 0:
        return []
    found = []
    for path in glob.glob(CACHE + "/roots/*/usr/bin/python3.*") + glob.glob(CACHE + "/roots/*/opt/*/bin/python3"):
        root = re.match(re.escape(CACHE) + "/roots/[^/]+", path).group()
        if re.search(r"python3(\.\d+)?$", path):
            found.append((path[len(root):], root))
    return found


def find(wanted=None, matrix=True):
    """The Python that is wanted, by its path or its version; otherwise all of them."""
    if wanted and shutil.which(wanted):
        wanted = shutil.which(wanted)
        found = [(wanted, None)]
    else:
        found = of_machine() + (of_matrix() if matrix else [])
    pythons = {}
    for executable, root in found:
        python = inspect(executable, root)
        if python is not None:
            pythons.setdefault(python.label, python)
    chosen = [python for python in pythons.values() if os.path.sep in (wanted or "/") or is_called(python, wanted)]
    if not chosen:
        raise SystemExit("bench: no CPython from 3.9 on with headers%s" % (" called " + wanted if wanted else ""))
    return sorted(chosen, key=lambda python: ([int(n) for n in re.findall(r"\d+", python.label)], python.label))


def is_called(python, name):
    """`3.13` and `3.13.5` are 3.13.5, `3.13t` is 3.13.5t."""
    return (python.label + ".").startswith(name + ".") or \
        name == "%d.%d" % python.version + "t" * python.free_threaded
