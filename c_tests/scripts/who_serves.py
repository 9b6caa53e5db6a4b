# On 3.15 the library hands on to the interpreter, also in a process that finds the interpreter's functions
# first under every name; with PEP788_ENGINE=backport it serves itself. Before 3.15 it always does.
# link: library
# macos: no, what is loaded is read from /proc
# expect: stdout "as it should be"
# windows: no, there is no /proc
import ctypes
import os
import sys
import worker  # brings the library

with open("/proc/self/maps") as maps:
    library = next(line.split()[-1] for line in maps if "/libpep788" in line)
# By its handle: this one's function, whatever the process finds first.
from_main = ctypes.PyDLL(library).PyInterpreterView_FromMain
from_main.restype = ctypes.c_void_p
is_ours = from_main() & 2 != 0  # the bit of a view; the interpreter's are plain addresses
expected = sys.version_info < (3, 15) or os.environ.get("PEP788_ENGINE") == "backport"
print("as it should be" if is_ours == expected else "served by the library: %s" % is_ours)
