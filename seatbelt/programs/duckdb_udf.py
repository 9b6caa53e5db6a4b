"""duckdb's threads, in the middle of a function that is written in Python."""
# kind: E
# needs: duckdb
# status: 7
import sys
import threading
import time

import duckdb


def function(x: int) -> int:
    return sum(range(x % 50))


def query():
    connection = duckdb.connect()
    connection.create_function("f", function)
    while True:
        connection.execute("select sum(f(i::bigint)) from range(100000) t(i)").fetchall()


for _ in range(2):
    threading.Thread(target=query, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
