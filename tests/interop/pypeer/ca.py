# SPDX-License-Identifier: Apache-2.0
"""The certificate authority's side: the reference, section 6. What was asked is kept in `asked`;
`answer`, when set, answers instead (it may raise Refuse)."""
import threading
import time

import certs
import proto

PATH = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


class Refuse(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status, self.text = status, text


class Asked:
    """One call: its header fields, request, certificate request and the identity that it is for."""

    def __init__(self, fields, request):
        self.at, self.fields, self.request = time.monotonic(), fields, request
        self.answered = None  # when it was, before the answer went out
        self.csr = certs.read_csr(request.get("csr", ""))
        self.metadata = proto.from_struct(request.get("metadata", {}))
        self.identity = self.metadata.get("ImpersonatedIdentity")


class Ca:
    def __init__(self, authority, root):
        self.authority, self.root, self.answer = authority, root, None
        self.cond, self.asked, self.violations = threading.Condition(), [], []

    def serve(self, call):
        request = proto.decode("CertificateRequest", call.receive())
        try:
            if unknown := proto.unknown_fields(request):
                self.violations.append(f"CertificateRequest has unknown fields {unknown}")
            asked = Asked(call.fields, request)
        except RuntimeError as error:
            self.violations.append(str(error))
            return call.finish(3, "bad CSR")
        with self.cond:
            self.asked.append(asked)
            self.cond.notify_all()
        try:
            chain = (self.answer or self.sign)(asked)
            asked.answered = time.monotonic()
        except Refuse as no:
            asked.answered = time.monotonic()
            return call.finish(no.status, no.text)
        call.send(proto.encode("CertificateResponse", {"cert_chain": chain}))
        return call.finish()

    def sign(self, asked, identity=None):
        """Leaf, authorities between, root."""
        leaf = self.authority.leaf(asked.request["csr"], [identity or asked.identity])
        return [leaf, *self.authority.chain(), self.root.pem()]

    def of(self, identity):
        return [a for a in self.asked if a.identity == identity]

    def wait(self, identity, count=1, timeout=60):
        with self.cond:
            if not self.cond.wait_for(lambda: len(self.of(identity)) >= count, timeout):
                raise TimeoutError(f"{count} requests for {identity}: only {len(self.of(identity))} of {[a.identity for a in self.asked]}")
            return self.of(identity)
