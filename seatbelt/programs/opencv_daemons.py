"""Daemon threads in OpenCV's functions, which let go of the GIL in C++: PyImageSearch/imutils#164, ultralytics/yolov3#538."""
# kind: D
# needs: cv2
# status: 7
import sys
import threading
import time

import cv2
import numpy

image = numpy.zeros((200, 200, 3), numpy.uint8)


def work():
    while True:
        cv2.GaussianBlur(image, (5, 5), 0)


for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
sys.exit(7)
