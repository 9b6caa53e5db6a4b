"""PyAV's decoders, whose threads log through Python."""
# kind: E
# needs: av numpy
# status: 7
import io
import logging
import os
import sys
import threading
import time

import av
import av.logging
import numpy

av.logging.set_level(av.logging.DEBUG)
logging.basicConfig(level=1, stream=open(os.devnull, "w"))


def video():
    file = io.BytesIO()
    container = av.open(file, "w", format="mp4")
    stream = container.add_stream("mpeg4", rate=25)
    stream.width = stream.height = 320
    stream.pix_fmt = "yuv420p"
    for shade in range(50):
        image = numpy.full((320, 320, 3), shade, numpy.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    container.mux(stream.encode())
    container.close()
    return file.getvalue()


def decode(content):
    while True:
        container = av.open(io.BytesIO(content))
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", 4
        for _ in container.decode(video=0):
            pass


content = video()
for _ in range(2):
    threading.Thread(target=decode, args=(content,), daemon=True).start()
time.sleep(0.3)
sys.exit(7)
