# Four threads call back without end; the script ends nevertheless, without a crash.
# env: PEP788_DRAIN_GRACE_MS=20
# repeat: 20
# native: no, it starves: the guard count is never seen at zero
import threading
import worker

seen = threading.Semaphore(0)
for _ in range(4):
    worker.knock(seen.release)
for _ in range(100):
    seen.acquire()
