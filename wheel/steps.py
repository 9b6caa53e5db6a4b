"""What the scripts that build and test wheels have in common."""

import re
import subprocess
import sys


def run(*command, status=0, **options):
    """What it prints; ends the script if it has another exit status."""
    command = [str(word) for word in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    if done.returncode != status:
        sys.exit("FAILED: %s: %d\n%s%s" % (" ".join(command), done.returncode, done.stdout, done.stderr))
    return done.stdout


def check(condition, text):
    if not condition:
        sys.exit("FAILED: " + text)


def environment(folder, python):
    """A virtual environment's Python."""
    run(python, "-m", "venv", folder)
    return folder / "bin" / "python"


def check_glibc(library, newest):
    """All that the library needs has a version, of which none is newer than that: what has none may not be there."""
    for line in run("nm", "-D", "--undefined-only", library).splitlines():
        kind, name = line.split()
        version = re.search(r"@GLIBC_([0-9.]+)", name)
        if kind in "wv" and version is None:
            # Asked for, and done without.
            continue
        check(version, "%s has no version" % name)
        numbers = [[int(part) for part in text.split(".")] for text in (version[1], newest)]
        check(numbers[0] <= numbers[1], "%s is newer than glibc %s" % (name, newest))
