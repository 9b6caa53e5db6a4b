"""exits.py NUMBER PRELOADED WAIT PROGRAM ARGUMENT...: many exits of a program, with the Python that runs this.

PRELOADED is libpep788.so, or `-`; WAIT is PEP788_GILSTATE_WAIT_MS. Prints how many exits crashed, how many did not come to an end, and
how many calls were begun that did not.
"""
import os
import re
import signal
import subprocess
import sys

PATIENCE = 30


def main():
    number, preloaded, wait, *program = sys.argv[1:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PEP788_")}
    environment["PEP788_GILSTATE_WAIT_MS"] = wait
    if preloaded != "-":
        environment.update(LD_PRELOAD=preloaded, PEP788_GILSTATE="protect")
    crashes = hangs = lost = 0
    last = ""
    for _ in range(int(number)):
        run = subprocess.Popen([sys.executable, *program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, errors="replace", env=environment,
                               start_new_session=True)
        try:
            said = run.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired:
            # Its children too: they have the pipe.
            os.killpg(run.pid, signal.SIGKILL)
            said = run.communicate()[1]
            hangs += 1
        else:
            if run.returncode != 0:
                crashes += 1
                last = "exit code %d: %s" % (run.returncode, said.strip()[-300:])
        lost += sum(map(int, re.findall(r"^lost (\d+)$", said, re.MULTILINE)))
    print(crashes, hangs, lost)
    if last:
        print(last.replace("\n", " | "), file=sys.stderr)


main()
