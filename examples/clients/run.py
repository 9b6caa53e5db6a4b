"""`make clients`: the examples, built in clean virtual environments, and many exits of each.

    run.py [--exits N] [PYTHON...]      by default every Python found
    run.py --docs [PYTHON]              compiles the Cython, pybind11 and Rust in the documents instead

For each client and Python, N processes exit while native threads call them, without PEP 788 and with it;
the table says what became of them. With it, all must be clean; without, something must be lost where
CPython is known to end threads (up to 3.13), or the example would show nothing.

Needs the library in target/release, a C++ compiler, cargo, and PyPI and crates.io.
"""

import argparse
import glob
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent
ROOT = EXAMPLES.parent
TARGET = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
LIBRARY = TARGET / "release"
WORK = TARGET / "clients"

EXITS = 20
# An exit that takes longer hangs.
HANGS_SECONDS = {"without": 10, "with": 120}
MAX_HANGS = 2
# How long a call may take to come back when Python is gone.
PATIENCE_MS = {"without": 100, "with": 60_000}
# Up to here CPython ends threads that come back to a finalizing interpreter.
ENDS_THREADS = (3, 13)


class Failed(Exception):
    pass


def checked(*command, **options):
    command = [str(word) for word in command]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options
    )
    if done.returncode != 0:
        raise Failed("%s\n%s" % (shlex.join(command), done.stdout))
    return done.stdout


# --- Pythons -------------------------------------------------------------------------------------


