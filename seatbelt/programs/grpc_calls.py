"""grpcio's calls in flight, with a channel that nobody closes: grpc/grpc#11804."""
# kind: E
# needs: grpc
# status: 7
import sys
import threading
import time

import grpc

# Nobody listens there.
call = grpc.insecure_channel("127.0.0.1:9").unary_unary("/service/method")


def work():
    while True:
        call.future(b"").add_done_callback(lambda _: sum(range(50)))
        time.sleep(0.001)


for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
sys.exit(7)
