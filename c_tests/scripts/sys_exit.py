# sys.exit waits for the guarded thread and keeps its exit code.
# expect: exit 3
# expect: stdout "calls: 50"
import atexit
import sys
import worker

calls = []


def callback():
    calls.append(1)
    if len(calls) == 50:
        print("calls:", len(calls), flush=True)


worker.work(callback)
atexit.register(worker.go)
sys.exit(3)
