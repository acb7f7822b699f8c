#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The bench's rows of an upgrade, held to what they may be (label nightly): 500 connections, 20 upgrades, no byte lost or
altered, no stall above 100 ms. Of released programs (QANAT_RELEASE_BIN_DIR; without it there is nothing to be shown): a
sanitizer's take several times as long. Where the same connections stall that long without an upgrade too, the machine is
busy with something else and the stall says nothing: then that is said, and only the bytes count."""
import os
import sys
import types
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import upgrade  # noqa: E402

ATTEMPTS = 3  # the longest of thousands of waits is easily somebody else's


def row(**changes):
    return {"row": "x", "connections": 500, "upgrades": 20, "moved": 9000, "not_taken": 0, "lost_or_altered": 0, "first_loss": None,
            "stall_ms": 60.0, "without_ms": 40.0, "checker_ms": 20.0, "refused": None, **changes}


class Judged(unittest.TestCase):
    def test_what_is_refused(self):
        self.assertIsNone(upgrade.why_not(row()))
        self.assertRegex(upgrade.why_not(row(lost_or_altered=2, first_loss="rr at talk: other bytes")), "2 of 500 .*other bytes")
        self.assertIn("3 of what", upgrade.why_not(row(not_taken=3)))
        self.assertIn("only 4000 moves", upgrade.why_not(row(moved=4000)))

    def test_what_is_too_long(self):
        self.assertEqual(upgrade.over([row(), row(refused="why", stall_ms=500)]), [])
        self.assertEqual(upgrade.over([row(stall_ms=130.0)]), ["x: 130 ms, may be 100"])
        self.assertIn("cannot tell", upgrade.over([row(stall_ms=300.0, without_ms=200.0)])[0])

    def test_names(self):
        options = types.SimpleNamespace(quick=False, no_upgrades=False, path=None, only="")
        self.assertEqual(len(upgrade.names(options)), len(upgrade.WAYS))
        self.assertEqual(list(upgrade.names(types.SimpleNamespace(**{**vars(options), "only": "no tls"}))),
                         ["upgrade: 500 connections, 20 upgrades, same node, no TLS"])
        for change in ({"no_upgrades": True}, {"only": "bulk"}, {"path": ["same-node"]}):
            self.assertEqual(upgrade.names(types.SimpleNamespace(**{**vars(options), **change})), {})


class Stall(unittest.TestCase):
    def measured(self, name, way):
        refusals = []
        bench = types.SimpleNamespace(options=types.SimpleNamespace(quick=False), say=print,
                                      refuse=lambda row, wrong: refusals.append(wrong))
        found = upgrade.measure(bench, {name: way})[0]
        self.assertEqual(refusals, [])
        return found

    def test_every_way(self):
        programs = os.environ.get("QANAT_RELEASE_BIN_DIR", "")
        if not os.path.exists(f"{programs}/qanat-ztunnel"):
            self.skipTest("QANAT_RELEASE_BIN_DIR has no released ztunnel (./run test --nightly builds it)")
        os.environ["QANAT_BIN_DIR"] = programs
        for way in upgrade.WAYS:
            with self.subTest(way):
                for _ in range(ATTEMPTS):
                    found = self.measured(way, way)
                    print(f"{way}: {found}")
                    if not (long := upgrade.over([found])):
                        break
                if long and found["without_ms"] <= upgrade.LIMIT_MS:
                    self.fail(long[0])
                if long:
                    print(f"not judged: {long[0]}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
