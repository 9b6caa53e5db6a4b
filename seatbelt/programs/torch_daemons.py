"""Daemon threads in torch's functions, which let go of the GIL in C++: pytorch/pytorch#38228."""
# kind: D
# needs: torch
# status: 7
import sys
import threading
import time

import torch


def work():
    numbers = torch.ones(100)
    while True:
        numbers + numbers


for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
sys.exit(7)
