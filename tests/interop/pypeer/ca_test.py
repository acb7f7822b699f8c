# SPDX-License-Identifier: Apache-2.0
"""The node proxy against an authority written from the reference, section 6."""
import datetime
import time
import unittest

import certs
import tls
from ads import ADDRESS, workload
from bed import PEER, TRUST, Bed, Case, until
from ca import Refuse
from hbone import App, Client, echo

SERVER = f"{TRUST}/ns/near/sa/server"


class Authority(Case):
    def setUp(self):
        bed = self.use(Bed(pods=("server",)))
        bed.peer()
        bed.ads.resources[ADDRESS] = dict([workload("server", "near", "server", bed.pods["server"]),
                                           workload("peer", "far", "peer", bed.pods["peer"], node="node-2")])
        self.context = tls.client_context(bed.root.cert, *bed.root.issue("peer", [PEER]))

    def begin(self):
        self.bed.start().enrol()

    def served(self, context=None, want_answer=True):
        """What the pod's 15008 shows: its URIs, its serial number and how many certificates it sent."""
        client = Client(self.bed.pods["peer"].name, self.bed.pods["server"].ip, context or self.context)
        try:
            if want_answer:
                client.h2.ping()  # with TLS 1.3 a refusal of our certificate comes after the handshake
            return client.pipe.peer_uris(), client.pipe.object.getpeercert()["serialNumber"]
        finally:
            client.close()

    def refused(self):
        try:
            self.served()
        except OSError:
            return True
        return False

    def test_request(self):
        self.begin()
        asked = self.bed.ca.wait(SERVER)[0]
        self.assertEqual(asked.fields.get("authorization"), "Bearer first-token")
        self.assertEqual(asked.fields.get("clusterid"), "Kubernetes")
        self.assertEqual(asked.request.get("validity_duration"), 86400)
        self.assertEqual(asked.metadata, {"ImpersonatedIdentity": SERVER})
        self.assertEqual(asked.csr["names"], [f"URI:{SERVER}"])
        self.assertEqual(asked.csr["subject"], "")
        self.assertEqual((asked.csr["key"], asked.csr["curve"], asked.csr["signature"]), ("id-ecPublicKey", "prime256v1", "ecdsa-with-SHA256"))

    def test_workloads_of_the_node_are_asked_for_ahead(self):
        """Those that the control plane places on this node, before the node agent brings their pods; no others."""
        self.bed.ads.resources[ADDRESS].update([workload("soon", "near", "soon", self.bed.pods["server"], addresses=[bytes((10, 77, 0, 200))])])
        self.begin()
        self.bed.ca.wait(f"{TRUST}/ns/near/sa/soon")
        self.bed.ca.wait(SERVER)
        self.assertEqual(self.bed.ca.of(PEER), [])

    def test_validity_as_configured(self):
        self.bed.environment["SECRET_TTL"] = "1h"
        self.begin()
        self.assertEqual(self.bed.ca.wait(SERVER)[0].request.get("validity_duration"), 3600)

    def test_chain(self):
        """Leaf, issuing authority, root: the leaf and what leads to the root are shown to peers."""
        self.begin()
        uris, _ = until("the certificate is in use", self.served)
        self.assertEqual(uris, [SERVER])

    def test_chain_of_leaf_and_root_only(self):
        self.bed.ca.authority = self.bed.root
        self.begin()
        self.assertEqual(until("the certificate is in use", self.served)[0], [SERVER])

    def test_a_bundle_of_roots(self):
        """The last element may hold several certificates, and each is trusted."""
        other = certs.Authority(self.bed.folder, "other")
        sign = self.bed.ca.sign
        self.bed.ca.answer = lambda asked: [*sign(asked)[:-1], other.pem() + self.bed.root.pem()]
        self.begin()
        until("the certificate is in use", self.served)
        of_other = tls.client_context(self.bed.root.cert, *other.issue("stranger", [PEER]))
        self.assertEqual(self.served(of_other)[0], [SERVER])

    def test_a_root_that_was_not_named(self):
        other = certs.Authority(self.bed.folder, "other")
        self.begin()
        until("the certificate is in use", self.served)
        with self.assertRaises(OSError):
            self.served(tls.client_context(self.bed.root.cert, *other.issue("stranger", [PEER])))

    def faulty(self, *answers):
        """The first answers are these; then as it should be. Returns the times between an answer and the next call,
        and all calls."""
        left = list(answers)

        def answer(asked):
            return left.pop(0)(asked) if left else self.bed.ca.sign(asked)
        self.bed.ca.answer = answer
        self.begin()
        asked = self.bed.ca.wait(SERVER, len(answers) + 1)
        until("the certificate is in use", self.served)
        return [b.at - a.answered for a, b in zip(asked, asked[1:])], asked

    @staticmethod
    def refuse(status):
        def answer(asked):
            raise Refuse(status, "not now")
        return answer

    def test_errors_and_retry(self):
        """1 s, then doubled, each by up to a fifth more or less; a new key for each request."""
        gaps, asked = self.faulty(self.refuse(14), self.refuse(7))
        # Not sooner on any machine; later by as long as one may stand still.
        self.assertTrue(0.75 <= gaps[0] <= 1.3 + 5, gaps)
        self.assertTrue(1.55 <= gaps[1] <= 2.5 + 5, gaps)
        self.assertEqual(len({a.csr["public"] for a in asked}), 3)

    def test_nothing_works_without_a_certificate(self):
        self.bed.ca.answer = self.refuse(14)
        self.begin()
        self.bed.ca.wait(SERVER)
        self.assertTrue(self.refused())

    def test_another_name_than_asked_for(self):
        self.faulty(lambda asked: self.bed.ca.sign(asked, f"{TRUST}/ns/near/sa/another"))

    def test_no_chain(self):
        self.faulty(lambda asked: [])

    def test_garbage_instead_of_a_chain(self):
        self.faulty(lambda asked: ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", self.bed.root.pem()], lambda asked: ["", ""])

    def test_a_certificate_for_another_key(self):
        _, key = self.bed.root.issue("stray", [SERVER])
        csr = certs.openssl("req", "-new", "-key", key, "-subj", "/")
        self.faulty(lambda asked: [self.bed.authority.leaf(csr, [SERVER]), *self.bed.authority.chain(), self.bed.root.pem()])

    def test_token_is_read_for_each_call(self):
        def refuse(asked):
            certs.Authority.write(self.bed.token, "second-token")
            raise Refuse(16, "expired")
        _, asked = self.faulty(refuse)
        self.assertEqual([a.fields["authorization"] for a in asked], ["Bearer first-token", "Bearer second-token"])

    def short(self, asked, seconds):
        """A leaf that lives that long from now, by the openssl program's `ca`, which takes times."""
        path = self.bed.authority.path
        for file, text in (("index.txt", ""), ("index.txt.attr", "unique_subject = no\n"), ("short.csr", asked.request["csr"]),
                           ("short.cnf", f"[ca]\ndefault_ca=c\n[c]\ndatabase={path('index.txt')}\nnew_certs_dir={self.bed.folder}\n"
                            "default_md=sha256\npolicy=p\nrand_serial=yes\n[p]\norganizationName=optional\n"
                            f"[x]\nsubjectAltName=critical,URI:{asked.identity}\nextendedKeyUsage=serverAuth,clientAuth\n")):
            certs.Authority.write(path(file), text)
        now = datetime.datetime.now(datetime.timezone.utc)
        times = [t.strftime("%Y%m%d%H%M%SZ") for t in (now, now + datetime.timedelta(seconds=seconds))]
        leaf = certs.openssl("ca", "-batch", "-notext", "-config", path("short.cnf"), "-extensions", "x", "-in", path("short.csr"), "-subj", "/",
                             "-cert", self.bed.authority.cert, "-keyfile", self.bed.authority.key, "-startdate", times[0], "-enddate", times[1])
        return [leaf, *self.bed.authority.chain(), self.bed.root.pem()]

    def test_rotation_at_half_of_the_life(self):
        """The new certificate is used by new tunnels; a tunnel that is there goes on."""
        life = 30
        self.bed.ca.answer = lambda asked: self.short(asked, life)
        app = App(self.bed.pods["server"].name, "0.0.0.0", 8080, echo)
        self.bed.closers.append(app)
        self.begin()
        first = until("the certificate is in use", self.served)[1]
        client = Client(self.bed.pods["peer"].name, self.bed.pods["server"].ip, self.context)
        stream = client.connect(f"{self.bed.pods['server'].ip}:8080")
        self.assertEqual(stream.status(), 200)
        asked = self.bed.ca.wait(SERVER, 2)
        gap = asked[1].at - asked[0].at
        self.assertTrue(life * 0.35 <= gap <= life * 0.8, gap)
        self.assertNotEqual(asked[0].csr["public"], asked[1].csr["public"])
        until("the new one is in use", lambda: self.served()[1] != first)
        stream.send(b"still there")
        self.assertEqual(stream.read_exactly(11), b"still there")
        client.close()

    def test_the_old_one_serves_while_the_authority_is_away(self):
        calls = []

        def answer(asked):
            calls.append(asked)
            if len(calls) > 1:
                raise Refuse(14, "away")
            return self.short(asked, 40)
        self.bed.ca.answer = answer
        self.begin()
        first = until("the certificate is in use", self.served)[1]
        self.bed.ca.wait(SERVER, 3)
        self.assertEqual(self.served()[1], first, "until it expires")
        self.bed.ca.answer = None
        until("renewed once the authority is back", lambda: self.served()[1] != first)

    def test_authority_restart(self):
        self.bed.ca_server.close()
        self.begin()
        self.assertTrue(self.refused())
        time.sleep(1)
        self.bed.ca_server.open()
        until("asked by itself", self.served)


if __name__ == "__main__":
    unittest.main(verbosity=2)
