"""Loads the library when Python starts, if PEP788_GILSTATE is set: pep788.pth, in the same folder as this package, imports this.

The library reads the setting itself when it is loaded. So this needs no LD_PRELOAD, and does the same in children of the
process: workers of gunicorn, celery, multiprocessing.
"""

import ctypes
import os
import sys

try:
    ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", "libpep788.so"))
except OSError as error:
    print("libpep788: PEP788_GILSTATE is set, but the library cannot be loaded: %s" % error, file=sys.stderr)
