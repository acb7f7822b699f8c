#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Processes of different versions: what the new one does not know stays with the old one, which finishes
it; what only one of them says, and does not matter, is passed over."""
import struct
import time
import unittest

from bed import ENROLLED, Proxy, ip, talk
from case import TakeoverCase
from takeover_test import STATE, Middle
from tunnel_test import TUNNEL, all_fields

# common/takeover/wire.h
HEAD, LARGEST = 20, 20 + (48 << 10)
MORE = 1
# common/takeover/fields.h; a field that no version has had yet
CRITICAL, NEW = 0x8000, 999
LISTENERS = {1, 2}  # the first items


def field(tag, value):
    return struct.pack(">HI", tag, len(value)) + value


def raw_fields(data):
    """[(tag with its mark, value)]"""
    out = []
    while data:
        tag, size = struct.unpack(">HI", data[:6])
        out.append((tag, data[6:6 + size]))
        data = data[6 + size:]
    return out


class Editing(Middle):
    """Between two processes that are built from the same text: makes one of them another version."""

    def __init__(self, bed, edit, **more):
        self.edit, self.edited = edit, 0
        super().__init__(bed, lambda count: None, **more)

    def change(self, data):
        changed = self.edit(data)
        self.edited += changed != data
        return changed


def of_connections(edit):
    """Edits the last part of the state of each connection and tunnel; `edit` gets what is in it, and
    whether that is all."""
    def change(data):
        kind, item, flags = struct.unpack(">6xHQ2xH", data[:HEAD])
        if kind != STATE or item in LISTENERS:
            return data
        whole, change.begun = not change.begun, bool(flags & MORE)
        if flags & MORE:
            return data
        out = data[:HEAD] + edit(data[HEAD:], whole)
        return out if len(out) <= LARGEST else data
    change.begun = False
    return change


def without_what_does_not_matter(body, whole):
    """As a version says it that knows the critical fields only."""
    if not whole or any(tag == TUNNEL for tag, _ in all_fields(body)):
        return body
    return b"".join(field(tag, value) for tag, value in raw_fields(body) if tag & CRITICAL)


class Versions(TakeoverCase):
    HBONE = True

    def take_over(self, edit, count=20):
        """(old, new, how many were given, how many refused), with live connections, and what ends them."""
        old = self.first()
        finish = self.bed.start_clients(count)
        middle = Editing(self.bed, edit)
        new = Proxy(self.bed, "second", takeover=middle.path)
        given, refused = old.given()
        new.wait_for("readiness", lambda: new.ready() == "")
        self.assertGreater(middle.edited, 0)
        return old, new, given - len(ENROLLED), refused, finish

    def finished_by(self, old, new, finish):
        """Nothing of what stayed is lost, while the new one serves who comes."""
        time.sleep(0.5)
        for pod in ("out", "front"):
            self.assertEqual(self.bed.inside(pod, talk, (ip("back"), 7000), b"served", 10)[0], "ok")
        self.assertTrue(old.process.poll() is None)
        results = finish()
        self.assertEqual([failed for _, failures in results for failed in failures], [])
        for summary, _ in results:
            for kind, (_, total, _) in summary.items():
                self.assertGreater(total, 0, kind)
        self.assertEqual(old.stop(), 0)
        self.assertEqual(self.bed.inside("out", talk, (ip("back"), 7000), b"served", 10)[0], "ok")

    def test_what_the_new_one_does_not_know_stays(self):
        old, new, moved, refused, finish = self.take_over(of_connections(lambda body, _: body + field(CRITICAL | NEW, b"it matters")))
        print(f"{refused} connections and tunnels are refused, {moved} move")
        self.assertEqual(moved, 0)
        self.assertGreaterEqual(refused, 10 + 2)  # those in plain text, and tunnels
        self.assertIn("field 999 is of another version", old.text())
        self.finished_by(old, new, finish)

    def test_what_a_newer_one_says_besides_is_passed_over(self):
        old, new, moved, refused, finish = self.take_over(of_connections(lambda body, _: body + field(NEW, b"besides")))
        self.assertEqual(refused, 0)
        self.assertGreaterEqual(moved, 10 + 2)
        old.kill()  # it has nothing of theirs any more
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])

    def test_what_an_older_one_does_not_say_has_a_default(self):
        old, new, moved, refused, finish = self.take_over(of_connections(without_what_does_not_matter))
        self.assertEqual(refused, 0)
        self.assertGreaterEqual(moved, 10 + 2)
        old.kill()
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])

    def test_a_protocol_that_is_not_known(self):
        """Nothing can be taken, not even listeners: both serve, until the old one has finished what it has."""
        for name, number in (("both", 2), ("older", 0)):
            with self.subTest(name):
                old = Proxy(self.bed, f"old-{name}", takeover=self.bed.takeover)
                old.wait_served()
                finish = self.bed.start_clients(10)
                load = self.bed.start_load(threads=2)
                middle = Editing(self.bed, lambda data: data[:4] + struct.pack(">H", number) + data[6:], name=f"middle-{name}")
                new = Proxy(self.bed, f"new-{name}", takeover=middle.path)
                new.wait_served()
                new.wait_for("readiness", lambda: new.ready() == "")
                self.assertIn(f"version {number} of the protocol", old.text() + new.text())
                for counts, _, others in load():
                    self.assertEqual(set(counts), {"ok"}, others[:3])
                self.finished_by(old, new, finish)
                new.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
