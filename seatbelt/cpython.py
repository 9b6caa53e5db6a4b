"""cpython.py [PYTHON...]: CPython's own tests of threads, of ctypes and of the C API, plain, and preloaded and protected.

Fails where the outcome of a test is another under protection. A test that differs is run again, both ways, as some
of them fail now and then by themselves. For Pythons that have their tests installed; those of Debian in the root
folders of the matrix get them, by Debian's package.
"""
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "bench"))
import pythons  # noqa: E402

TESTS = ["test_ctypes", "test_threading", "test_embed", "test_capi", "test_atexit", "test_threadedtempfile", "test_thread",
         "test_multiprocessing_fork"]
# Of one test; CPython's own limit for each is shorter.
PATIENCE = 1800


def environment():
    return {name: value for name, value in pythons.visible().items() if not name.startswith(("PEP788_", "PYTHON"))}


def bring_tests(python):
    """Whether the Python has its tests. Debian has those of its Pythons in packages of their own."""
    series = "python%d.%d" % python.version

    def has():
        imports = python.command(python.executable, "-c", "import test.test_threading, test.test_ctypes")
        return subprocess.run(imports, env=environment(), stderr=subprocess.DEVNULL).returncode == 0

    if has():
        return True
    if python.root is None:
        return False
    # The mirror may be a snapshot, whose index is out of date by now.
    apt = "apt-get -q -y -o Acquire::Check-Valid-Until=false -o APT::Install-Recommends=false -o APT::Sandbox::User=root"
    install = ('version=$(dpkg-query -W -f "\\${Version}" lib%s-stdlib) && { %s update; %s install lib%s-testsuite="$version"; }'
               % (series, apt, apt, series))
    subprocess.run(python.command("sh", "-c", install), env=environment(), stdout=subprocess.DEVNULL)
    return has()


def outcomes(python, test, protected):
    """By the name of the test case: `ok`, or why it is not."""
    settings = ["LD_PRELOAD=" + pythons.LIBRARY, "PEP788_GILSTATE=protect"] if protected else []
    # A root folder of the matrix sees this folder, and not the one for temporary files.
    with tempfile.TemporaryDirectory(dir=pythons.TARGET) as folder:
        file = os.path.join(folder, "junit.xml")
        command = [python.executable, "-m", "test", "--timeout=600", "--junit-xml", file, test]
        if test == "test_multiprocessing_fork":
            # Some installations lack it, but have what it consists of. By that name 3.11 takes it for a folder.
            test = "test_fork_of_multiprocessing"
            with open(os.path.join(folder, test + ".py"), "w") as module:
                module.write("from test import _test_multiprocessing\n"
                             "_test_multiprocessing.install_tests_in_module_dict(globals(), 'fork')\n")
            command[-1:] = ["--testdir", folder, test]
        # `env` comes last, so that the library is preloaded into the Python alone.
        command = python.command("sh", "-c", 'cd "$1" && shift && exec env "$@"', "sh", folder, *settings, *command)
        run = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, text=True, errors="replace",
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE)
        found = {"exit code": str(run.returncode)}
        if os.path.exists(file):
            for case in ElementTree.parse(file).getroot().iter("testcase"):
                kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
                found[case.get("name")] = ",".join(kinds) or "ok"
    return found, run.stdout


def differences(plain, protected):
    return {name for name in set(plain) | set(protected) if plain.get(name) != protected.get(name)}


def compare(python, test):
    plain, _ = outcomes(python, test, False)
    protected, said = outcomes(python, test, True)
    different = differences(plain, protected)
    for _ in range(2):
        if different:
            again, _ = outcomes(python, test, False)
            protected, said = outcomes(python, test, True)
            different &= differences(plain, protected) & differences(again, protected)
    cases = [outcome for name, outcome in protected.items() if name != "exit code"]
    if not cases:
        print("| %s | %s | 0 | 0 | NOT run |\n%s" % (python.label, test, said[-3000:]), flush=True)
        return False
    print("| %s | %s | %d | %d | %s |" % (python.label, test, cases.count("ok"), len(cases) - cases.count("ok"),
                                        "as without" if not different else "NOT as without"), flush=True)
    for name in sorted(different):
        print("    %s: %s, protected: %s" % (name, plain.get(name), protected.get(name)))
    if different:
        print(said[-3000:])
    return not different


def main():
    names = sys.argv[1:] or [None]
    found = [python for name in names for python in pythons.find(name)]
    print("| Python | test | passed | skipped or failed | |\n| --- | --- | ---: | ---: | --- |", flush=True)
    results = []
    for python in found:
        if not bring_tests(python):
            print("| %s | its tests are not installed | | | |" % python.label)
            continue
        results += [compare(python, test) for test in TESTS]
    if not results:
        sys.exit("seatbelt: no Python here has its tests installed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
