# SPDX-License-Identifier: Apache-2.0
"""Numbers of HTTP/2 (RFC 9113) and one stream of a connection, as a test sees it."""
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITY_FLAG = 4, 8, 32
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, \
    REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR = range(11)
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(1, 7)
DEFAULTS = {TABLE_SIZE: 4096, INITIAL_WINDOW: 65535, MAX_FRAME: 16384}
WAIT = 60


class Reset(Exception):
    def __init__(self, code):
        super().__init__(f"stream reset with code {code}")
        self.code = code


class Stream:
    def __init__(self, connection, number):
        self.connection, self.id = connection, number
        self.headers, self.trailers, self.buffer = None, None, bytearray()
        self.ended, self.sent_end, self.reset = False, False, None
        self.send_window = connection.their(INITIAL_WINDOW)
        self.receive_window = connection.settings.get(INITIAL_WINDOW, 65535)
        self.received = 0  # bytes of data, ever

    def fields(self):
        return dict(self.headers or ())

    def status(self, timeout=WAIT):
        """The :status of the answer; Reset when there is none."""
        self.connection.wait(lambda: self.headers or self.reset is not None, f"headers on stream {self.id}", timeout)
        if self.headers is None:
            raise Reset(self.reset)
        return int(self.fields()[":status"])

    def read(self, limit=1 << 30, timeout=WAIT):
        """Some bytes, whose room is given back at once; b"" at the other side's end."""
        self.connection.wait(lambda: self.buffer or self.ended or self.reset is not None, f"data on stream {self.id}", timeout)
        with self.connection.cond:
            data = bytes(self.buffer[:limit])
            del self.buffer[:limit]
        if data:
            self.connection.give_room(self, len(data))
        elif not self.ended:
            raise Reset(self.reset)
        return data

    def read_exactly(self, size, timeout=WAIT):
        out = b""
        while len(out) < size:
            data = self.read(size - len(out), timeout)
            if not data:
                raise EOFError(f"{len(out)} bytes of {size} on stream {self.id}")
            out += data
        return out

    def read_all(self, timeout=WAIT):
        out = bytearray()
        while data := self.read(timeout=timeout):
            out += data
        return bytes(out)

    def send(self, data, end=False, timeout=WAIT):
        self.connection.send_data(self, data, end, timeout)

    def finish(self):
        self.sent_end = True
        self.connection.frame(DATA, END_STREAM, self.id)

    def answer(self, status=200, fields=(), end=False):
        self.connection.send_headers(self.id, [(":status", str(status)), *fields], end)
        self.sent_end = end

    def abort(self, code):
        self.connection.frame(RST_STREAM, 0, self.id, struct.pack(">I", code))

    def wait_reset(self, timeout=WAIT):
        self.connection.wait(lambda: self.reset is not None, f"RST_STREAM on stream {self.id}", timeout)
        return self.reset
