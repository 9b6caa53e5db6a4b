# Daemon threads that wait for input do not make CPython abort the exit.
# env: PEP788_GILSTATE=protect
# macos: no, the seatbelt is for Linux
# native: no, the library is not there, and CPython aborts ("could not acquire lock")
# expect: exit 7
# windows: no, the seatbelt is for Linux
import os
import sys
import threading
import time
import worker

# What is read from has a writer as long as the process is there, and nothing to read.
reading, writing = os.pipe()
os.dup2(reading, 0)
sys.stdin = sys.__stdin__ = open(0, closefd=False)
blocked = threading.Semaphore(0)


def read():
    blocked.release()
    sys.stdin.buffer.readline()


worker.work(lambda: None)  # brings the library
worker.go()
for _ in range(2):
    threading.Thread(target=read, daemon=True).start()
for _ in range(2):
    blocked.acquire()
# Nothing tells that a thread waits for input; the other one waits for the lock of the first.
time.sleep(0.1)
sys.exit(7)
