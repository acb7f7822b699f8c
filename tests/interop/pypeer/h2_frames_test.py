# SPDX-License-Identifier: Apache-2.0
"""RFC 9113, sections 3 to 6, against 15008: sections.py says how and what is left out."""
import contextlib
import struct
import unittest

import h2
from h2 import (ACK, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GOAWAY,
                HEADERS, INITIAL_WINDOW, MAX_FRAME, PADDED, PING, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, REFUSED_STREAM, RST_STREAM,
                SETTINGS, STREAM_CLOSED, WINDOW_UPDATE)
from sections import Sections


class Frames(Sections):
    # -- 3.4 the preface ----------------------------------------------------------------------
    def test_3_4_settings_first(self):
        connection = self.dial()
        self.assertEqual(connection.frames[0][:3], (SETTINGS, 0, 0))

    def test_3_4_invalid_preface(self):
        client = self.tunnel(start=False)
        client.pipe.send(b"INVALID CONNECTION PREFACE\r\n\r\n")
        client.h2.reader.start()
        client.h2.wait_closed()

    # -- 4 frames -----------------------------------------------------------------------------
    def test_4_1_unknown_type(self):
        self.ignores((0x16, 0, 0, b"\0" * 8), (0x16, 0xff, 1, b""))

    def test_4_1_undefined_flags(self):
        self.ignores((PING, 0x16, 0, b"anything"))

    def test_4_1_reserved_bit(self):
        self.ignores((PING, 0, 1 << 31, b"anything"))

    def test_4_2_data_of_16384(self):
        connection = self.dial()
        stream = self.stream(connection, 8080)
        connection.frame(DATA, 0, stream.id, b"x" * 16384)
        self.assertEqual(stream.read_exactly(16384), b"x" * 16384)

    def test_4_2_data_beyond_the_limit(self):
        connection = self.dial()
        stream = self.stream(connection)
        with contextlib.suppress(OSError):
            connection.frame(DATA, 0, stream.id, b"x" * (connection.their(MAX_FRAME) + 1))
        self.resets(connection, stream, FRAME_SIZE_ERROR)

    def test_4_2_headers_beyond_the_limit(self):
        connection = self.dial()
        with contextlib.suppress(OSError):
            connection.frame(HEADERS, END_HEADERS, 1, b"\0" * (connection.their(MAX_FRAME) + 1))
        self.closes(connection, FRAME_SIZE_ERROR)

    def test_4_3_invalid_block(self):
        self.sends([COMPRESSION_ERROR], (HEADERS, END_HEADERS, 1, b"\0\3abc\7too"))

    def test_4_3_another_frame_inside_of_a_block(self):
        for kind, number, payload in ((PRIORITY, 1, b"\0\0\0\0\1"), (PING, 0, b"8 bytes."), (0x16, 1, b"")):
            connection = self.dial()
            block = self.block(connection)
            connection.frame(HEADERS, 0, 1, block)
            connection.frame(kind, 0, number, payload)
            self.closes(connection, PROTOCOL_ERROR)

    def test_4_3_headers_of_another_stream_inside_of_a_block(self):
        connection = self.dial()
        block = self.block(connection)
        connection.raw(connection._pack(HEADERS, 0, 1, block) + connection._pack(HEADERS, END_HEADERS, 3, block))
        self.closes(connection, PROTOCOL_ERROR)

    # -- 5.1 states ---------------------------------------------------------------------------
    def test_5_1_idle(self):
        for frame in ((DATA, END_STREAM, 1, b"test"), (RST_STREAM, 0, 1, struct.pack(">I", 8)),
                      (WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)), (CONTINUATION, END_HEADERS, 1, b"")):
            self.sends([PROTOCOL_ERROR], frame)

    def test_5_1_half_closed(self):
        for kind, wanted in ((DATA, [STREAM_CLOSED]), (HEADERS, [STREAM_CLOSED, PROTOCOL_ERROR]), (CONTINUATION, [PROTOCOL_ERROR, STREAM_CLOSED])):
            connection = self.dial()
            stream = self.stream(connection, end=True)
            connection.frame(kind, 0 if kind == DATA else END_HEADERS, stream.id, b"late" if kind == DATA else self.block(connection))
            self.resets(connection, stream, *wanted)

    def test_5_1_closed_by_a_reset(self):
        for kind, wanted in ((DATA, [STREAM_CLOSED]), (HEADERS, [STREAM_CLOSED, PROTOCOL_ERROR]), (CONTINUATION, [PROTOCOL_ERROR, STREAM_CLOSED])):
            connection = self.dial()
            stream = self.stream(connection)
            stream.abort(h2.CANCEL)
            connection.frame(kind, 0 if kind == DATA else END_HEADERS, stream.id, b"late" if kind == DATA else self.block(connection))
            self.resets(connection, stream, *wanted)

    def test_5_1_closed_by_both_ends(self):
        for kind, wanted in ((DATA, [STREAM_CLOSED]), (HEADERS, [STREAM_CLOSED, PROTOCOL_ERROR]), (CONTINUATION, [PROTOCOL_ERROR, STREAM_CLOSED])):
            connection = self.dial()
            stream = self.stream(connection, 8080, end=True)
            self.assertEqual(stream.read_all(), b"")
            connection.frame(kind, 0 if kind == DATA else END_HEADERS, stream.id, b"late" if kind == DATA else self.block(connection))
            self.resets(connection, stream, *wanted)

    def test_5_1_closed_takes_windows_priorities_and_resets(self):
        """What may still be on its way when a stream ends (RFC 9113, 5.1)."""
        connection = self.dial()
        stream = self.stream(connection, 8080, end=True)
        self.assertEqual(stream.read_all(), b"")
        connection.frame(WINDOW_UPDATE, 0, stream.id, struct.pack(">I", 1))
        connection.frame(PRIORITY, 0, stream.id, b"\0\0\0\0\1")
        connection.frame(RST_STREAM, 0, stream.id, struct.pack(">I", 8))
        self.lives(connection)

    def test_5_1_1_even_number(self):
        connection = self.dial()
        connection.frame(HEADERS, END_HEADERS, 2, self.block(connection))
        self.closes(connection, PROTOCOL_ERROR)

    def test_5_1_1_smaller_number(self):
        connection = self.dial()
        self.known(connection, 5)
        connection.frame(HEADERS, END_HEADERS, 5, self.block(connection))
        connection.frame(HEADERS, END_HEADERS, 3, self.block(connection))
        self.closes(connection, PROTOCOL_ERROR, STREAM_CLOSED)

    def test_5_1_2_more_streams_than_allowed(self):
        connection = self.dial()
        streams = [connection.open(self.fields()) for _ in range(connection.their(h2.MAX_STREAMS) + 1)]
        self.resets(connection, streams[-1], REFUSED_STREAM, PROTOCOL_ERROR)
        self.assertEqual(streams[0].status(), 200)

    def test_5_4_1_goaway_names_the_last_stream(self):
        connection = self.dial()
        stream = self.stream(connection)
        connection.frame(PING, 0, 0, b"")
        self.closes(connection, FRAME_SIZE_ERROR)
        self.assertEqual(connection.goaways[-1][0], stream.id)

    # -- 6 each frame -------------------------------------------------------------------------
    def test_6_1_data_on_stream_0(self):
        self.sends([PROTOCOL_ERROR], (DATA, 0, 0, b"test"))

    def test_6_1_padding_as_long_as_the_frame(self):
        self.sends([PROTOCOL_ERROR], (DATA, PADDED, None, b"\5test"), ready=self.stream)

    def test_6_2_headers_on_stream_0(self):
        connection = self.dial()
        connection.frame(HEADERS, END_HEADERS, 0, self.block(connection))
        self.closes(connection, PROTOCOL_ERROR)

    def test_6_2_padding_as_long_as_the_frame(self):
        connection = self.dial()
        block = self.block(connection)
        connection.frame(HEADERS, END_HEADERS | PADDED, 1, bytes([len(block) + 1]) + block)
        self.closes(connection, PROTOCOL_ERROR)

    def test_6_3_priority(self):
        self.sends([PROTOCOL_ERROR], (PRIORITY, 0, 0, b"\0\0\0\0\1"))
        connection = self.dial()
        stream = self.stream(connection)
        connection.frame(PRIORITY, 0, stream.id, b"\0\0\0\0")
        self.resets(connection, stream, FRAME_SIZE_ERROR)

    def test_6_3_priority_of_an_idle_stream(self):
        self.ignores((PRIORITY, 0, 9, b"\0\0\0\0\1"))

    def test_6_4_rst_stream(self):
        self.sends([PROTOCOL_ERROR], (RST_STREAM, 0, 0, struct.pack(">I", 8)))
        self.sends([FRAME_SIZE_ERROR], (RST_STREAM, 0, None, b"\0\0\0"), ready=self.stream)

    def test_6_5_settings(self):
        self.sends([FRAME_SIZE_ERROR], (SETTINGS, ACK, 0, b"\0"))
        self.sends([PROTOCOL_ERROR], (SETTINGS, 0, 1, struct.pack(">HI", 3, 16)))
        self.sends([FRAME_SIZE_ERROR], (SETTINGS, 0, 0, b"\0\3\0"))

    def test_6_5_2_values(self):
        for setting, value, code in ((h2.ENABLE_PUSH, 2, PROTOCOL_ERROR), (INITIAL_WINDOW, 1 << 31, FLOW_CONTROL_ERROR),
                                     (MAX_FRAME, 16383, PROTOCOL_ERROR), (MAX_FRAME, 1 << 24, PROTOCOL_ERROR)):
            self.sends([code], (SETTINGS, 0, 0, struct.pack(">HI", setting, value)))
        self.ignores((SETTINGS, 0, 0, struct.pack(">HI", 0xff, 1)))

    def test_6_5_3_acknowledged(self):
        connection = self.dial()
        connection.frame(SETTINGS, 0, 0, b"")
        connection.wait(lambda: connection.settings_acked == 2, "the second ACK")

    def test_6_6_push_promise(self):
        connection = self.dial()
        connection.frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + self.block(connection))
        self.closes(connection, PROTOCOL_ERROR)

    def test_6_7_ping(self):
        connection = self.dial()
        connection.frame(PING, ACK, 0, b"invalid ")  # an answer to nothing
        connection.ping(b"answered")
        self.assertEqual(connection.pongs, [b"answered"])
        self.sends([PROTOCOL_ERROR], (PING, 0, 1, b"8 bytes."))
        self.sends([FRAME_SIZE_ERROR], (PING, 0, 0, b"\0" * 6))

    def test_6_8_goaway_on_a_stream(self):
        self.sends([PROTOCOL_ERROR], (GOAWAY, 0, 1, struct.pack(">II", 0, 0)))

    def test_6_9_window_update(self):
        self.sends([PROTOCOL_ERROR], (WINDOW_UPDATE, 0, 0, struct.pack(">I", 0)))
        self.sends([FRAME_SIZE_ERROR], (WINDOW_UPDATE, 0, 0, b"\0\0\0"))
        connection = self.dial()
        stream = self.stream(connection)
        connection.frame(WINDOW_UPDATE, 0, stream.id, struct.pack(">I", 0))
        self.resets(connection, stream, PROTOCOL_ERROR)

    def test_6_9_1_windows_that_grow_too_far(self):
        self.sends([FLOW_CONTROL_ERROR], *[(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0x7fffffff))] * 2)
        connection = self.dial()
        stream = self.stream(connection)
        for _ in range(2):
            connection.frame(WINDOW_UPDATE, 0, stream.id, struct.pack(">I", 0x7fffffff))
        self.resets(connection, stream, FLOW_CONTROL_ERROR)

    def test_6_9_1_window_of_one(self):
        connection = self.dial(settings={INITIAL_WINDOW: 1})
        stream = self.stream(connection, 8080)
        stream.send(b"ab")
        connection.wait(lambda: stream.received == 1, "one byte")
        connection.ping()
        self.assertEqual(stream.received, 1)
        self.assertEqual(stream.read_exactly(2), b"ab")

    def test_6_9_2_initial_window_that_changes(self):
        """To 3 with the last of two values, after 0 was in force."""
        connection = self.dial(settings={INITIAL_WINDOW: 0})
        stream = self.stream(connection, 8080)
        stream.send(b"abcdef")
        connection.ping()
        self.assertEqual(stream.received, 0)
        with connection.cond:
            connection.settings[INITIAL_WINDOW] = 3
            stream.receive_window = 3
        connection.frame(SETTINGS, 0, 0, struct.pack(">HIHI", INITIAL_WINDOW, 100, INITIAL_WINDOW, 3))
        connection.wait(lambda: stream.received == 3, "three bytes")

    def test_6_9_2_negative_window(self):
        connection = self.dial(settings={INITIAL_WINDOW: 3})
        stream = self.stream(connection, 8080)
        stream.send(b"abcdef")
        connection.wait(lambda: stream.received == 3, "three bytes")
        connection.frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 2))  # -1 now
        connection.wait(lambda: connection.settings_acked == 2, "the second ACK")
        for _ in range(2):
            with connection.cond:
                stream.receive_window += 1
            connection.frame(WINDOW_UPDATE, 0, stream.id, struct.pack(">I", 1))
        connection.wait(lambda: stream.received == 4, "the fourth byte")
        connection.ping()
        self.assertEqual(stream.received, 4)

    def test_6_10_continuation(self):
        connection = self.dial()
        stream = connection.open(self.fields(port=8080), pieces=4)
        self.assertEcho(stream)
        self.sends([PROTOCOL_ERROR], (CONTINUATION, END_HEADERS, 0, b""))
        for last in ([], [CONTINUATION]):  # after a block that is complete
            connection = self.dial()
            block = self.block(connection)
            self.known(connection, 1)
            out = connection._pack(HEADERS, 0 if last else END_HEADERS, 1, block[:1] if last else block)
            out += b"".join(connection._pack(CONTINUATION, END_HEADERS, 1, block[1:]) for _ in last)
            connection.raw(out + connection._pack(CONTINUATION, END_HEADERS, 1, b""))
            self.closes(connection, PROTOCOL_ERROR)
        self.sends([PROTOCOL_ERROR], (DATA, 0, None, b"test"), (CONTINUATION, END_HEADERS, None, b""), ready=self.stream)

if __name__ == "__main__":
    unittest.main(verbosity=2)
