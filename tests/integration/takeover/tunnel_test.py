#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tunnels with their streams go from one process to the next, both ends of them, with real processes."""
import struct
import time
import unittest

from bed import ENROLLED, Proxy, ip, talk, write_file
from case import TakeoverCase
from takeover_test import Middle

# common/takeover/wire.h
STATE, ACCEPTED, COMMITTED = 6, 7, 9
# ztunnel/takeover/tunnel_state.cc, common/tls/tls_handover.cc
TUNNEL, TLS, STREAM = 100, 5, 7
WRITE_SECRET, WRITE_SEQUENCE, UNSENT = 4, 6, 11
TIMES = 0.3


def all_fields(data):
    """[(tag, value)] of a state."""
    out = []
    while len(data) >= 6:
        tag, size = struct.unpack(">HI", data[:6])
        out.append((tag & 0x7fff, data[6:6 + size]))
        data = data[6 + size:]
    return out


def fields(data):
    return dict(reversed(all_fields(data)))


class Watching(Middle):
    """Keeps what is said, {tunnel: its streams}, and of keys {secret: [next number, ...]}."""

    def __init__(self, bed, at, seen, **more):
        self.seen, self.parts, self.said, self.tunnels, self.half_written = seen, b"", [], {}, 0
        super().__init__(bed, at, **more)

    def watch(self, data):
        kind, item, more = struct.unpack(">6xHQ2xH", data[:20])
        if kind == STATE:
            self.parts += data[20:]
        if more & 1:
            return
        self.said.append((kind, item))
        if kind != STATE:
            return
        whole, self.parts = self.parts, b""
        tunnel = fields(whole).get(TUNNEL)
        if tunnel is None:
            return
        self.on_tunnel(item, fields(tunnel))
        self.tunnels[item] = sum(tag == STREAM for tag, _ in all_fields(tunnel))
        tls = fields(fields(tunnel)[TLS])
        self.half_written += len(tls[UNSENT]) > 0
        self.seen.setdefault(tls[WRITE_SECRET], []).append(int.from_bytes(tls[WRITE_SEQUENCE], "big"))

    def on_tunnel(self, item, tunnel):
        """The fields of one."""

    def items(self, kind, listeners):
        """(connections between sockets, streams of tunnels) of which that was said."""
        of = {item for said, item in self.said if said == kind} - listeners
        return len(of - set(self.tunnels)), sum(self.tunnels.get(item, 0) for item in of)


class Tunnels(TakeoverCase):
    HBONE = True

    def test_live_tunnels_go_on(self):
        moved, _ = self.upgrade_with_connections(40, 5, TIMES)
        self.assertGreater(moved, 5 * 12)

    def test_the_same_sockets_in_another_process(self):
        old = self.first()
        finish = self.bed.start_clients(24)
        before = old.established(15008)
        self.assertGreaterEqual(len(before), 2)  # both ends of a tunnel at least
        new = Proxy(self.bed, "second", takeover=self.bed.takeover)
        old.wait_log("given to the new process")
        # What it makes meanwhile (tunnels ahead of use, while others are busy) carries nothing yet.
        self.assertEqual(old.established(15008) & before, set())
        # One that nothing goes over yet ends there with the first certificate; one with streams stays.
        moved = new.established(15008) & before
        self.assertGreaterEqual(len(moved), 2)
        old.kill()  # nothing of it is needed any more
        time.sleep(1)
        # New connections find the tunnels that are there.
        self.assertEqual(self.bed.inside("front", talk, (ip("back"), 7000), b"x" * 5000, 10)[0], "ok")
        self.assertTrue(new.established(15008) & moved)
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])

    def test_no_number_is_used_twice(self):
        """From take-over to take-over a key's sequence number only grows, and its peer (which counts as
        well, and would end the connection) goes on."""
        seen, tunnels, path = {}, 0, self.bed.takeover
        old = self.first()
        finish = self.bed.start_clients(16)
        for number in range(4):
            middle = Watching(self.bed, lambda count: None, seen, name=f"middle-{number}", old=path)
            new = Proxy(self.bed, f"next-{number}", takeover=middle.path)
            old.wait_log("given to the new process")
            tunnels += len(middle.tunnels)
            old.kill()
            old, path = new, middle.path
            time.sleep(TIMES)
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])
        self.assertGreaterEqual(tunnels, 8)
        several = [numbers for numbers in seen.values() if len(numbers) > 1]
        self.assertTrue(several)
        for numbers in several:
            self.assertEqual(numbers, sorted(numbers))
        print(f"{tunnels} tunnels moved; numbers of their keys: {several}")

    def test_half_written_records_go_along(self):
        """Sockets take less than a record, so that most tunnels with bulk are in the middle of one."""
        for pod in ENROLLED:
            self.bed.inside(pod, write_file, "/proc/sys/net/ipv4/tcp_wmem", "4096 8192 8192")
        old, path, half_written = self.first(), self.bed.takeover, 0
        finish = self.bed.start_clients(20)
        for number in range(3):
            middle = Watching(self.bed, lambda count: None, {}, name=f"middle-{number}", old=path)
            new = Proxy(self.bed, f"next-{number}", takeover=middle.path)
            old.wait_log("given to the new process")
            half_written += middle.half_written
            old.kill()
            old, path = new, middle.path
            time.sleep(TIMES)
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])
        print(f"{half_written} tunnels moved in the middle of a record")
        self.assertGreater(half_written, 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
