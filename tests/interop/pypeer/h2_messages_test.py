# SPDX-License-Identifier: Apache-2.0
"""RFC 9113, sections 7 and 8, and RFC 7541 against 15008: sections.py says how and what is left out."""
import contextlib
import struct
import unittest

from h2 import COMPRESSION_ERROR, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PROTOCOL_ERROR
from sections import HOLD, Sections


class Messages(Sections):
    # -- 7 error codes ------------------------------------------------------------------------
    def test_7_unknown_codes(self):
        connection = self.dial()
        stream = self.stream(connection)
        stream.abort(0xff)
        self.lives(connection)
        connection.frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0xff))
        with contextlib.suppress(OSError, TimeoutError):  # it may close, or go on with what is open
            connection.ping(timeout=2)

    # -- 8 messages ---------------------------------------------------------------------------
    def malformed(self, fields):
        connection = self.dial()
        stream = connection.open(fields)
        self.resets(connection, stream, PROTOCOL_ERROR, malformed=True)

    def test_8_2_1_field_names(self):
        for name in ("X-Test", "x test", "x\x7f", ""):
            self.malformed(self.fields((name, "ok")))

    def test_8_2_1_field_values(self):
        for value in ("a\rb", "a\nb", "a\0b", " a", "a "):
            self.malformed(self.fields(("x-test", value)))

    def test_8_2_2_fields_of_a_connection(self):
        for field in (("connection", "keep-alive"), ("transfer-encoding", "chunked"), ("keep-alive", "1"), ("upgrade", "h2c"), ("te", "gzip")):
            self.malformed(self.fields(field))
        self.assertEqual(self.dial().open(self.fields(("te", "trailers"), port=8080)).status(), 200)

    def test_8_3_pseudo_fields(self):
        to = self.to(HOLD)
        method, authority = (":method", "CONNECT"), (":authority", to)
        for fields in ([method, authority, (":test", "ok")], [method, authority, (":status", "200")], [method, ("x-test", "ok"), authority],
                       [method, method, authority], [method, authority, authority], [authority], [method]):
            self.malformed(fields)

    def test_8_5_connect_has_no_scheme_and_no_path(self):
        for field in ((":scheme", "https"), (":path", "/")):
            self.malformed([(":method", "CONNECT"), field, (":authority", self.to(HOLD))])

    def test_8_5_other_methods(self):
        connection = self.dial()
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            stream = connection.open([(":method", method), (":scheme", "https"), (":path", "/"), (":authority", self.to())], end=True)
            self.assertEqual(stream.status(), 400)
        self.lives(connection)

    def test_8_5_headers_on_an_open_tunnel(self):
        connection = self.dial()
        stream = self.stream(connection)
        connection.frame(HEADERS, END_HEADERS, stream.id, connection.encoder.encode([("x-test", "ok")]))
        self.resets(connection, stream, PROTOCOL_ERROR)

    def test_8_5_headers_that_end_a_tunnel_are_its_end(self):
        """A deviation that is meant: see sections.py."""
        connection = self.dial()
        stream = self.stream(connection, 8080)
        connection.frame(HEADERS, END_HEADERS | END_STREAM, stream.id, connection.encoder.encode([("x-test", "ok")]))
        self.assertEqual(stream.read_all(), b"")
        self.lives(connection)

    # -- RFC 7541 -----------------------------------------------------------------------------
    def hpack(self, tail):
        connection = self.dial()
        self.known(connection, 1)
        connection.frame(HEADERS, END_HEADERS, 1, self.block(connection) + tail)
        self.closes(connection, COMPRESSION_ERROR)

    def test_hpack_2_3_3_index_beyond_the_tables(self):
        self.hpack(b"\xff\x46")

    def test_hpack_4_2_size_update_at_the_end(self):
        self.hpack(b"\x20")

    def test_hpack_5_2_huffman(self):
        """The value is "test", 49 50 9f, and then what must not be."""
        self.hpack(b"\0\1x\x84\x49\x50\x9f\xff")              # padding of more than seven bits
        self.hpack(b"\0\1x\x83\x49\x50\x90")                  # padding with zeros
        self.hpack(b"\0\1x\x87\x49\x50\x9f\xff\xff\xff\xff")  # the symbol EOS

    def test_hpack_6_1_index_0(self):
        self.hpack(b"\x80")

    def test_hpack_6_3_size_update_beyond_the_limit(self):
        connection = self.dial()
        connection.frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\xff\x7f" + self.block(connection))
        self.closes(connection, COMPRESSION_ERROR)

if __name__ == "__main__":
    unittest.main(verbosity=2)
