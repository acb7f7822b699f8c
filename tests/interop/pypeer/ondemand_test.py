# SPDX-License-Identifier: Apache-2.0
"""On-demand xDS (XDS_ON_DEMAND) against a control plane written from the reference, section 3."""
import socket
import threading
import unittest

import netns
from ads import ADDRESS, AUTHORIZATION, workload
from bed import Bed, Case, until

PORT = 9000


class OnDemand(Case):
    def setUp(self):
        environment = {"XDS_ON_DEMAND": "true", "ISTIO_META_DNS_CAPTURE": "false", "ENABLE_ORIG_SRC": "false"}
        bed = self.use(Bed(pods=("client",), auto=False, environment=environment))
        self.pod, self.far = bed.pods["client"], bed.peer()
        self.listener = netns.listen(self.far.name, "0.0.0.0", PORT)
        bed.closers.append(self.listener)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                sock, _ = self.listener.accept()
                sock.sendall(b"hello")
                sock.close()
            except OSError:
                return

    def asked(self, stream, name):
        return stream.wait(lambda r: r.get("type_url") == ADDRESS and name in r.get("subscribe", []), f"a question for {name}")

    def begin(self):
        self.bed.start()
        stream = self.bed.ads.stream()
        first = stream.first(ADDRESS)
        self.assertEqual((first.get("subscribe"), first.get("unsubscribe")), (["*"], ["*"]))
        self.assertIn("node", first)
        self.assertNotIn("initial_resource_versions", first)
        wild = stream.first(AUTHORIZATION)
        self.assertEqual((wild.get("subscribe"), wild.get("unsubscribe")), (None, None))
        # Only the wildcard type is waited for.
        stream.wait_answer(stream.respond(AUTHORIZATION))
        self.bed.enrol()
        # Each pod's addresses, of which there is one workload, under its own name.
        self.asked(stream, f"/{self.pod.ip}")
        self.asked(stream, f"/{self.pod.ip6}")
        name, body = workload("client", "near", "client", self.pod)
        self.name = name
        self.assertNotIn("error_detail", stream.wait_answer(stream.respond(ADDRESS, [(name, "1", body)])))
        until("ready", self.bed.ready)
        return stream

    def dial(self):
        return netns.connect(self.pod.name, self.far.ip, PORT)

    def test_an_address_that_nobody_has(self):
        stream = self.begin()
        with self.dial() as sock:
            question = self.asked(stream, f"/{self.far.ip}")
            self.assertNotIn("unsubscribe", question)
            sock.settimeout(1)
            with self.assertRaises(TimeoutError):
                sock.recv(1)  # waits for the answer
            sock.settimeout(60)
            stream.wait_answer(stream.respond(ADDRESS, (), [f"/{self.far.ip}"]))
            self.assertEqual(sock.recv(5, socket.MSG_WAITALL), b"hello")
        count = len(stream.requests)
        with self.dial() as sock:
            self.assertEqual(sock.recv(5, socket.MSG_WAITALL), b"hello")
        self.assertEqual(len(stream.requests), count, "asked once")

    def test_an_address_of_a_workload(self):
        """Answered under another name than it was asked by, with one that nobody asked for."""
        stream = self.begin()
        with self.dial() as sock:
            self.asked(stream, f"/{self.far.ip}")
            far = workload("far", "far", "peer", self.far)
            far[1]["workload"]["tunnel_protocol"] = 0
            more = workload("more", "far", "peer", self.far)
            more[1]["workload"]["addresses"] = [socket.inet_aton("10.77.0.77")]
            answer = stream.wait_answer(stream.respond(ADDRESS, [(far[0], "5", far[1]), (more[0], "6", more[1])]))
            self.assertNotIn("error_detail", answer)
            self.assertEqual(sock.recv(5, socket.MSG_WAITALL), b"hello")
        self.assertEqual({w["uid"] for w in self.bed.dump()["workloads"]}, {self.name, far[0], more[0]})
        # A new stream: nothing of everything again, what is held, then the names.
        stream.call.finish(0)
        again = self.bed.ads.stream(1)
        first = again.first(ADDRESS)
        self.assertEqual((first.get("subscribe"), first.get("unsubscribe")), (["*"], ["*"]))
        self.assertEqual(first.get("initial_resource_versions"), {self.name: "1", far[0]: "5", more[0]: "6"})
        second = self.asked(again, f"/{self.far.ip}")
        self.assertEqual(set(second["subscribe"]), {f"/{self.far.ip}", f"/{self.pod.ip}", f"/{self.pod.ip6}"})

    def test_no_answer(self):
        self.begin()
        with self.assertRaises(ConnectionResetError):  # connect() itself may be told, where it wakes up late
            with self.dial() as sock:
                sock.recv(1)
        until("said", lambda: f"the control plane has not said who /{self.far.ip}" in self.bed.logged())
        until("counted", lambda: "destination_unknown" in self.bed.get(15020, "/metrics")[1])


if __name__ == "__main__":
    unittest.main(verbosity=2)
