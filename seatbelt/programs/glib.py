"""Signals of GDBus objects, and idle callbacks, in a main loop of GLib in a thread, through PyGObject."""
# needs: gi
import sys
import threading
import time

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib

context = GLib.MainContext.new()


def task_done(*unused):
    Gio.Task.new(None, None, task_done).run_in_thread(work)


def work(task, *unused):
    sum(range(50))


for _ in range(4):
    # In threads of GLib's own pool.
    task_done()


def idle(*unused):
    sum(range(50))
    return True


source = GLib.idle_source_new()
source.set_callback(idle)
source.attach(context)
loop = GLib.MainLoop.new(context, False)
threading.Thread(target=loop.run, daemon=True).start()
time.sleep(0.05)
