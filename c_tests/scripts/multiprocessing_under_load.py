# Native threads hold guards and attach all the time while multiprocessing makes children in each of its ways, which use the library afresh.
# native: no, a forked child never stops waiting for guards of threads it does not have
# env: PEP788_DRAIN_GRACE_MS=50
# timeout: 180
# expect: stdout "exit codes: [0, 0, 0, 0, 0, 0, 0, 0, 0]"
# expect: stdout "results: [10, 11, 12, 13]"
# windows: no, there is no fork
import atexit
import multiprocessing
import threading
import warnings
import worker

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 advises against fork with threads


def child(queue):
    seen = threading.Semaphore(0)
    worker.work(seen.release)
    worker.go()
    for _ in range(50):
        seen.acquire()
    queue.put("done")


def plus_ten(number):
    worker.work(int)
    worker.go()
    return number + 10


if __name__ == "__main__":
    seen = threading.Semaphore(0)
    worker.work(int)  # holds its guard until the end
    worker.knock(seen.release)
    seen.acquire()
    codes = []
    for method in ("fork", "forkserver", "spawn") * 3:
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        assert queue.get() == "done"
        process.join()
        codes.append(process.exitcode)
    print("exit codes:", codes, flush=True)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print("results:", pool.map(plus_ten, range(4)), flush=True)
        pool.close()
        pool.join()
    atexit.register(worker.go)
