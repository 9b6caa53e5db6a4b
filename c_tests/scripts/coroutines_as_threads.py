# A thread that an exit callback starts is not waited for where it is a coroutine of the thread that waits.
# expect: stdout "begun"
import atexit
import threading
import worker


def begin():
    """What gevent leaves in `threading`: threads that it runs by turns in one of the system's."""
    thread = threading.Thread(target=print)
    thread._ident = id(thread)
    thread._set_native_id()
    thread._started.set()
    if hasattr(thread, "_set_tstate_lock"):     # up to 3.12
        thread._tstate_lock = threading.Lock()
        thread._tstate_lock.acquire()
        threading._shutdown_locks.add(thread._tstate_lock)
    threading._active[thread._ident] = thread
    print("begun", flush=True)


atexit.register(begin)
done = threading.Event()
worker.knock(done.set)
done.wait()
