#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Either process is killed in the middle of a take-over with live connections, at every kind of message, before
and after it arrives. Exactly what was with the dead one ends, and what was between the two: nothing else
does, nobody's bytes are others, and the survivor serves who comes, soon. The survivor is the old process of
the next take-over. With QANAT_EVERY_MESSAGE=1 it is every message (label nightly)."""
import os
import struct
import threading
import time
import unittest
from typing import NamedTuple

from bed import Proxy, ip, talk
from case import TakeoverCase
from tunnel_test import Watching

# common/takeover/wire.h
KINDS = ("", "hello", "ask", "offer", "asked", "want", "state", "accepted", "refused", "committed", "withdrawn", "finished")
LISTENERS = {1, 2}  # the first items
PLAIN = IN_TUNNELS = 3  # connections; the second are a stream of two tunnels each


class Point(NamedTuple):
    """The message at which somebody dies: the first of its name, or by its number."""
    name: str
    after: bool = False

    def __str__(self):
        return f"{'after' if self.after else 'before'} {self.name}"


class Deadly(Watching):
    """Calls `strike` at that point, once. Each message has a name: its number and what it is."""

    def __init__(self, bed, point, strike, **more):
        self.point, self.strike, self.names, self.struck = point, strike, [], False
        super().__init__(bed, lambda count: self.hit(False), {}, **more)

    def watch(self, data):
        super().watch(data)
        kind, item = struct.unpack(">6xHQ", data[:16])
        kind = KINDS[kind]
        if kind in ("hello", "ask", "asked"):
            kind += f" {sum(name.startswith(kind + ' ') for name in self.names) + 1}"
        elif item:
            kind += " of listeners" if item in LISTENERS else " of connections"
        self.names.append(kind)

    def has_passed(self):
        self.hit(True)

    def hit(self, after):
        if self.struck or after != self.point.after:
            return
        if self.point.name in (self.names[-1], str(len(self.names) - 1)):
            self.struck = True
            self.strike()


class Deaths(TakeoverCase):
    HBONE = True

    def setUp(self):
        super().setUp()
        self.path, self.rounds = self.bed.takeover, 0
        self.old = self.first()

    def go_between(self, point, strike):
        self.rounds += 1
        return Deadly(self.bed, point, strike, name=f"middle-{self.rounds}", old=self.path)

    def kill_at(self, point, which):
        """How many connections (plain, in tunnels) ended, or None: there was no such message."""
        processes, ready = {"old": self.old}, threading.Event()

        def strike():
            ready.wait()
            processes[which].kill()
        said_before = self.old.text().count("given to the new process")
        middle = self.go_between(point, strike)
        finish = self.bed.start_clients(PLAIN + IN_TUNNELS)
        old, new = self.old, Proxy(self.bed, f"process-{self.rounds}", takeover=middle.path)
        processes["new"] = new
        ready.set()
        victim, survivor = (old, new) if which == "old" else (new, old)
        end = time.monotonic() + 30
        while victim.process.poll() is None and time.monotonic() < end:
            if not middle.struck and old.text().count("given to the new process") > said_before:
                break
            time.sleep(0.02)
        struck = middle.struck
        if not struck:
            victim.kill()
        self.assertIsNotNone(victim.process.poll(), "it was not killed")
        died = time.monotonic()
        # Before anybody is forked: with what is in its hands a child would hold a tunnel that is to end.
        middle.thread.join(20)
        self.assertFalse(middle.thread.is_alive(), "they still talk")
        for pod in ("out", "front"):
            survivor.wait_for("readiness", lambda: survivor.ready() == "", 20)
            self.assertEqual(self.bed.inside(pod, talk, (ip("back"), 7000), b"served", 10)[0], "ok")
        self.longest = max(self.longest, time.monotonic() - died)
        (_, in_tunnels), (_, plain) = finish()
        if which == "old":
            self.old, self.path = new, middle.path
        for failed in in_tunnels + plain:
            for wrong in ("other bytes", "bytes behind", "missing"):
                self.assertNotIn(wrong, failed)
        self.judge(which, middle, len(plain), len(in_tunnels), f"{which} {point}: {plain} {in_tunnels}")
        return (len(plain), len(in_tunnels)) if struck else None

    def judge(self, which, middle, plain, in_tunnels, how):
        accepted, committed = (middle.items(KINDS.index(kind), LISTENERS) for kind in ("accepted", "committed"))
        how += f"; accepted {accepted}, committed {committed} of ({PLAIN}, {2 * IN_TUNNELS})"
        if which == "old":  # it took with it what it had not given
            self.assertEqual(plain, PLAIN - committed[0], how)
            lost = most = 2 * IN_TUNNELS - committed[1]
        else:  # it took with it what it had been given, at most what it had said it could take
            self.assertGreaterEqual(plain, committed[0], how)
            self.assertLessEqual(plain, accepted[0], how)
            lost, most = committed[1], accepted[1]
        self.assertGreaterEqual(2 * in_tunnels, lost, how)
        self.assertLessEqual(in_tunnels, most, how)

    def names(self):
        """All messages of a take-over in which nobody dies."""
        finish = self.bed.start_clients(PLAIN + IN_TUNNELS)
        middle = self.go_between(Point("none"), None)
        new = Proxy(self.bed, "quiet", takeover=middle.path)
        self.old.given()
        new.wait_for("readiness", lambda: new.ready() == "")
        self.old.kill()  # nothing of it is needed
        self.old, self.path = new, middle.path
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])
        return list(middle.names)

    def points(self, names, kinds):
        if os.environ.get("QANAT_EVERY_MESSAGE"):
            return [(which, Point(str(number), after)) for which in ("old", "new") for number in range(len(names)) for after in (False, True)]
        return [*(("old", Point(kind)) for kind in kinds), ("old", Point("committed of connections", True)), ("old", Point("finished", True)),
                *(("new", Point(f"{kind} of connections")) for kind in ("state", "accepted", "committed"))]

    def test_either_dies(self):
        names, self.longest, begin = self.names(), 0.0, time.monotonic()
        kinds = list(dict.fromkeys(names))
        for kind in ("offer", "want", "state", "accepted", "committed"):
            self.assertIn(f"{kind} of listeners", kinds)
            self.assertIn(f"{kind} of connections", kinds)
        self.assertLessEqual({"hello 1", "hello 2", "ask 1", "asked 1", "ask 2", "asked 2", "finished"}, set(kinds))
        points, ended = self.points(names, kinds), {}
        for which, point in points:
            with self.subTest(which=which, point=str(point)):
                ended[which, point] = self.kill_at(point, which)
        struck = {at: how for at, how in ended.items() if how}
        print(f"{len(struck)} deaths in {time.monotonic() - begin:.0f} s, served again after at most {self.longest:.1f} s; ended (plain, in tunnels):")
        print("  " + ", ".join(f"{which} {point}: {how}" for (which, point), how in struck.items()))
        self.assertGreaterEqual(len(struck), 0.9 * len(points))
        # A take-over ends with all or nothing, where it was over or had not begun.
        self.assertEqual(struck.get(("old", Point("hello 1")), (PLAIN, IN_TUNNELS)), (PLAIN, IN_TUNNELS))
        self.assertEqual(struck.get(("old", Point("finished")), (0, 0)), (0, 0))
        self.assertIn((0, 0), struck.values())
        self.assertIn((PLAIN, IN_TUNNELS), struck.values())


if __name__ == "__main__":
    unittest.main(verbosity=2)
