# A forked child does not wait for the guards of its parent's threads, and the parent does.
# native: no, the child hangs
# expect: stdout "child: 5"
# expect: stdout "calls: 50"
# sanitize: not address thread, their malloc may stay locked in a forked child of a process with threads
# windows: no, there is no fork
import atexit
import os
import sys
import warnings
import worker

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 advises against fork with threads
calls = []


def callback():
    calls.append(1)
    if len(calls) == 50:
        print("calls:", len(calls), flush=True)


worker.work(callback)
child = os.fork()
if child == 0:
    sys.exit(5)
print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
atexit.register(worker.go)
