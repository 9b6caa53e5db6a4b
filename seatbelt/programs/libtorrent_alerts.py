"""libtorrent's network thread, which tells of alerts."""
# kind: E
# needs: libtorrent
# status: 7
import sys
import time

import libtorrent

session = libtorrent.session({"alert_mask": libtorrent.alert.category_t.all_categories,
                              "listen_interfaces": "127.0.0.1:0", "enable_dht": False})


def notify():
    session.pop_alerts()
    session.post_session_stats()


session.set_alert_notify(notify)
session.post_session_stats()
time.sleep(0.2)
sys.exit(7)
