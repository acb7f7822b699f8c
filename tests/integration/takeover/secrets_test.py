#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a process has given it cannot use any more: the secrets of the tunnels that went to the next one, and
the keys that follow from them, are nowhere in its memory, neither when they were its own from the beginning
nor when another process had given them to it."""
import time
import unittest

import memory
from bed import Proxy
from case import TakeoverCase
from tunnel_test import TIMES, TLS, TUNNEL, WRITE_SECRET, Watching, fields

CIPHER, READ_SECRET = 2, 3  # common/tls/tls_handover.cc


class Keeping(Watching):
    """Knows the secrets of all tunnels that went over: {(tunnel, what it is): bytes}."""

    def __init__(self, bed, **more):
        self.secrets = {}
        super().__init__(bed, lambda count: None, {}, **more)

    def on_tunnel(self, item, tunnel):
        tls = fields(tunnel[TLS])
        cipher = int.from_bytes(tls[CIPHER], "big")
        for name, tag in (("read", READ_SECRET), ("write", WRITE_SECRET)):
            self.secrets[item, name + " secret"] = tls[tag]
            self.secrets[item, name + " key"] = memory.record_key(cipher, tls[tag])


class Secrets(TakeoverCase):
    HBONE = True

    def test_what_was_given_is_forgotten(self):
        levels = {"RUST_LOG": "trace"}
        processes, path = [self.first(more=levels)], self.bed.takeover
        finish = self.bed.start_clients(20)
        for number in range(2):
            middle = Keeping(self.bed, name=f"middle-{number}", old=path)
            new = Proxy(self.bed, f"next-{number}", takeover=middle.path, more=levels)
            _, refused = processes[-1].given()
            self.assertEqual(refused, 0)
            processes.append(new)
            time.sleep(TIMES)
            # What its owner has is found, so that this can see it; a tunnel that nothing goes over may have ended.
            owned = {key for key in middle.secrets if middle.tunnels[key[0]] > 0}
            self.assertGreaterEqual(len(owned), 2 * 4)
            self.assertEqual(owned - set(memory.find(new.pid, middle.secrets)), set())
            for old in processes[:-1]:
                self.assertIsNone(old.process.poll())
                self.assertEqual(memory.find(old.pid, middle.secrets), {}, old.name)
            path = middle.path
            # Nor in what they say, at the most talkative level.
            for process in processes:
                said = process.text().lower()
                self.assertIn("\tdebug\t", said)
                for key, secret in middle.secrets.items():
                    self.assertNotIn(secret.hex(), said, key)
        print(f"{len(middle.secrets)} secrets and keys of {len(middle.tunnels)} tunnels")
        self.assertGreaterEqual(len(middle.tunnels), 2)
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
