"""Lets extension modules find the library's functions before the interpreter's own of that name.

An executable that carries the interpreter is searched before a module's libraries, so that on 3.15
a module linked with the library would call the interpreter all the same.
"""

import os
import sys

sys.setdlopenflags(os.RTLD_NOW | os.RTLD_DEEPBIND)
