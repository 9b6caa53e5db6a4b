#!/usr/bin/env python3
"""What pep788_compat.h promises without the library, on every CPython found and on PyPy: compat.py [PYTHON]

Builds modules/worker.c with the header and without the library, as C, as C++ and with the limited API, and runs scripts of
scripts/ with it. From 3.15 on that is the interpreter's own API. PyPy is what `pypy3` is on this machine; without it a line
says so.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "install/test"))
sys.dont_write_bytecode = True
if len(sys.argv) > 1:
    os.environ["PYTHON"] = sys.argv[1]
import pythons

WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
SCRIPTS = ["callback_raises", "end_of_script", "endless_threads", "logging_from_a_native_thread", "sys_exit",
           "uncaught_exception", "fork_while_guarded"]

# Each way in which a file may include it.
FORMS = {
    "C": ["cc", "-std=c99", "-pedantic"],
    "C++": ["c++", "-x", "c++", "-std=c++17"],
    "limited API": ["cc", "-std=c99", "-DPy_LIMITED_API=0x03090000"],
}
EACH = """
#include "pep788_compat.h"
int fallback =
#ifdef PEP788_COMPAT_FALLBACK
    1;
#else
    0;
#endif
static void use(void)
{
    PyInterpreterGuard *guard = PyInterpreterGuard_FromCurrent();
    PyInterpreterView *views[] = {PyInterpreterView_FromCurrent(), PyInterpreterView_FromMain()};
    PyInterpreterGuard *second = PyInterpreterGuard_FromView(views[0]);
    PyThreadStateToken *tokens[] = {PyThreadState_Ensure(guard), PyThreadState_EnsureFromView(views[1])};
    PyThreadState_Release(tokens[1]);
    PyThreadState_Release(tokens[0]);
    PyInterpreterGuard_Close(second);
    PyInterpreterGuard_Close(guard);
    PyInterpreterView_Close(views[0]);
    PyInterpreterView_Close(views[1]);
}
void (*used)(void) = use;
"""


def run(command, **options):
    return subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=120, **options)


def build(command, what):
    done = run(command)
    if done.returncode != 0:
        sys.exit("FAILED: %s\n%s" % (what, done.stderr))


def pypy():
    """As `pythons.find` gives them."""
    executable = shutil.which("pypy3")
    if executable is None:
        return None
    text = "import sys, sysconfig as s; print(*sys.pypy_version_info[:3], s.get_path('include'), s.get_config_var('EXT_SUFFIX'), sep='|')"
    *version, include, suffix = run([executable, "-c", text]).stdout.strip().split("|")
    if not (Path(include) / "Python.h").exists():
        return None
    return {"executable": executable, "version": "PyPy " + ".".join(version), "cflags": "-I" + include,
            "hexversion": "0x03090000", "suffix": suffix, "is_pypy": True}


def expectations(text):
    """What the head of a script says of its end: the exit code, and texts on stdout and stderr."""
    head = text.split("\nimport ")[0]
    code = re.search(r"^# expect: exit (\d+)", head, re.M)
    texts = {stream: re.findall(r'^# expect: %s "(.*)"$' % stream, head, re.M) for stream in ("stdout", "stderr")}
    repeat = re.search(r"^# repeat: (\d+)", head, re.M)
    return int(code.group(1)) if code else 0, texts, min(int(repeat.group(1)), 5) if repeat else 2


def check_scripts(python, folder):
    for name in SCRIPTS:
        path = HERE / "scripts" / (name + ".py")
        code, texts, repeat = expectations(path.read_text())
        if int(python["hexversion"], 16) >= 0x030F0000 and "\n# native: no" in path.read_text():
            continue
        for _ in range(repeat):
            environment = dict(os.environ, PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1")
            try:
                done = run([python["executable"], path], env=environment)
            except subprocess.TimeoutExpired:
                sys.exit("FAILED: %s on %s: still running after two minutes" % (name, python["version"]))
            is_said = all(text in getattr(done, stream) for stream in texts for text in texts[stream])
            if done.returncode != code or not is_said:
                sys.exit("FAILED: %s on %s: %d\n%s%s" % (name, python["version"], done.returncode, done.stdout, done.stderr))


def main():
    found = pythons.find()
    found += [pypy()] if pypy() else []
    for python in found:
        native = int(python["hexversion"], 16) >= 0x030F0000
        cflags = ["-DPEP788_NO_LIBRARY", "-I%s" % (ROOT / "include"), *python["cflags"].split()]
        with tempfile.TemporaryDirectory(prefix="pep788-compat-") as temporary:
            folder = Path(temporary)
            (folder / "each.c").write_text(EACH)
            for form, compiler in FORMS.items():
                if form == "limited API" and python.get("is_pypy"):
                    continue
                build([*compiler, *WARNINGS, "-fPIC", "-O1", *cflags, "-c", folder / "each.c", "-o", folder / "each.o"],
                      "pep788_compat.h as %s, %s" % (form, python["version"]))
            build(["cc", *WARNINGS, "-O1", "-pthread", "-shared", "-fPIC", "-DAPI_COMPAT", *cflags, HERE / "modules/worker.c",
                   "-o", folder / ("worker" + python.get("suffix", ".so"))], "modules/worker.c, %s" % python["version"])
            check_scripts(python, folder)
        print("ok  pep788_compat.h, %s: %s" % ("the interpreter's own API" if native else "without a library",
                                               python["version"]), flush=True)
    if not any(python.get("is_pypy") for python in found):
        print("    not tried: PyPy (Debian: pypy3, pypy3-dev)")


main()
