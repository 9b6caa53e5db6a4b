"""polars' threads, in the middle of a function that is written in Python."""
# kind: E
# needs: polars
# status: 7
import sys
import threading
import time

import polars

frame = polars.DataFrame({"x": list(range(2000)), "group": [number % 10 for number in range(2000)]})


def query():
    function = polars.col("x").map_elements(lambda _: sum(range(20)), return_dtype=polars.Int64)
    while True:
        frame.lazy().group_by("group").agg(function).collect()


for _ in range(3):
    threading.Thread(target=query, daemon=True).start()
time.sleep(0.2)
sys.exit(7)
