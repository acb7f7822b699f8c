# SPDX-License-Identifier: Apache-2.0
"""The node proxy is killed while the control plane is away, and starts again from what it saved."""
import os
import signal
import socket
import time
import unittest

import netns
from ads import ADDRESS, AUTHORIZATION, policy, workload
from bed import Bed, Case, until

PORT = 8080


class Restart(Case):
    def setUp(self):
        bed = self.use(Bed(pods=("client", "other", "server"), auto=True, environment={"ENABLE_ORIG_SRC": "false"}))
        self.saved = os.path.join(bed.folder, "state")
        bed.environment["QANAT_STATE_DIR"] = self.saved
        for name in ("client", "other", "server"):
            bed.ads.resources[ADDRESS].update([workload(name, "near", name, bed.pods[name])])
        bed.ads.resources[AUTHORIZATION].update([self.deny("other", "no-other")])
        self.listener = netns.listen(bed.pods["server"].name, "0.0.0.0", PORT)
        bed.closers.append(self.listener)
        import threading
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                sock, _ = self.listener.accept()
                sock.sendall(b"hello")
                sock.close()
            except OSError:
                return

    @staticmethod
    def deny(account, name):
        return policy(name, "near", 1, {"principals": [{"exact": f"cluster.local/ns/near/sa/{account}"}]})

    def reaches(self, name):
        try:
            with netns.connect(self.bed.pods[name].name, self.bed.pods["server"].ip, PORT, timeout=10) as sock:
                return sock.recv(5, socket.MSG_WAITALL) == b"hello"
        except OSError:
            return False

    def state(self):
        return self.bed.dump()["meshState"]["freshness"]

    def metric(self, name):
        text = self.bed.get(15020, "/metrics")[1]
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " ")), None)

    def begin(self):
        self.bed.start().enrol()
        until("the client gets through", lambda: self.reaches("client"))
        self.assertFalse(self.reaches("other"))
        self.wait_saved(b"/near/client", b"/near/other", b"/near/server", b"no-other")
        self.assertEqual(os.stat(os.path.join(self.saved, "mesh.state")).st_mode & 0o777, 0o600)

    def wait_saved(self, *names):
        """A thread of its own writes the file."""
        def look():
            with open(os.path.join(self.saved, "mesh.state"), "rb") as f:
                text = f.read()
            return all(name in text for name in names)
        until("it is saved", look)

    def kill_and_start(self):
        self.assertEqual(self.bed.stop(signal.SIGKILL), -signal.SIGKILL)
        self.bed.start().enrol()

    def test_control_plane_away(self):
        self.begin()
        self.bed.xds_server.close()
        self.kill_and_start()
        until("the client gets through", lambda: self.reaches("client"))
        self.assertFalse(self.reaches("other"))
        self.assertEqual(self.state(), "saved")
        status, text = self.bed.get(15021, "/healthz/ready")
        self.assertEqual(status, 500)
        self.assertRegex(text, r"xds \(saved state of 20..-..-..T..:..:..Z\)")
        self.assertEqual(self.metric("qanat_saved_state_expired"), 0)
        # Again, from the file of the first one.
        self.kill_and_start()
        until("the client gets through", lambda: self.reaches("client"))
        self.assertFalse(self.reaches("other"))
        # Back, with another policy.
        del self.bed.ads.resources[AUTHORIZATION]["near/no-other"]
        self.bed.ads.auto = False
        streams = len(self.bed.ads.streams)
        self.bed.xds_server.open()
        stream = self.bed.ads.stream(streams)
        held = {name: "1" for name in self.bed.ads.resources[ADDRESS]}
        self.assertEqual(stream.first(ADDRESS).get("initial_resource_versions"), held)
        self.assertEqual(stream.first(AUTHORIZATION).get("initial_resource_versions"), {"near/no-other": "1"})
        stream.wait_answer(stream.respond(ADDRESS))
        self.assertEqual(self.state(), "saved", "not before everything is confirmed")
        name, body = self.deny("client", "no-client")
        stream.wait_answer(stream.respond(AUTHORIZATION, [(name, "2", body)], ["near/no-other"]))
        until("live", lambda: self.state() == "live")
        until("the new policy holds", lambda: not self.reaches("client"))
        self.assertTrue(self.reaches("other"))
        until("ready", self.bed.ready)
        self.assertEqual(self.metric("qanat_saved_state_age_seconds"), 0)
        # And that is what the next one begins with.
        self.wait_saved(b"no-client")
        self.bed.xds_server.close()
        self.kill_and_start()
        until("other gets through", lambda: self.reaches("other"))
        self.assertFalse(self.reaches("client"))

    def test_authority_away_too(self):
        """No keys are saved: what needs one is refused, and says why; nothing goes without."""
        self.begin()
        self.bed.xds_server.close()
        self.bed.ca_server.close()
        self.kill_and_start()
        self.assertFalse(self.reaches("client"))
        until("said", lambda: "no certificate for spiffe://cluster.local/ns/near/sa/client" in self.bed.logged())
        self.assertIn("Keys are not saved", self.bed.logged())
        self.bed.ca_server.open()
        until("the client gets through", lambda: self.reaches("client"), 60)
        self.assertFalse(self.reaches("other"))

    def test_too_old(self):
        self.begin()
        self.bed.xds_server.close()
        self.bed.environment["QANAT_MAX_STALE"] = "1s"
        self.bed.stop(signal.SIGKILL)
        time.sleep(2)
        self.bed.start().enrol()
        until("expired", lambda: self.state() == "expired")
        self.assertFalse(self.reaches("client"), "a DENY policy selects the server")
        until("counted", lambda: "stale_state" in self.bed.get(15020, "/metrics")[1])
        self.assertEqual(self.metric("qanat_saved_state_expired"), 1)

    def test_damaged(self):
        self.begin()
        self.bed.stop(signal.SIGKILL)
        path = os.path.join(self.saved, "mesh.state")
        with open(path, "r+b") as f:
            f.seek(os.path.getsize(path) // 2)
            byte = f.read(1)
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte[0] ^ 1]))
        self.bed.xds_server.close()
        self.bed.start()
        until("said", lambda: "is not used, as a part of it" in self.bed.logged())
        with self.assertRaises(Exception):
            self.bed.agent.accept(timeout=2)
        until("counted", lambda: self.metric("qanat_saved_state_errors_total") == 1)
        self.bed.xds_server.open()
        self.bed.enrol()
        until("the client gets through", lambda: self.reaches("client"))
        self.assertFalse(self.reaches("other"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
