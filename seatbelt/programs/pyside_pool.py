"""Qt's thread pool, with runnables of Python in flight."""
# kind: E
# needs: PySide6
# status: 7
import sys
import time

from PySide6.QtCore import QCoreApplication, QRunnable, QThreadPool

application = QCoreApplication([])


class Runnable(QRunnable):
    def run(self):
        over = time.monotonic() + 0.005
        while time.monotonic() < over:
            sum(range(100))


for _ in range(100):
    QThreadPool.globalInstance().start(Runnable())
time.sleep(0.05)
sys.exit(7)
