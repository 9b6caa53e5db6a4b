"""Daemon threads with requests in flight, which let go of the GIL in Rust: curioswitch/pyqwest#164."""
# kind: D
# needs: pyqwest
# status: 7
import sys
import threading
import time

import pyqwest


def work():
    client = pyqwest.SyncClient()
    while True:
        try:
            # Nobody listens there.
            client.get("http://127.0.0.1:9/", timeout=1.0)
        except Exception:
            pass


for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
