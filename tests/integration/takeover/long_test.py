#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""500 live connections across 20 upgrades, in plain text and in tunnels of which both ends move; then the
same of two pods of the node without TLS (label nightly). The longest silence is printed; with
QANAT_MAX_SILENCE_MS it is held to that, which says something for a release build on an idle machine: what
the checker itself was busy for is printed beside it. QANAT_LONG="100 4" is a short form. `./run bench` has this
as rows of released programs, and nightly_upgrade_stall (tests/bench) holds them to 100 ms."""
import os
import unittest

from case import TakeoverCase

CONNECTIONS, UPGRADES = map(int, os.environ.get("QANAT_LONG", "500 20").split())


class Long(TakeoverCase):
    HBONE = True

    def test_across_upgrades(self):
        # Bulk at 64 KiB in a fifth of a second each: what is looked for is silence, not speed.
        moved, silences = self.upgrade_with_connections(CONNECTIONS, UPGRADES, 0.5, pace=0.2)
        # Those from outside one by one, those of `front` with their tunnels, or one by one.
        self.assertGreater(moved, UPGRADES * CONNECTIONS * (0.9 if self.ONE_PASS else 0.45))
        if limit := os.environ.get("QANAT_MAX_SILENCE_MS"):
            for kind in ("rr", "half"):
                self.assertLess(silences[kind] * 1000, float(limit), kind)


class LongOnePass(Long):
    ONE_PASS = True


if __name__ == "__main__":
    unittest.main(verbosity=2)
