# SPDX-License-Identifier: Apache-2.0
"""RFC 9113 and RFC 7541 section by section against the proxy's 15008 over mTLS: the cases that a generic
conformance suite for HTTP/2 servers has, with CONNECT for its GET. What such a suite has and this has not:

  3.2, 3.3       no upgrade from HTTP/1.1, no prior knowledge without TLS: the port speaks TLS with ALPN only
  5.3            a stream that depends on itself: RFC 9113 withdrew priorities, PRIORITY is only checked for its form
  6.5.3 (values) several values of one setting in a frame: shown by the window that results, in 6.9.2
  8.1 (methods)  GET, HEAD, POST and bodies of requests: everything but CONNECT is refused with 400 (8.5 here)
  8.1.1          content-length against the body: a tunnel's bytes are no content (RFC 9110, 9.3.6)
  8.5 (trailers) HEADERS that end a tunnel are an error of the stream there; here they are its end, as of any other
                 request: nothing is gained by a reset after the last byte, and an application would see it

An error of a connection is a GOAWAY with one of the codes, then its end. An error of a stream is RST_STREAM or
GOAWAY with one of the codes; a malformed request may get 400 instead (RFC 9113, 8.1.1)."""
import contextlib
import threading

import h2
from hbone import Client
from inbound import Inbound

HOLD = 8082


class Sections(Inbound):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.over = threading.Event()
        cls.addClassCleanup(cls.over.set)
        cls.app(HOLD, lambda sock: cls.over.wait(600))  # neither answers nor ends: the stream stays

    # -- what a case needs --------------------------------------------------------------------
    def dial(self, **how):
        connection = self.tunnel(**how).h2
        connection.wait(lambda: connection.settings_acked, "the ACK of SETTINGS")
        return connection

    def fields(self, *more, port=HOLD):
        return Client.request(self.to(port), *more)

    def stream(self, connection, port=HOLD, **how):
        """An open tunnel: the server's side of it is half-closed when end=True."""
        stream = connection.open(self.fields(port=port), **how)
        self.assertEqual(stream.status(), 200)
        return stream

    @staticmethod
    def known(connection, number):
        """A stream that is begun by hand."""
        with connection.cond:
            connection.streams[number] = h2.Stream(connection, number)
            connection.next_id = max(connection.next_id, number + 2)
        return connection.streams[number]

    def block(self, connection, fields=None):
        return connection.encoder.encode(fields or self.fields())

    def closes(self, connection, *codes):
        connection.wait_closed()
        self.assertTrue(connection.goaways, f"closed without GOAWAY: {connection.closed}")
        self.assertIn(connection.goaways[-1][1], codes)

    def resets(self, connection, stream, *codes, malformed=False):
        with connection.cond:
            connection.cond.wait_for(lambda: stream.reset is not None or connection.goaways or connection.closed or
                                     (malformed and stream.headers), h2.WAIT)
        if malformed and stream.headers and stream.reset is None:
            return self.assertEqual(stream.status(), 400)
        code = stream.reset if stream.reset is not None else connection.goaways[-1][1] if connection.goaways else connection.closed
        self.assertIn(code, codes, f"stream {stream.id}, frames {connection.frames[-6:]}")

    def sends(self, codes, *frames, ready=None):
        """An error of the connection for these frames; each (type, flags, stream, payload)."""
        connection = self.dial()
        stream = ready(connection) if ready else None
        with contextlib.suppress(OSError):  # it may close before the last of them
            for kind, flags, number, payload in frames:
                connection.frame(kind, flags, number if number is not None else stream.id, payload)
        self.closes(connection, *codes)

    def lives(self, connection):
        connection.ping()
        self.assertEcho(connection.open(Client.request(self.to())))

    def ignores(self, *frames):
        connection = self.dial()
        for frame in frames:
            connection.frame(*frame)
        self.lives(connection)
