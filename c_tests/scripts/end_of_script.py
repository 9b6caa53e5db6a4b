# A plain script ends only when the guarded thread of an extension module is done.
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
