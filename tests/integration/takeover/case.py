# SPDX-License-Identifier: Apache-2.0
"""What the tests of a take-over share: a bed, the first process, upgrades with live connections."""
import time
import unittest
from collections import namedtuple

from bed import ENROLLED, Bed, Proxy, wait_listening

# What was moved by all upgrades together, and what the new processes refused; of connections, by kind, the longest
# silence in seconds (`itself`: the checker's own); what went wrong with connections, a line for each.
Across = namedtuple("Across", "moved refused silences failures")


def first_proxy(bed, **options):
    proxy = Proxy(bed, "first", takeover=bed.takeover, **options)
    proxy.wait_served()
    wait_listening(bed.takeover)
    return proxy


def across(bed, proxy, count, upgrades, pause, pace=0, seconds=0):
    """Live connections of all kinds, each byte of each compared, across upgrades, the first one of `proxy`; then for so
    many seconds more."""
    finish = bed.start_clients(count, pace)
    moved = refused = 0
    for number in range(upgrades):
        old = proxy
        wait_listening(bed.takeover)
        proxy = Proxy(bed, f"next-{number}", takeover=bed.takeover)
        given, not_taken = old.given()
        moved += given - len(ENROLLED)
        refused += not_taken
        if (ended := old.stop()) != 0:
            raise AssertionError(f"{old.name} ended with {ended}:\n{old.text()[-4000:]}")
        time.sleep(pause)
    time.sleep(seconds)
    silences, failures = {}, []
    for summary, failed in finish():
        failures += failed
        for kind, (_, total, longest) in summary.items():
            silences[kind] = max(silences.get(kind, 0.0), longest)
            if total == 0:
                raise AssertionError(f"no byte came over connections of kind {kind}")
    return Across(moved, refused, silences, failures)


class TakeoverCase(unittest.TestCase):
    HBONE = ONE_PASS = False

    def setUp(self):
        self.bed = Bed(self.HBONE, self.ONE_PASS)
        self.addCleanup(self.bed.close)

    def first(self, **options):
        return first_proxy(self.bed, **options)

    def upgrade_with_connections(self, count, upgrades, pause, pace=0):
        found = across(self.bed, self.first(), count, upgrades, pause, pace)
        print(f"{count} connections, {upgrades} upgrades, {found.moved} moves; longest silence in ms:",
              {kind: round(longest * 1000) for kind, longest in found.silences.items()})
        self.assertEqual(found.refused, 0)
        self.assertEqual(found.failures, [])
        return found.moved, found.silences
