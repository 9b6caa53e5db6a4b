"""Apache Pulsar's threads, which log through Python: apache/pulsar#10981, apache/pulsar-client-python#256."""
# kind: E
# needs: pulsar
# status: 7
import logging
import os
import sys
import threading
import time

import pulsar

logging.basicConfig(level=1, stream=open(os.devnull, "w"))
# Nobody listens there.
client = pulsar.Client("pulsar://127.0.0.1:9", logger=logging.getLogger("pulsar"), io_threads=4, operation_timeout_seconds=1)


def connect():
    while True:
        try:
            client.get_topic_partitions("topic")
        except pulsar.PulsarException:
            pass


for _ in range(4):
    threading.Thread(target=connect, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
