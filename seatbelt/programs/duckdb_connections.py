"""Connections of duckdb that daemon threads open and close."""
# kind: F
# needs: duckdb
# status: 7
import sys
import threading
import time

import duckdb


def connect():
    while True:
        connection = duckdb.connect()
        connection.execute("select 1").fetchall()
        connection.close()


for _ in range(4):
    threading.Thread(target=connect, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
