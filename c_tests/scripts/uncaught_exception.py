# An uncaught exception is printed, the guarded thread is waited for, and the exit code is 1.
# expect: exit 1
# expect: stderr "ValueError: mine"
# expect: stdout "calls: 50"
import atexit
import worker

calls = []


def callback():
    calls.append(1)
    if len(calls) == 50:
        print("calls:", len(calls), flush=True)


worker.work(callback)
atexit.register(worker.go)
raise ValueError("mine")
