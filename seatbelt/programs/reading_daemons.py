"""Daemon threads of Python that wait for input, as servers of editors and tools have them: one has the lock of the buffer of `sys.stdin`.

Every plain exit aborts, after a second: "_enter_buffered_busy: could not acquire lock for <_io.BufferedReader name='<stdin>'> at interpreter
shutdown, possibly due to daemon threads".
"""
# kind: D
# status: 7
import os
import sys
import threading
import time

# A pipe with a writer, into which nothing is written.
reading, writing = os.pipe()
os.dup2(reading, 0)


def reads():
    while True:
        sys.stdin.buffer.readline()


for _ in range(2):
    threading.Thread(target=reads, daemon=True).start()
time.sleep(0.05)
sys.exit(7)
