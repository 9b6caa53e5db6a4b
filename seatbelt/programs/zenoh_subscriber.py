"""Daemon threads that publish with Zenoh, which calls a subscriber in Python from Rust. No report of such exits was found."""
# kind: E
# needs: zenoh
# status: 7
import sys
import threading
import time

import zenoh

config = zenoh.Config()
config.insert_json5("listen/endpoints", '["tcp/127.0.0.1:0"]')
config.insert_json5("scouting/multicast/enabled", "false")
session = zenoh.open(config)
subscriber = session.declare_subscriber("key", zenoh.handlers.Callback(lambda _: sum(range(50)), indirect=False))


def work():
    publisher = session.declare_publisher("key")
    while True:
        publisher.put(b"value")


for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
