"""Tries the installed wheel on Windows: an extension, built by the compiler that setuptools takes there, and the doctor."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pep788

SOURCE = Path(__file__).resolve().with_name("test_extension.c")
SETUP = """
from setuptools import Extension, setup
import pep788
setup(name="shared", ext_modules=[Extension("shared", [%r], define_macros=[("NAME", "shared")],
      extra_compile_args=pep788.get_compile_args(), extra_link_args=pep788.get_link_args())])
"""


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, **options)
    if done.returncode != 0:
        sys.exit("FAILED: %s: %d\n%s" % (" ".join(map(str, command)), done.returncode, done.stdout))
    return done.stdout


def main():
    print(pep788.get_library(), flush=True)
    doctor = run(sys.executable, "-m", "pep788", "doctor")
    served = "engine: " + ("libpep788" if sys.version_info < (3, 15) else "the interpreter's own")
    if served not in doctor.splitlines():
        sys.exit("FAILED: the doctor says\n" + doctor)
    with tempfile.TemporaryDirectory(prefix="pep788-windows-") as folder:
        shutil.copy(SOURCE, folder)
        Path(folder, "setup.py").write_text(SETUP % SOURCE.name)
        run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=folder)
        code = "import pep788, shared; shared.start(lambda: print('called', flush=True))"
        for _ in range(20):
            said = run(sys.executable, "-c", code, cwd=folder)
            if said.split() != ["called"] * 10:
                sys.exit("FAILED: the extension said\n" + said)
    print("ok  an extension by setuptools, 20 exits, doctor: CPython %s" % sys.version.split()[0], flush=True)


main()
