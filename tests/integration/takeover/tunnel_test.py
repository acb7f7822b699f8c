#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tunnels with their streams go from one process to the next, both ends of them, with real processes."""
import struct
import threading
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
        self.tunnels[item] = sum(tag == STREAM for tag, _ in all_fields(tunnel))
        tls = fields(fields(tunnel)[TLS])
        self.half_written += len(tls[UNSENT]) > 0
        self.seen.setdefault(tls[WRITE_SECRET], []).append(int.from_bytes(tls[WRITE_SEQUENCE], "big"))

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

    def kill_at(self, number, which):
        """Takes over with live connections; the old or the new one dies just before message `number`.
        How many of three plain ones, and of three that are a stream of two tunnels each, ended."""
        old = Proxy(self.bed, f"old-{number}-{which}", takeover=self.bed.takeover)
        old.wait_served()
        finish = self.bed.start_clients(6)
        processes, ready = {"old": old}, threading.Event()

        def at(count):
            if count == number:
                ready.wait()
                processes[which].kill()
        middle = Watching(self.bed, at, {})
        processes["new"] = new = Proxy(self.bed, f"new-{number}-{which}", takeover=middle.path)
        ready.set()
        victim, end = processes[which].process, time.monotonic() + 30
        while victim.poll() is None and time.monotonic() < end:
            if "given to the new process" in old.text():  # there were fewer messages
                processes[which].kill()
            time.sleep(0.02)
        self.assertIsNotNone(victim.poll(), "it was not killed")
        middle.thread.join(60)
        if which == "old":
            new.wait_served()
        time.sleep(0.5)
        (_, in_tunnels), (_, plain) = finish()
        for failed in in_tunnels + plain:
            self.assertNotIn("other bytes", failed)
            self.assertNotIn("bytes behind", failed)
        # The first items were the pods' listeners.
        listeners = {1, 2}
        accepted, committed = middle.items(ACCEPTED, listeners), middle.items(COMMITTED, listeners)
        for proxy in (old, new):
            if proxy is processes[which]:
                continue
            for pod in ("out", "front"):
                self.assertEqual(self.bed.inside(pod, talk, (ip("back"), 7000), b"served", 10)[0], "ok")
            proxy.stop()
        how = f"{which} at {number}: accepted {accepted}, committed {committed} of (3, 6); ended {plain} {in_tunnels}"
        if which == "old":  # it took with it what it had not given
            self.assertEqual(len(plain), 3 - committed[0], how)
            lost = most = 6 - committed[1]
        else:  # it took with it what it had been given, at most what it had said it could take
            self.assertGreaterEqual(len(plain), committed[0], how)
            self.assertLessEqual(len(plain), accepted[0], how)
            lost, most = committed[1], accepted[1]
        self.assertGreaterEqual(2 * len(in_tunnels), lost, how)
        self.assertLessEqual(len(in_tunnels), most, how)
        return len(plain), len(in_tunnels)

    def test_either_dies_with_live_connections(self):
        """Exactly what was with the dead one ends, and what was between the two: nothing else does, and
        nobody's bytes are others."""
        old = self.first()
        finish = self.bed.start_clients(6)
        middle = Watching(self.bed, lambda count: None, {})
        new = Proxy(self.bed, "second", takeover=middle.path)
        old.wait_log("given to the new process")
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])
        messages = len(middle.passed)
        first = [kind for kind, _ in middle.said].index(ACCEPTED)
        old.stop()
        new.stop()
        ended = {}
        for which in ("old", "new"):
            for number in range(first, messages, 4):
                with self.subTest(which=which, number=number):
                    ended[which, number] = self.kill_at(number, which)
        print("ended (plain, in tunnels):", ended)
        self.assertIn((0, 0), ended.values())
        self.assertIn((3, 3), ended.values())


if __name__ == "__main__":
    unittest.main(verbosity=2)
