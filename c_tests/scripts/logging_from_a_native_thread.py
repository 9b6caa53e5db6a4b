# A native thread logs through Python's logging while the script exits, and no line is lost.
# expect: stderr "line 49"
import atexit
import itertools
import logging
import worker

logging.basicConfig()
numbers = itertools.count()
worker.work(lambda: logging.warning("line %d", next(numbers)))
atexit.register(worker.go)
