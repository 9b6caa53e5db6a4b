"""NetworkTables' threads, which call listeners in Python: wpilibsuite/allwpilib#4174, robotpy/mostrobotpy#151."""
# kind: E
# needs: ntcore
# status: 7
import sys
import threading
import time

import ntcore

instance = ntcore.NetworkTableInstance.create()
topic = instance.getDoubleTopic("/value")
subscriber = topic.subscribe(0.0)
instance.addListener(subscriber, ntcore.EventFlags.kValueAll, lambda _: sum(range(50)))


def work():
    publisher = topic.publish()
    number = 0.0
    while True:
        number += 1
        publisher.set(number)
        time.sleep(0)


for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
