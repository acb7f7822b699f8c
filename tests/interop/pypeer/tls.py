# SPDX-License-Identifier: Apache-2.0
"""TLS for the peer: a connection that may be read and written by different threads (which an
SSLSocket may not), and what a ClientHello offered."""
import socket
import ssl
import struct
import threading


def client_context(root, cert=None, key=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a workload is its URI SAN
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(root)
    context.set_alpn_protocols(["h2"])
    if cert:
        context.load_cert_chain(cert, key)
    return context


def server_context(cert, key, root=None, alpn=("h2",)):
    """With a root a certificate of the client is asked for and checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if root:
        context.load_verify_locations(root)
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class Tls:
    """Does the handshake at once. Owns the socket."""

    def __init__(self, sock, context, server, timeout=60):
        self.sock, self.first = sock, b""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.lock = threading.RLock()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_side=server)
        sock.settimeout(timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._handshake()
            # Not asked for later: while a ticket is being read, OpenSSL says that the handshake is not done.
            self.certificate = self.object.getpeercert() or {}
        except BaseException:
            try:
                self._flush()  # the alert
            except OSError:
                pass
            sock.close()
            raise
        sock.settimeout(None)

    def _handshake(self):
        while True:
            try:
                self.object.do_handshake()
                return self._flush()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.sock.recv(65536)
                if not data:
                    raise ConnectionError("closed in the handshake") from None
                if len(self.first) < 20000:
                    self.first += data
                self.incoming.write(data)

    def _flush(self):
        if data := self.outgoing.read():
            self.sock.sendall(data)

    def send(self, data):
        with self.lock:
            self.object.write(data)
            self._flush()

    def recv(self):
        """Some bytes; b"" at the end."""
        while True:
            with self.lock:
                try:
                    return self.object.read(1 << 18)
                except ssl.SSLWantReadError:
                    self._flush()
                except ssl.SSLZeroReturnError:
                    return b""
            data = self.sock.recv(1 << 18)
            if not data:
                return b""
            with self.lock:
                self.incoming.write(data)

    def peer_uris(self):
        names = self.certificate.get("subjectAltName", ())
        return [value for kind, value in names if kind == "URI"]

    def close(self, reset=False):
        try:
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.sock.shutdown(socket.SHUT_RD)  # a thread that reads holds the socket open
            else:
                self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


def client_hello(record):
    """What a client offered (RFC 8446, 4.1.2): versions, suites, groups, alpn, sni, session id."""
    body = record[5:]
    if record[0] != 22 or body[0] != 1:
        raise ValueError("not a ClientHello")
    at = 4 + 2 + 32
    session = body[at + 1:at + 1 + body[at]]
    at += 1 + body[at]
    size = struct.unpack_from(">H", body, at)[0]
    suites = list(struct.unpack_from(f">{size // 2}H", body, at + 2))
    at += 2 + size
    at += 1 + body[at]
    end = at + 2 + struct.unpack_from(">H", body, at)[0]
    at += 2
    extensions = {}
    while at < end:
        kind, size = struct.unpack_from(">HH", body, at)
        extensions[kind] = body[at + 4:at + 4 + size]
        at += 4 + size
    alpn, raw = [], extensions.get(16, b"\0\0")[2:]
    while raw:
        alpn.append(raw[1:1 + raw[0]].decode())
        raw = raw[1 + raw[0]:]
    versions, groups = extensions.get(43, b"\0"), extensions.get(10, b"\0\0")
    return {"suites": suites, "alpn": alpn, "sni": 0 in extensions, "session": session, "psk": 41 in extensions,
            "versions": list(struct.unpack(f">{(len(versions) - 1) // 2}H", versions[1:])),
            "groups": list(struct.unpack(f">{(len(groups) - 2) // 2}H", groups[2:]))}
