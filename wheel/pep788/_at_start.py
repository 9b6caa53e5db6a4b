"""Loads the library when Python starts, if PEP788_GILSTATE is set: pep788.pth, in the same folder as this package, imports this.
For `replay-exit` (PEP788_DISTURB), has the main thread leave when the library sends it a signal.

The library reads the setting itself when it is loaded. So this needs no LD_PRELOAD, and does the same in children of the
process: workers of gunicorn, celery, multiprocessing.
"""

import ctypes
import os
import sys

if os.environ.get("PEP788_GILSTATE"):
    name = "pep788.dll" if os.name == "nt" else "libpep788.so"
    try:
        ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", name))
    except OSError as error:
        print("libpep788: PEP788_GILSTATE is set, but the library cannot be loaded: %s" % error, file=sys.stderr)

if os.environ.get("PEP788_DISTURB"):
    import signal

    try:
        signal.signal(int(os.environ["PEP788_DISTURB"].split(",")[2]), lambda *_: sys.exit())
    except (IndexError, ValueError):
        pass  # Another interpreter's start, in another thread.
