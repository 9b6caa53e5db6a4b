# A callback that raises in the native thread is reported, and changes neither the wait nor the exit code.
# expect: stderr "ZeroDivisionError"
# expect: stdout "calls: 50"
import atexit
import worker

calls = []


def callback():
    calls.append(1)
    if len(calls) == 50:
        print("calls:", len(calls), flush=True)
    1 / 0


worker.work(callback)
atexit.register(worker.go)
