# Daemon threads that write to sys.stderr over and over do not make CPython abort the exit, and what the finalizer of
# an object writes then is written.
# env: PEP788_GILSTATE=protect
# macos: no, the seatbelt is for Linux
# repeat: 10
# native: no, the library is not there, and CPython aborts ("could not acquire lock")
# expect: stdout "last words"
# expect: stdout "and bytes"
# expect: stderr "last error"
# windows: no, the seatbelt is for Linux
import sys
import threading
import types
import worker

seen = threading.Semaphore(0)


class Last:
    def __del__(self, print=print, sys=sys):
        print("last words")
        sys.stdout.flush()
        sys.stdout.buffer.write(b"and bytes\n")
        print("last error", file=sys.stderr)


def write():
    while True:
        sys.stderr.write("a line\n")
        seen.release()


# In a module that no frame of a thread keeps.
module = types.ModuleType("module")
sys.modules["module"] = module
module.last = Last()
del module
worker.work(lambda: None)  # brings the library
worker.go()
for _ in range(4):
    threading.Thread(target=write, daemon=True).start()
for _ in range(100):
    seen.acquire()
