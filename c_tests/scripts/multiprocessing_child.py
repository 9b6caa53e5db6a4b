# multiprocessing clears and runs exit callbacks in its children; they end, and a spawned one waits.
# expect: stdout "exit codes: [0, 0]"
# expect: stdout "calls in the child: 50"
# sanitize: not address thread, their malloc may stay locked in a forked child of a process with threads
# windows: no, there is no fork
import atexit
import multiprocessing
import sys
import worker

calls = []


def callback():
    calls.append(1)
    if len(calls) == 50:
        print("calls in the child:", len(calls), flush=True)


def child():
    worker.work(callback)
    worker.go()


if __name__ == "__main__":
    codes = []
    for method in ("fork", "spawn"):
        process = multiprocessing.get_context(method).Process(target=child)
        process.start()
        process.join()
        codes.append(process.exitcode)
    print("exit codes:", codes, flush=True)
