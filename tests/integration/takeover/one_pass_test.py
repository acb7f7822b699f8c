#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Connections between two pods of the node, without TLS and in one pass, go from one process to the next:
also those that have become bulk and are moved inside the kernel."""
import time
import unittest

from bed import Proxy, ip, talk, wait_listening
from case import TakeoverCase


class OnePass(TakeoverCase):
    HBONE = ONE_PASS = True

    def test_live_connections_go_on(self):
        proxy = self.first()
        finish = self.bed.start_clients(30)
        # Half of them come from `front`; its other half comes in plain text from outside.
        self.assertGreaterEqual(proxy.metric("qanat_one_pass_connections_total", "taken"), 15)
        self.assertEqual(proxy.established(15008), set(), "there is a tunnel: this is another path")
        for number in range(4):
            proxy.wait_for("bulk to be spliced", lambda: proxy.pipes() > 0)
            wait_listening(self.bed.takeover)
            old, proxy = proxy, Proxy(self.bed, f"next-{number}", takeover=self.bed.takeover)
            old.wait_log("given to the new process")
            proxy.wait_for("readiness", lambda: proxy.ready() == "")
            self.assertEqual(old.metric("qanat_takeover_items_total", 'side="old",result="refused"'), 0)
            self.assertGreaterEqual(old.metric("qanat_takeover_items_total", 'side="old",result="moved"'), 2 + 30 - 2 * 3)
            old.kill()  # nothing of it is needed
            time.sleep(0.3)
        self.assertEqual(self.bed.inside("front", talk, (ip("back"), 7000), b"served", 10)[0], "ok")
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