@dataclass
class Python:
    executable: str
    facts: dict

    @property
    def version(self):
        return tuple(int(part) for part in re.findall(r"\d+", self.facts["version"])[:3])

    @property
    def kind(self):
        """One Python of each kind is enough."""
        return self.version[:2] + (self.facts["gil_disabled"], self.facts["debug"])

    @property
    def label(self):
        _, _, free_threaded, debug = self.kind
        return self.facts["version"] + ("t" if free_threaded == "1" else "") + ("d" if debug == "1" else "")

    @property
    def folder(self):
        return WORK / self.label

    @property
    def modules(self):
        return self.folder / "modules"

    @property
    def python(self):
        return self.folder / "venv/bin/python"

    def package(self, name):
        """Where a package of the virtual environment is."""
        script = "import %s, os; print(os.path.dirname(%s.__file__))" % (name, name)
        return Path(checked(self.python, "-c", script).strip())

    def prepare(self):
        """A clean virtual environment with the binding libraries, and no modules yet."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.modules.mkdir(parents=True)
        checked(self.executable, "-m", "venv", self.folder / "venv")
        checked(self.python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt")


def ask(executable):
    """The Python behind an executable, or why it cannot be used."""
    script = ROOT / "c_tests/pyinfo.py"
    try:
        text = checked(executable, "-B", script)
    except (OSError, Failed):
        return "does not run"
    facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if facts["implementation"] != "CPython" or int(facts["hexversion"], 16) < 0x03090000:
        return "is %(implementation)s %(version)s; CPython 3.9 or later is needed" % facts
    if facts["has_headers"] != "1":
        return "has no headers (Debian, Ubuntu: package python3-dev)"
    try:
        checked(executable, "-c", "import ensurepip, venv")
    except Failed:
        return "makes no virtual environments (Debian, Ubuntu: package python3-venv)"
    return Python(facts["executable"], facts)


def find(named):
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    places = [pyenv + "/versions/*/bin/python3", "/usr/local/bin/python3.*", "/usr/bin/python3.*"]
    candidates = named or ["python3"] + [path for place in places for path in sorted(glob.glob(place))]
    found = {}
    for candidate in candidates:
        if not re.search(r"python(3(\.\d+t?)?)?$", candidate) and not named:
            continue
        python = ask(candidate)
        if isinstance(python, Python):
            found.setdefault(python.kind, python)
        elif named:
            sys.exit("clients: %s %s" % (candidate, python))
    if not found:
        sys.exit("clients: no usable CPython; name one: make clients PYTHON=python3.x")
    return [found[key] for key in sorted(found)]


# --- Building ------------------------------------------------------------------------------------


CXX = shlex.split(os.environ.get("CXX", "c++")) + ["-std=c++17", "-fPIC", "-pthread"]


def build_events():
    checked(*CXX, "-c", HERE / "events.cpp", "-o", WORK / "events.o")


def compile_module(python, name, sources, *flags):
    """An extension module that is linked with the library and with events.cpp."""
    command = [*CXX, "-shared", "-fvisibility=hidden", *shlex.split(python.facts["cflags"])]
    command += ["-I", ROOT / "include", "-I", HERE, *flags, *sources, WORK / "events.o"]
    command += ["-L", LIBRARY, "-Wl,-rpath,%s" % LIBRARY, "-lpep788"]
    checked(*command, "-o", python.modules / (name + python.facts["ext_suffix"]))
    return name


def build_cpp(python):
    flags = ["-Wall", "-Wextra", "-fno-exceptions", "-fno-rtti"]
    client = compile_module(python, "client_cpp", [EXAMPLES / "cpp/client.cpp"], *flags)
    return (client, "start_before"), (client, "start")


def cythonize(python, source, product):
    checked(python.python, "-m", "cython", "-3", "--cplus", "-I", ROOT / "include", source, "-o", product)
    return product


def build_cython(python):
    source = python.folder / "client_cython.cpp"
    cythonize(python, EXAMPLES / "cython/client_cython.pyx", source)
    client = compile_module(python, "client_cython", [source])
    return (client, "start_before"), (client, "start")


def build_pybind11(python):
    include = python.package("pybind11") / "include"
    client = compile_module(python, "client_pybind11", [EXAMPLES / "pybind11/client.cpp"], "-I", include)
    return (client, "start_before"), (client, "start")


def build_nanobind(python):
    package = python.package("nanobind")
    flags = ["-I", package / "include", "-I", package / "ext/robin_map/include", "-fno-strict-aliasing"]
    sources = [EXAMPLES / "nanobind/client.cpp", package / "src/nb_combined.cpp"]
    with_pep788 = ["-DNB_HAVE_INTERP_VIEW=1", "-include", "pep788.h"]
    if python.facts["gil_disabled"] == "1":
        flags.append("-DNB_FREE_THREADED")
    clients = [
        compile_module(python, name, sources, "-DCLIENT=" + name, *flags, *more)
        for name, more in [("client_nanobind_before", []), ("client_nanobind", with_pep788)]
    ]
    if python.version >= (3, 15):
        clients[0] = None  # has PEP 788 there, and uses it
    return tuple(client and (client, "start") for client in clients)


def cargo(package, *command, **options):
    environment = dict(os.environ, CARGO_TARGET_DIR=str(WORK / "cargo"), PYO3_NO_PYTHON="1")
    tool = os.environ.get("CARGO", "cargo")
    checked(tool, *command, "--quiet", cwd=package, env=environment, **options)


def build_rust(python):
    client = str(WORK / "cargo/debug/libclient_rust.so")
    return (client, "start_before"), (client, "start")


def build_pyo3(python):
    shutil.copy(WORK / "cargo/debug/libclient_pyo3.so", python.modules / "client_pyo3.abi3.so")
    return ("client_pyo3", "start_before"), ("client_pyo3", "start")


@dataclass
class Client:
    name: str
    build: Callable  # gives (module, function) without PEP 788 and with it; None: not to be had
    oldest: tuple = (3, 9)

    def serves(self, python):
        # The stable ABI, which the PyO3 module is built for, leaves out free-threaded Pythons.
        free_threaded = python.facts["gil_disabled"] == "1"
        return python.version >= self.oldest and not (free_threaded and self.build is build_pyo3)


CLIENTS = [
    Client("C++", build_cpp),
    Client("Cython 3", build_cython),
    Client("pybind11", build_pybind11),
    Client("nanobind", build_nanobind, oldest=(3, 10)),
    Client("Rust", build_rust),
    Client("PyO3", build_pyo3),
]


# --- Exits ---------------------------------------------------------------------------------------


@dataclass
class Exits:
    """What became of a number of exits."""

    normal: int = 0
    crashed: int = 0
    hung: int = 0
    lost: int = 0  # calls that never came back; after a crash nobody counts
    complaints: list = field(default_factory=list)

    @property
    def total(self):
        return self.normal + self.crashed + self.hung

    @property
    def clean(self):
        return self.normal == self.total > 0 and self.lost == 0 and not self.complaints


def run_exits(python, kind, client, number):
    exits = Exits()
    log = python.folder / ("%s.%s.log" % (Path(client[0]).name, kind))
    environment = dict(
        os.environ,
        PYTHONPATH=str(python.modules),
        PYTHONDONTWRITEBYTECODE="1",
        EVENTS_LOG=str(log),
        EVENTS_PATIENCE_MS=str(PATIENCE_MS[kind]),
    )
    while exits.total < number and exits.hung < MAX_HANGS:
        log.unlink(missing_ok=True)
        command = [str(python.python), str(HERE / "exit.py"), *client]
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=HANGS_SECONDS[kind],
            )
        except subprocess.TimeoutExpired:
            exits.hung += 1
            continue
        if done.returncode != 0:
            exits.crashed += 1
        elif not log.exists():
            raise Failed("%s: did not count its calls\n%s" % (shlex.join(command), done.stderr))
        else:
            exits.normal += 1
            _, lost = log.read_text().split()
            exits.lost += int(lost)
        if done.returncode != 0 or done.stderr:
            status = done.returncode
            reason = signal.Signals(-status).name if status < 0 else "status %d" % status
            exits.complaints.append("%s\n%s" % (reason, done.stderr))
    return exits


def try_client(client, python, number):
    without, with_pep788 = client.build(python)
    return (
        without and run_exits(python, "without", without, number),
        run_exits(python, "with", with_pep788, number),
    )


def table(rows):
    layout = "%-10s %-9s" + 2 * "    %5s %7s %5s %11s"
    columns = ("exits", "crashed", "hung", "lost calls")
    lines = [
        " " * 24 + "------- without PEP 788 -------" + "    " + "--------- with PEP 788 --------",
        layout % ("client", "Python", *columns, *columns),
    ]
    for client, python, *both in rows:
        cells = []
        for exits in both:
            cells += [exits.total, exits.crashed, exits.hung, exits.lost] if exits else 4 * ["-"]
        lines.append(layout % (client.name, python.label, *cells))
    return "\n".join(lines)


def clients(options):
    pythons = find(options.python)
    chosen = {client.name: [p for p in pythons if client.serves(p)] for client in CLIENTS}
    for client in CLIENTS:
        for python in pythons:
            if python not in chosen[client.name]:
                print("clients: %s is left out: it does not serve %s" % (client.name, python.label))
    print("clients: CPython", ", ".join(python.label for python in pythons), flush=True)

    WORK.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        prepared = [pool.submit(python.prepare) for python in pythons]
        build_events()
        for package in ("rust", "pyo3"):
            cargo(EXAMPLES / package, "build")
        for job in prepared:
            job.result()
        jobs = [
            (client, python, pool.submit(try_client, client, python, options.exits))
            for python in pythons
            for client in CLIENTS
            if python in chosen[client.name]
        ]
        rows = [(client, python, *job.result()) for client, python, job in jobs]

    rows.sort(key=lambda row: CLIENTS.index(row[0]))
    print(table(rows))
    failures = []
    for client, python, without, with_pep788 in rows:
        where = "%s, Python %s" % (client.name, python.label)
        if not with_pep788.clean:
            failures.append("%s: not clean with PEP 788: %s" % (where, "\n".join(with_pep788.complaints)))
        if without and without.clean and python.version[:2] <= ENDS_THREADS:
            failures.append("%s: nothing was lost without PEP 788, so this shows nothing" % where)
    if failures:
        sys.exit("clients: FAILED\n" + "\n".join(failures))
    print("With PEP 788 every exit was clean.")


# --- Documents -----------------------------------------------------------------------------------


def blocks(language):
    """The blocks that are fenced as this in the documents."""
    fence = re.compile(r"^```%s\n(.*?)^```$" % re.escape(language), re.MULTILINE | re.DOTALL)
    documents = [ROOT / "README.md", ROOT / "docs/migrating.md"]
    found = [block for document in documents for block in fence.findall(document.read_text())]
    if not found:
        raise Failed("no block of %s in %s" % (language, " or ".join(map(str, documents))))
    return found


def docs(options):
    """What needs packages from elsewhere; tests/surface.rs does C and C++."""
    python = find(options.python)[-1]
    python.prepare()
    folder = python.folder / "docs"
    folder.mkdir()
    include = ["-I", ROOT / "include", *shlex.split(python.facts["cflags"])]
    warnings = ["-Wall", "-Wextra", "-Werror"]

    for number, block in enumerate(blocks("cython")):
        source = folder / ("cython_%d.pyx" % number)
        source.write_text(block)
        product = cythonize(python, source, source.with_suffix(".cpp"))
        checked(*CXX, *include, "-fsyntax-only", product)

    for number, block in enumerate(blocks("cpp pybind11")):
        source = folder / ("pybind11_%d.cpp" % number)
        source.write_text(block)
        package = python.package("pybind11") / "include"
        checked(*CXX, *include, *warnings, "-I", package, "-fsyntax-only", source)

    # One crate, with a module for each block, and what examples/pyo3 depends on.
    crate = folder / "rust"
    (crate / "src").mkdir(parents=True)
    manifest = (EXAMPLES / "pyo3/Cargo.toml").read_text()
    manifest = manifest.replace('"../.."', "'%s'" % ROOT).replace("cdylib", "rlib")
    (crate / "Cargo.toml").write_text(manifest + "\n[workspace]\n")
    shutil.copy(EXAMPLES / "pyo3/Cargo.lock", crate)
    modules = []
    for number, block in enumerate(blocks("rust")):
        (crate / "src" / ("block_%d.rs" % number)).write_text(block)
        modules.append("pub mod block_%d;\n" % number)
    (crate / "src/lib.rs").write_text("#![deny(warnings)]\n" + "".join(modules))
    cargo(crate, "build")
    print("docs-test: the Cython, pybind11 and Rust of the documents compile")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exits", type=int, default=EXITS)
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("python", nargs="*")
    options = parser.parse_args()
    if not list(LIBRARY.glob("libpep788.*")):
        sys.exit("clients: there is no library yet: run make lib")
    try:
        (docs if options.docs else clients)(options)
    except Failed as failure:
        sys.exit("clients: %s" % failure)


if __name__ == "__main__":
    main()
