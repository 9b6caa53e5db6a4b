"""The packages that programs need, each Python's in a folder of its own: by pip, unless the Python has them anyway."""
import glob
import os
import shutil
import subprocess
import sys

import pythons

OUT = os.path.join(pythons.TARGET, "seatbelt")
# PyPI has only the source of PyGObject (`gi`). The last series for what stable suites of Debian have, girepository 1.0;
# it is built without Cairo, which nothing here draws with.
PYGOBJECT = "PyGObject<3.51"
PYGOBJECT_OPTION = "--config-settings=setup-args=-Dpycairo=disabled"


# Of those that are called otherwise than their module. Later releases of torch have wheels that cannot be imported without
# gigabytes of NVIDIA's libraries; a Python that has one anyway is run with that.
PACKAGES = {"PySide6": "PySide6_Essentials", "cv2": "opencv-python-headless", "grpc": "grpcio", "jpype": "JPype1", "ntcore": "pyntcore",
            "pulsar": "pulsar-client", "torch": "torch<1.13", "zenoh": "eclipse-zenoh"}


class Missing(Exception):
    """Why a package cannot be had."""


def folder(python):
    return os.path.join(OUT, python.label, "packages")


def bring(python, module):
    """Has the module in this Python's folder if the Python does not find it elsewhere; raises Missing."""
    if is_there(python, module):
        return
    if module == "gi":
        build_pygobject(python)
    else:
        fetch(python, module)
    if not is_there(python, module):
        raise Missing("it does not import %s, which was installed" % module)


def is_there(python, module):
    return run(python.command(python.executable, "-c", "import " + module, PYTHONPATH=folder(python))).returncode == 0


def fetch(python, package):
    tag = "cp%d%d" % python.version
    # By any pip: for this Python, which may be in a root folder that has none.
    pip([sys.executable, "-m", "pip"], "install", "--target", folder(python), "--implementation", "cp",
        "--python-version", "%d.%d" % python.version, "--abi", tag + "t" * python.free_threaded, "--abi", "none",
        "--only-binary", ":all:", PACKAGES.get(package, package))


def build_pygobject(python):
    if run(python.command("pkg-config", "--exists", "gobject-introspection-1.0")).returncode != 0:
        # Not in the root folders of the matrix: it brings setuptools, which changes how every Python there imports.
        raise Missing("PyGObject has to be built for it: apt-get install libgirepository1.0-dev" + (
            "" if python.root is None else " in " + python.root))
    tools = build_tools()
    pip(python.command(python.executable, "-m", "pip", **tools), "install", "--target", folder(python),
        "--no-deps", "--no-build-isolation", "--no-cache-dir", PYGOBJECT_OPTION, pygobject_source(tools))


def build_tools():
    """The environment that has pip and all that builds, for any Python."""
    tools = os.path.join(OUT, "tools")
    if not os.path.exists(tools):
        # What is for 3.9 is for all of them, and tomli for those that have no tomllib.
        pip([sys.executable, "-m", "pip"], "install", "--target", tools, "--implementation", "py",
            "--python-version", "3.9", "--only-binary", ":all:", "pip", "meson-python", "ninja", "tomli")
        # Not by the Python that has installed it, which a root folder has not.
        with open(os.path.join(tools, "bin", "meson"), "w") as script:
            script.write('#!/bin/sh\nexec python3 -m mesonbuild.mesonmain "$@"\n')
    return {"PYTHONPATH": tools, "PATH": os.path.join(tools, "bin") + ":" + os.environ["PATH"]}


def pygobject_source(tools):
    """Fetched by this machine, not in a root folder, which knows nothing of its proxies and certificates."""
    source, fetched = os.path.join(OUT, "pygobject"), os.path.join(OUT, "fetched")
    if not os.path.exists(source):
        shutil.rmtree(fetched, ignore_errors=True)
        os.makedirs(fetched)
        # pip has no word for fetching alone. Whether or not it can build the source here, it leaves it where it unpacked it.
        done = run([sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-clean", "--no-deps",
                    "--no-build-isolation", "--no-cache-dir", "--no-binary", ":all:", PYGOBJECT_OPTION, PYGOBJECT],
                   TMPDIR=fetched, **tools)
        unpacked = glob.glob(os.path.join(fetched, "*", "*", "meson.build"))
        if len(unpacked) != 1:
            raise Missing("pip fetched no %s: %s" % (PYGOBJECT, last_line(done.stderr)))
        os.rename(os.path.dirname(unpacked[0]), source)
        shutil.rmtree(fetched)
    return source


def pip(command, *words):
    done = run(command + ["-q", "--disable-pip-version-check", *words, "--root-user-action", "ignore"])
    if done.returncode != 0:
        log = os.path.join(OUT, "pip.log")
        with open(log, "w") as file:
            file.write(done.stderr)
        raise Missing("pip failed, see %s: %s" % (log, last_line(done.stderr)))


def run(command, **environment):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=dict(pythons.visible(), **environment))


def last_line(text):
    return (text.strip().splitlines() or ["it does not say why"])[-1]
