# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 (RFC 9113), either side, strict: what the other side does against the RFC is kept in
`violations`. One reader thread a connection; streams may be used from any thread. Everything a test
wants to send wrongly or oddly goes through `frame()`."""
import struct
import threading
import time

import hpack
from stream import *  # the numbers; tests take them from here

class Connection:
    def __init__(self, pipe, client, settings=None, encoder=None, on_stream=None, answer_pings=True, room=0, start=True):
        """room: bytes of connection window beyond the 65535 that every connection begins with."""
        self.pipe, self.client, self.on_stream, self.answer_pings = pipe, client, on_stream, answer_pings
        self.settings = {ENABLE_PUSH: 0, **(settings or {})} if client else dict(settings or {})
        self.encoder, self.decoder = encoder or hpack.Encoder(), hpack.Decoder(self.settings.get(TABLE_SIZE, 4096))
        self.cond, self.write_lock = threading.Condition(), threading.Lock()
        self.theirs, self.settings_frames, self.settings_acked = None, 0, 0
        self.streams, self.next_id, self.highest = {}, 1 if client else 2, 0
        self.send_window, self.receive_window, self.room = 65535, 65535 + room, room
        self.pings, self.pongs, self.goaways, self.goaway_sent = [], [], [], None
        self.frames = []  # (type, flags, stream, length) of everything received
        self.violations, self.closed, self.headers_block = [], None, None
        self.reader = threading.Thread(target=self._run, daemon=True)
        if start:
            self.start()

    def start(self, more=b""):
        """more: what goes out together with the preface."""
        settings = b"".join(struct.pack(">HI", *pair) for pair in self.settings.items())
        out = (PREFACE if self.client else b"") + self._pack(SETTINGS, 0, 0, settings)
        if self.room:
            out += self._pack(WINDOW_UPDATE, 0, 0, struct.pack(">I", self.room))
        self.pipe.send(out + more)
        self.reader.start()
        return self

    # -- sending ------------------------------------------------------------------------------
    @staticmethod
    def _pack(kind, flags, stream, payload=b""):
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def frame(self, kind, flags, stream, payload=b""):
        with self.write_lock:
            self.pipe.send(self._pack(kind, flags, stream, payload))

    def raw(self, data):
        with self.write_lock:
            self.pipe.send(data)

    def header_frames(self, stream, fields, end=False, pieces=1, padding=None, priority=False):
        """HEADERS and, in pieces, CONTINUATION. The order of calls must be that of sending."""
        block = self.encoder.encode(fields)
        step = -(-len(block) // pieces)
        parts = [block[at:at + step] for at in range(0, len(block), step)]
        flags, first = END_STREAM if end else 0, parts[0]
        if priority:
            flags, first = flags | PRIORITY_FLAG, struct.pack(">IB", 0, 15) + first
        if padding is not None:
            flags, first = flags | PADDED, bytes([padding]) + first + bytes(padding)
        out = self._pack(HEADERS, flags | (END_HEADERS if len(parts) == 1 else 0), stream, first)
        for at, part in enumerate(parts[1:], 2):
            out += self._pack(CONTINUATION, END_HEADERS if at == len(parts) else 0, stream, part)
        return out

    def send_headers(self, stream, fields, end=False, **how):
        with self.write_lock:
            self.pipe.send(self.header_frames(stream, fields, end, **how))

    def open(self, fields, end=False, **how):
        """A stream of ours with this request."""
        with self.write_lock:
            stream, out = self.prepare(fields, end, **how)
            self.pipe.send(out)
        return stream

    def prepare(self, fields, end=False, **how):
        with self.cond:
            stream = self.streams[self.next_id] = Stream(self, self.next_id)
            self.next_id += 2
        stream.sent_end = end
        return stream, self.header_frames(stream.id, fields, end, **how)

    def send_data(self, stream, data, end=False, timeout=WAIT, padding=None):
        data, deadline = memoryview(data), time.monotonic() + timeout
        extra = 0 if padding is None else 1 + padding
        while data or extra:
            def may():
                return stream.reset is not None or min(stream.send_window, self.send_window) > extra
            self.wait(may, f"window to send on stream {stream.id}", deadline - time.monotonic())
            with self.cond:
                if stream.reset is not None:
                    raise Reset(stream.reset)
                size = min(len(data), stream.send_window - extra, self.send_window - extra, self.their(MAX_FRAME) - extra)
                if size < 0 or (size == 0 and data):
                    continue
                stream.send_window -= size + extra
                self.send_window -= size + extra
            part, data = bytes(data[:size]), data[size:]
            flags = END_STREAM if end and not data else 0
            stream.sent_end = stream.sent_end or bool(flags)
            if padding is not None:
                self.frame(DATA, flags | PADDED, stream.id, bytes([padding]) + part + bytes(padding))
                if not data:
                    return
            else:
                self.frame(DATA, flags, stream.id, part)
        if end and not stream.sent_end:
            stream.finish()

    def give_room(self, stream, size):
        with self.cond:
            self.receive_window += size
            room = not (stream.ended or stream.reset is not None)
            if room:
                stream.receive_window += size
        try:
            self.frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", size))
            if room:
                self.frame(WINDOW_UPDATE, 0, stream.id, struct.pack(">I", size))
        except OSError:
            pass  # what was received stays received

    def ping(self, data=b"pypeer!!", timeout=WAIT):
        before = self.pongs.count(data)
        self.frame(PING, 0, 0, data)
        self.wait(lambda: self.pongs.count(data) > before, "the answer to a PING", timeout)

    def goaway(self, last, code=NO_ERROR, debug=b""):
        self.goaway_sent = last
        self.frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + debug)

    def close(self, reset=False):
        self.pipe.close(reset)

    # -- waiting ------------------------------------------------------------------------------
    def their(self, setting):
        return (self.theirs or {}).get(setting, DEFAULTS.get(setting))

    def wait(self, condition, what, timeout=WAIT):
        with self.cond:
            if not self.cond.wait_for(lambda: condition() or self.closed, timeout):
                raise TimeoutError(f"{what}: not within {timeout:.1f} s; last frames {self.frames[-8:]}")
            if not condition():
                raise ConnectionError(f"{what}: connection ended before: {self.closed}; GOAWAY {self.goaways}")

    def wait_closed(self, timeout=WAIT):
        with self.cond:
            if not self.cond.wait_for(lambda: self.closed, timeout):
                raise TimeoutError(f"connection is still open after {timeout} s; last frames {self.frames[-8:]}")
        return self.closed

    # -- receiving ----------------------------------------------------------------------------
    def _run(self):
        why = "end of file"
        try:
            buffer = bytearray()
            if not self.client:
                while len(buffer) < len(PREFACE):
                    if not (data := self.pipe.recv()):
                        return
                    buffer += data
                if buffer[:len(PREFACE)] != PREFACE:
                    raise RuntimeError(f"preface {bytes(buffer[:40])!r}")
                del buffer[:len(PREFACE)]
            while True:
                while len(buffer) >= 9 and len(buffer) >= 9 + (size := int.from_bytes(buffer[:3], "big")):
                    kind, flags, number = struct.unpack_from(">BBI", buffer, 3)
                    payload = bytes(buffer[9:9 + size])
                    del buffer[:9 + size]
                    self._received(kind, flags, number & 0x7fffffff, payload)
                if len(buffer) >= 9 and size > self.settings.get(MAX_FRAME, 16384):
                    self._wrong(f"frame of {size} bytes, {self.settings.get(MAX_FRAME, 16384)} are allowed")
                    raise RuntimeError("frame too large")
                if not (data := self.pipe.recv()):
                    return
                buffer += data
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            if not isinstance(error, OSError):
                self._wrong(why)
        finally:
            with self.cond:
                self.closed = why
                self.cond.notify_all()

    def _wrong(self, what):
        self.violations.append(what)

    def _received(self, kind, flags, number, payload):
        start = padded = None
        with self.cond:
            if not self.frames and (kind != SETTINGS or flags & ACK):
                self._wrong(f"the first frame is of type {kind}")
            self.frames.append((kind, flags, number, len(payload)))
            if self.headers_block is not None and (kind != CONTINUATION or number != self.headers_block[0]):
                self._wrong(f"type {kind} on stream {number} between HEADERS and their end")
            if kind == DATA:
                padded = self._data(flags, number, payload)
            elif kind in (HEADERS, CONTINUATION):
                start = self._headers(kind, flags, number, payload)
            elif kind == RST_STREAM:
                stream = self.streams.get(number)
                if stream is None or len(payload) != 4:
                    self._wrong(f"RST_STREAM of {len(payload)} bytes on idle stream {number}")
                else:
                    stream.reset = struct.unpack(">I", payload)[0]
            elif kind == SETTINGS:
                self._settings(flags, number, payload)
            elif kind == PING:
                if number or len(payload) != 8:
                    self._wrong(f"PING of {len(payload)} bytes on stream {number}")
                (self.pongs if flags & ACK else self.pings).append(payload)
            elif kind == GOAWAY:
                if number:
                    self._wrong("GOAWAY on a stream")
                last, code = struct.unpack_from(">II", payload)
                self.goaways.append((last & 0x7fffffff, code, payload[8:]))
            elif kind == WINDOW_UPDATE:
                self._window_update(number, payload)
            elif kind == PUSH_PROMISE:
                self._wrong("PUSH_PROMISE")
            self.cond.notify_all()
        if padded:
            self.give_room(self.streams[number], padded)  # nobody will read it
        if kind == SETTINGS and not flags & ACK:
            self.frame(SETTINGS, ACK, 0)
        if kind == PING and not flags & ACK and self.answer_pings:
            self.frame(PING, ACK, 0, payload)
        if start is not None and self.on_stream:
            threading.Thread(target=self._serve, args=(start,), daemon=True).start()

    def _serve(self, stream):
        try:
            self.on_stream(stream)
        except (OSError, Reset, EOFError):
            pass  # the other side left; a test sees it from there

    def _unpad(self, flags, payload):
        if not flags & PADDED:
            return payload
        if not payload or payload[0] >= len(payload):
            self._wrong("padding longer than the frame")
            return b""
        return payload[1:len(payload) - payload[0]]

    def _data(self, flags, number, payload):
        stream = self.streams.get(number)
        self.receive_window -= len(payload)
        if stream is None:
            if self.goaway_sent is None or number <= self.goaway_sent:
                self._wrong(f"DATA on idle stream {number}")
            return 0
        if stream.ended:
            self._wrong(f"DATA after END_STREAM on stream {number}")
        stream.receive_window -= len(payload)
        if min(stream.receive_window, self.receive_window) < 0:
            self._wrong(f"window exceeded on stream {number}: {stream.receive_window} of it, {self.receive_window} of all")
        data = self._unpad(flags, payload)
        stream.buffer += data
        stream.received += len(data)
        stream.ended = stream.ended or bool(flags & END_STREAM)
        return len(payload) - len(data)

    def _headers(self, kind, flags, number, payload):
        if kind == HEADERS:
            payload = self._unpad(flags, payload)
            if flags & PRIORITY_FLAG:
                payload = payload[5:]
            self.headers_block = [number, flags & END_STREAM, payload]
        elif self.headers_block is None:
            return self._wrong("CONTINUATION without HEADERS")
        else:
            self.headers_block[2] += payload
        if not flags & END_HEADERS:
            return None
        number, end, block = self.headers_block
        self.headers_block = None
        fields = self.decoder.decode(block)
        self._check(fields)
        stream, started = self.streams.get(number), None
        if stream is None:
            if self.client or number % 2 == 0 or number <= self.highest:
                self._wrong(f"HEADERS open stream {number} after {self.highest}")
            self.highest = number
            stream = started = self.streams[number] = Stream(self, number)
            if self.goaway_sent is not None and number > self.goaway_sent:
                started = None  # we said that we will not see it
            open_streams = sum(not (s.reset is not None or (s.ended and s.sent_end)) for s in self.streams.values())
            if open_streams > self.settings.get(MAX_STREAMS, 1 << 31) and self.settings_acked:
                self._wrong(f"{open_streams} streams, {self.settings[MAX_STREAMS]} are allowed")
        elif stream.ended:
            self._wrong(f"HEADERS after END_STREAM on stream {number}")
        if stream.headers is None or stream.fields().get(":status", "2")[0] == "1":
            stream.headers = fields
        else:
            stream.trailers = fields
        stream.ended = stream.ended or bool(end)
        return started

    def _check(self, fields):
        regular = False
        for name, _ in fields:
            if name != name.lower() or name in ("connection", "transfer-encoding", "upgrade", "keep-alive"):
                self._wrong(f"field {name}")
            if name.startswith(":") and regular:
                self._wrong(f"{name} after other fields")
            regular = regular or not name.startswith(":")

    def _settings(self, flags, number, payload):
        if number or len(payload) % 6 or (flags & ACK and payload):
            self._wrong(f"SETTINGS of {len(payload)} bytes with flags {flags} on stream {number}")
        if flags & ACK:
            self.settings_acked += 1
            return
        self.settings_frames += 1
        before, self.theirs = self.their(INITIAL_WINDOW), dict(self.theirs or {})
        for at in range(0, len(payload), 6):
            setting, value = struct.unpack_from(">HI", payload, at)
            self.theirs[setting] = value
        if self.their(INITIAL_WINDOW) > 0x7fffffff or not 16384 <= self.their(MAX_FRAME) <= 0xffffff:
            self._wrong(f"SETTINGS {self.theirs}")
        if self.theirs.get(ENABLE_PUSH, 0) > (0 if self.client else 1):
            self._wrong("ENABLE_PUSH of a server")
        self.encoder.limit(self.their(TABLE_SIZE))
        for stream in self.streams.values():
            stream.send_window += self.their(INITIAL_WINDOW) - before

    def _window_update(self, number, payload):
        increment = struct.unpack(">I", payload)[0] & 0x7fffffff
        if increment == 0:
            self._wrong("WINDOW_UPDATE by 0")
        if number == 0:
            self.send_window += increment
            window = self.send_window
        elif number in self.streams:
            self.streams[number].send_window += increment
            window = self.streams[number].send_window
        else:
            return self._wrong(f"WINDOW_UPDATE on idle stream {number}")
        if window > 0x7fffffff:
            self._wrong(f"window of {window} on stream {number}")
