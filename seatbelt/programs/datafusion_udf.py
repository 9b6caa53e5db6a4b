"""datafusion's threads, in the middle of a function that is written in Python: xorq-labs/xorq#2124."""
# kind: E
# needs: datafusion pyarrow
# status: 7
import sys
import threading
import time

import datafusion
import pyarrow


def double(column):
    return pyarrow.array([2 * value.as_py() for value in column], pyarrow.int64())


context = datafusion.SessionContext()
context.register_record_batches("numbers", [[pyarrow.record_batch({"x": list(range(500))}) for _ in range(4)] for _ in range(4)])
context.register_udf(datafusion.udf(double, [pyarrow.int64()], pyarrow.int64(), "immutable", name="double"))


def query():
    while True:
        context.sql("select sum(double(x)) from numbers").collect()


for _ in range(2):
    threading.Thread(target=query, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
