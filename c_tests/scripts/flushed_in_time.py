# What a program puts in place of the method of a stream is not called before finalization, though a daemon thread is in
# Python code. CPython's own test_finalize_daemon_thread_hang counts on that.
# env: PEP788_GILSTATE=protect
# macos: no, the seatbelt is for Linux
# expect: stdout "early: 0"
# windows: no, the seatbelt is for Linux
import atexit
import os
import sys
import threading
import types
import worker

early = []


def watched(flush):
    def instead():
        if not sys.is_finalizing():
            early.append(flush)
        flush()

    return instead


class Last:
    def __del__(self, write=os.write, early=early):
        write(1, b"early: %d\n" % len(early))


# In a module that no frame of the thread keeps.
module = types.ModuleType("module")
sys.modules["module"] = module
module.last = Last()
del module
worker.work(lambda: None)  # brings the library
worker.go()
begun = threading.Event()


def wait():
    begun.set()
    threading.Event().wait()


threading.Thread(target=wait, daemon=True).start()
begun.wait()
for stream in sys.stdout, sys.stderr:
    stream.flush = watched(stream.flush)
# CPython flushes the streams when the script is over, too.
atexit.register(early.clear)
