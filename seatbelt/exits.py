"""exits.py NUMBER PRELOADED WAIT STATUS PROGRAM ARGUMENT...: many exits of a program, with the Python that runs this.

PRELOADED is libpep788.so, or `-`; WAIT is PEP788_GILSTATE_WAIT_MS; STATUS is the exit status that the program asks for. Prints how many
exits crashed, how many did not come to an end, how many calls were begun that did not, how many exits had another status, how many were ended by
the library (PEP788_EXIT_TIMEOUT_MS), and how many milliseconds the median of the others took: from the moment that a program says it is
leaving, else from its start.
"""
import os
import re
import signal
import subprocess
import sys
import time

# In seconds, protected and plain. The exit of a protected program may take 8 by its settings.
PATIENCE = {True: 30, False: 10}


def main():
    number, preloaded, wait, status, *program = sys.argv[1:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PEP788_")}
    environment["PEP788_GILSTATE_WAIT_MS"] = wait
    if preloaded != "-":
        environment.update(LD_PRELOAD=preloaded, PEP788_GILSTATE="protect")
    crashes = hangs = lost = changed = ended = 0
    times = []
    last = ""
    leaving = re.compile(r"^leaving (\d+)$", re.MULTILINE)
    for _ in range(int(number)):
        begun = time.monotonic()
        run = subprocess.Popen([sys.executable, *program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, errors="replace", env=environment,
                               start_new_session=True)
        try:
            said = run.communicate(timeout=PATIENCE[preloaded != "-"])[1]
        except subprocess.TimeoutExpired:
            # Its children too: they have the pipe.
            os.killpg(run.pid, signal.SIGKILL)
            said = run.communicate()[1]
            hangs += 1
        else:
            over = time.monotonic()
            if leaving.search(said):
                # Of the exit alone.
                begun = int(leaving.search(said)[1]) / 1e9
            is_ended = "PEP788_EXIT_TIMEOUT_MS" in said
            ended += is_ended
            if run.returncode == int(status):
                if not is_ended:
                    times.append(over - begun)
            else:
                # Of a signal, or of a shell that tells of one.
                if run.returncode < 0 or run.returncode > 128:
                    crashes += 1
                else:
                    changed += 1
                last = "exit code %d: %s" % (run.returncode, said.strip()[-300:])
        lost += sum(map(int, re.findall(r"^lost (\d+)$", said, re.MULTILINE)))
    median = round(sorted(times)[len(times) // 2] * 1000) if times else 0
    print(crashes, hangs, lost, changed, ended, median)
    if last:
        print(last.replace("\n", " | "), file=sys.stderr)


main()
