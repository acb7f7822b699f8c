# SPDX-License-Identifier: Apache-2.0
"""What the tests of a take-over share: a bed, the first process, upgrades with live connections."""
import time
import unittest

from bed import ENROLLED, Bed, Proxy, wait_listening


class TakeoverCase(unittest.TestCase):
    HBONE = ONE_PASS = False

    def setUp(self):
        self.bed = Bed(self.HBONE, self.ONE_PASS)
        self.addCleanup(self.bed.close)

    def first(self, **options):
        proxy = Proxy(self.bed, "first", takeover=self.bed.takeover, **options)
        proxy.wait_served()
        wait_listening(self.bed.takeover)
        return proxy

    def upgrade_with_connections(self, count, upgrades, pause, pace=0):
        """Live connections of all kinds across upgrades; each byte of each is compared."""
        proxy = self.first()
        finish = self.bed.start_clients(count, pace)
        moved = 0
        for number in range(upgrades):
            old = proxy
            wait_listening(self.bed.takeover)
            proxy = Proxy(self.bed, f"next-{number}", takeover=self.bed.takeover)
            given, refused = old.given()
            moved += given - len(ENROLLED)
            self.assertEqual(refused, 0)
            self.assertEqual(old.stop(), 0)
            time.sleep(pause)
        stalls, problems = {}, []
        for summary, failures in finish():
            problems += failures
            for kind, (number, total, longest) in summary.items():
                stalls[kind] = max(stalls.get(kind, 0.0), longest)
                self.assertGreater(total, 0, kind)
        print(f"{count} connections, {upgrades} upgrades, {moved} moves; longest silence in ms:",
              {kind: round(longest * 1000) for kind, longest in stalls.items()})
        self.assertEqual(problems, [])
        return moved, stalls
