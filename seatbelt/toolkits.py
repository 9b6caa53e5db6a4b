"""Modules for the programs, by the toolkits that people make extensions with. Built for each Python, in its folder of packages."""
import os
import shutil
import sys

import packages
import pythons

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "toolkits")


def make(python, name):
    """Has a module of this folder, such as `owner_nanobind`, where the Python finds it. Raises `packages.Missing`."""
    folder = packages.folder(python)
    os.makedirs(folder, exist_ok=True)
    toolkit = {"pybind11": pybind11, "nanobind": nanobind, "cython": cython, "cffi": cffi, "pyo3": pyo3, "swig": swig}[name.split("_")[-1]]
    toolkit(python, name, folder)


def pybind11(python, name, folder):
    packages.bring(python, "pybind11")
    include = tell(python, "import pybind11; print(pybind11.get_include())")
    compile_module(python, name, folder, [os.path.join(SOURCES, name + ".cc")], [include])


def nanobind(python, name, folder):
    packages.bring(python, "nanobind")
    sources = tell(python, "import nanobind; print(nanobind.source_dir())")
    include = [tell(python, "import nanobind; print(nanobind.include_dir())"),
               os.path.join(os.path.dirname(sources), "ext", "robin_map", "include")]
    compile_module(python, name, folder, [os.path.join(SOURCES, name + ".cc"), os.path.join(sources, "nb_combined.cpp")], include)


def cython(python, name, folder):
    """C++ that is for all Pythons, by this machine's own."""
    source = os.path.join(packages.OUT, name + ".cc")
    build("Cython failed", [sys.executable, "-m", "cython", "--cplus", os.path.join(SOURCES, name + ".pyx"), "-o", source],
          PYTHONPATH=tools_from_pypi("Cython"))
    compile_module(python, name, folder, [source], [SOURCES])


def swig(python, name, folder):
    """C++ and Python that are for all Pythons, by the SWIG of PyPI."""
    tools, made = tools_from_pypi("swig"), os.path.join(packages.OUT, name)
    os.makedirs(made, exist_ok=True)
    source = os.path.join(made, name + "_wrap.cc")
    build("SWIG failed", [sys.executable, os.path.join(tools, "bin", "swig"), "-c++", "-python", "-outdir", made, "-o", source,
                          os.path.join(SOURCES, name + ".i")], PYTHONPATH=tools)
    shutil.copy(os.path.join(made, name + ".py"), folder)
    compile_module(python, "_" + name, folder, [source], [SOURCES])


def cffi(python, name, folder):
    packages.bring(python, "cffi")
    shutil.copy(os.path.join(SOURCES, name + ".py"), folder)


def pyo3(python, name, folder):
    """One for all Pythons that have the stable ABI, by this machine's Rust."""
    if python.free_threaded:
        raise packages.Missing("it is built for the stable ABI, which free-threaded Pythons do not have")
    target = os.path.join(packages.OUT, name)
    build(name + " is not built", ["cargo", "build", "--release", "--locked", "--manifest-path", os.path.join(SOURCES, name, "Cargo.toml")],
          CARGO_TARGET_DIR=target)
    shutil.copy(os.path.join(target, "release", "lib%s.so" % name), os.path.join(folder, name + ".abi3.so"))


def tell(python, code):
    done = packages.run(python.command(python.executable, "-c", code, PYTHONPATH=packages.folder(python)))
    return done.stdout.strip()


def compile_module(python, name, folder, sources, include):
    command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden",
               *("-I" + path for path in include), *python.facts["cflags"].split(), *sources,
               "-o", os.path.join(folder, name + ".so")]
    build(name + " does not compile", python.command(*command))


def build(failure, command, **environment):
    done = packages.run(command, **environment)
    if done.returncode != 0:
        raise packages.Missing("%s: %s" % (failure, packages.last_line(done.stderr)))


def tools_from_pypi(package):
    """The folder of a package that this machine's own Python runs."""
    tools = os.path.join(packages.OUT, package.lower())
    if not os.path.exists(tools):
        packages.pip([sys.executable, "-m", "pip"], "install", "--target", tools, package)
    return tools
