#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Users' connections take every file descriptor that the node proxy has for them: those that are open go on, who comes
waits, and the process itself goes on too. A proxy whose probes fail then would be ended, and all connections with it."""
import os
import re
import unittest

import netns
from bed import until
from inbound import Inbound

FILES = 400
KEPT = 64  # of that few; otherwise a sixteenth of them. Half of it is for connections that were taken.


class Descriptors(Inbound):
    limit = FILES

    def open(self, timeout=5):
        sock = netns.connect(self.peer.name, self.pod.ip, 8080, timeout)
        sock.sendall(b"x")
        return sock

    @staticmethod
    def answered(sock):
        try:
            return sock.recv(1) == b"x"
        except TimeoutError:
            return False

    def used(self):
        return len(os.listdir(f"/proc/{self.bed.program.pid}/fd"))

    def metric(self, name):
        return float(re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.bed.get(15020, "/metrics")[1], re.M)[1])

    def test_what_is_left_when_there_is_none(self):
        tunnel = self.tunnel()
        self.assertEcho(tunnel.connect(self.to()))
        held = [self.open()]
        self.addCleanup(lambda: [sock.close() for sock in held])
        while self.answered(held[-1]):
            self.assertLess(len(held), FILES)
            held.append(self.open())
        waiting = held.pop()
        self.addCleanup(waiting.close)
        self.assertGreater(len(held), 50)

        with self.subTest("others of the process"):
            self.assertLess(self.used(), FILES - KEPT + 10)
            for _ in range(3):
                self.assertEqual(self.bed.get(15021, "/healthz/ready")[0], 200)
                self.assertEqual(self.bed.get(15000, "/config_dump")[0], 200)
            self.assertGreater(self.metric("qanat_accept_paused_total"), 0)
            self.assertEqual(self.metric("process_max_fds"), FILES)
            self.assertIn("raise the limit of open files", self.bed.logged())
        with self.subTest("streams of a tunnel that is there"):
            streams = [tunnel.connect(self.to())]
            while streams[-1].status() == 200:
                self.assertLess(len(streams), KEPT)
                streams.append(tunnel.connect(self.to()))
            self.assertEqual(streams[-1].status(), 503)
            self.assertLess(self.used(), FILES - KEPT / 4)
            self.assertEqual(self.bed.get(15021, "/healthz/ready")[0], 200)
            until("it has its reason", lambda: 'reason="resource_exhausted"' in self.bed.get(15020, "/metrics")[1])
        with self.subTest("who was there"):
            for sock in held:
                sock.sendall(b"x")
                self.assertTrue(self.answered(sock))
        with self.subTest("room again"):
            while len(held) > 20:
                held.pop().close()
            waiting.settimeout(60)
            self.assertTrue(self.answered(waiting), "it stood in the queue")
            until("a tunnel's stream", lambda: tunnel.connect(self.to()).status() == 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
