"""miniaudio's thread, which asks Python for samples by cffi; its device waits for that thread, as in irmen/pyminiaudio#57."""
# kind: E
# needs: miniaudio cffi
# status: 7
# ends: the thread was ended in its callback, and the device's destructor waits for the end of that. Plain, the exit hangs there
import sys
import time

import miniaudio


def samples():
    needed = yield b""
    while True:
        needed = yield bytes(2 * needed)


generator = samples()
next(generator)
device = miniaudio.PlaybackDevice(output_format=miniaudio.SampleFormat.SIGNED16, nchannels=1, sample_rate=192000, buffersize_msec=1,
                                  backends=[miniaudio.Backend.NULL])
device.start(generator)
time.sleep(0.1)
sys.exit(7)
