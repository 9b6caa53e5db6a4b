"""GDBus signals through PyGObject, handled in main loops of GLib that run in threads of a C++ library."""
# needs: gi
import ctypes
import socket
import sys
import time

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio

library = ctypes.PyDLL(sys.argv[1])
glib = ctypes.CDLL("libglib-2.0.so.0")
glib.g_main_context_new.restype = ctypes.c_void_p


def connect(end):
    stream = Gio.Socket.new_from_fd(end.detach()).connection_factory_create_connection()
    # Neither client nor server: with nobody to authenticate to.
    return Gio.DBusConnection.new_sync(stream, None, Gio.DBusConnectionFlags.NONE, None, None)


# Each other's peers: there is no bus.
here, there = map(connect, socket.socketpair())


def signalled(connection, sender, path, *unused):
    library.call_begun()
    sum(range(50))
    there.emit_signal(None, path, "example.Ring", "Turn", None)
    there.flush_sync(None)
    library.call_ended()


for path in "/a", "/b", "/c", "/d":
    context = ctypes.c_void_p(glib.g_main_context_new())
    # A subscription's signals come to the context that was the thread's then.
    glib.g_main_context_push_thread_default(context)
    here.signal_subscribe(None, "example.Ring", "Turn", path, None, Gio.DBusSignalFlags.NONE, signalled)
    glib.g_main_context_pop_thread_default(context)
    library.start_main_loop(glib.g_main_context_iteration, context)
    # Each is answered by the next; of two there is always one on its way.
    for _ in range(2):
        there.emit_signal(None, path, "example.Ring", "Turn", None)
time.sleep(0.05)
