# SPDX-License-Identifier: Apache-2.0
"""Asks the control plane for a certificate as a node proxy does, by a client that is none of ours (tests/interop/pypeer)."""
import os
import socket
import struct
import sys
import tempfile
import urllib.parse

from harness import ROOT

# before what is installed; of the one name that is in our folders too, bed, ours has been loaded by now
sys.path.insert(2, os.path.join(ROOT, "tests", "interop", "pypeer"))

import certs  # noqa: E402
import h2  # noqa: E402
import proto  # noqa: E402
import tls  # noqa: E402
from ca import PATH  # noqa: E402

PORT = 15012
OK, PERMISSION_DENIED, UNAUTHENTICATED = 0, 7, 16


def ask(host, root, token, identity):
    """(status, message, names in the certificate) of a request for this identity; root: PEM."""
    with tempfile.TemporaryDirectory() as folder:
        key, trusted = os.path.join(folder, "key"), certs.Authority.write(os.path.join(folder, "root"), root)
        certs.Authority.new_key(key)
        csr = certs.openssl("req", "-new", "-key", key, "-subj", "/", "-addext", f"subjectAltName=URI:{identity}")
        pipe = tls.Tls(socket.create_connection((host, PORT), 15), tls.client_context(trusted), server=False)
    request = proto.encode("CertificateRequest", {"csr": csr, "validity_duration": 3600, "metadata": {
        "fields": {"ImpersonatedIdentity": {"string": identity}}}})
    connection = h2.Connection(pipe, client=True)
    stream = connection.open([(":method", "POST"), (":scheme", "https"), (":path", PATH), (":authority", host), ("te", "trailers"),
                              ("content-type", "application/grpc"), ("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes")])
    stream.send(struct.pack(">BI", 0, len(request)) + request, end=True)
    said = stream.read_all()
    ended = dict(stream.trailers or stream.headers)
    connection.close()
    chain = proto.decode("CertificateResponse", said[5:])["cert_chain"] if said else []
    names = certs.openssl("x509", "-noout", "-ext", "subjectAltName", text=chain[0]).splitlines()[1].strip() if chain else ""
    return int(ended["grpc-status"]), urllib.parse.unquote(ended.get("grpc-message", "")), names
