"""Qt's threads (QThread), which run Python: Nitrokey/nitrokey-app2#215, whatsnowplaying/whats-now-playing#265."""
# kind: E
# needs: PySide6
# status: 7
import sys
import time

from PySide6.QtCore import QThread

# Without an application: as soon as that is gone, which is an exit callback of PySide's, Qt aborts a process that has such threads.


class Loop(QThread):
    def run(self):
        while True:
            sum(range(50))


threads = [Loop() for _ in range(3)]
for thread in threads:
    thread.start()
time.sleep(0.1)
sys.exit(7)
