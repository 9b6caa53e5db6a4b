"""Daemon threads of Python that print, over and over: one has the lock of a stream's buffer whenever the exit begins.

Plain exits of 3.13.5t, 3.13.18, 3.14 and 3.15 abort: "_enter_buffered_busy: could not acquire lock for <_io.BufferedWriter name='<stderr>'> at
interpreter shutdown, possibly due to daemon threads".
"""
# kind: D
# status: 7
import sys
import threading
import time


def prints():
    while True:
        print("a line of a daemon thread")
        print("another line of a daemon thread", file=sys.stderr)


for _ in range(4):
    threading.Thread(target=prints, daemon=True).start()
time.sleep(0.05)
sys.exit(7)
