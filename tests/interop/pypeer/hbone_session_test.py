# SPDX-License-Identifier: Apache-2.0
"""A client of this peer at the node proxy's 15008: the HTTP/2 session. The reference, section 5, and
RFC 9113."""
import threading
import time
import unittest

import h2
import hpack
from bed import until
from hbone import Client, read_all
from inbound import Inbound


class Session(Inbound):
    # -- the session --------------------------------------------------------------------------
    def test_settings(self):
        tunnel = self.tunnel()
        tunnel.h2.ping()
        # The reference's 4 MiB are what a stream's window grows to here (DECISIONS.md).
        wanted = {h2.INITIAL_WINDOW: 256 << 10, h2.MAX_FRAME: 1 << 20, h2.MAX_HEADER_LIST: 64 << 10, h2.MAX_STREAMS: 200}
        self.assertEqual({name: tunnel.h2.theirs.get(name) for name in wanted}, wanted)
        self.assertEqual(tunnel.h2.send_window, 16 << 20)
        self.assertEqual(tunnel.h2.settings_acked, 1)
        self.assertEqual(tunnel.pipe.object.version(), "TLSv1.3")
        self.assertEqual(tunnel.pipe.object.selected_alpn_protocol(), "h2")

    def test_ping(self):
        tunnel = self.tunnel()
        for number in range(5):
            tunnel.h2.ping(bytes([number] * 8))
        self.assertEqual(len(tunnel.h2.pongs), 5)

    def test_pings_of_the_proxy(self):
        """Every 10 s; without an answer for 20 s the tunnel ends with GOAWAY NO_ERROR."""
        well, deaf = self.tunnel(), self.tunnel(answer_pings=False)
        stream, lost = well.connect(self.to()), deaf.connect(self.to())
        self.assertEcho(stream)
        self.assertEcho(lost)
        started = time.monotonic()
        deaf.h2.wait_closed(120)
        self.assertGreater(time.monotonic() - started, 15)
        self.assertEqual([code for _, code, _ in deaf.h2.goaways][:1], [h2.NO_ERROR])
        self.assertGreaterEqual(len(well.h2.pings), 2)
        self.assertEcho(stream)

    def test_goaway_of_the_client(self):
        tunnel = self.tunnel()
        stream = tunnel.connect(self.to())
        self.assertEcho(stream)
        tunnel.h2.goaway(0)
        self.assertEcho(stream, b"still" * 50000)
        stream.finish()
        self.assertEqual(stream.read_all(), b"")

    def test_200_streams(self):
        tunnel, size = self.tunnel(), 20000
        streams = [tunnel.connect(self.to()) for _ in range(200)]
        for number, stream in enumerate(streams):
            self.assertEqual(stream.status(), 200)
            stream.send(bytes([number]) * size)
        one_more = tunnel.connect(self.to())
        with self.assertRaises(h2.Reset) as refused:
            one_more.status()
        self.assertEqual(refused.exception.code, h2.REFUSED_STREAM)
        for number, stream in enumerate(streams):
            self.assertEqual(stream.read_exactly(size), bytes([number]) * size)
            stream.finish()
        for stream in streams:
            self.assertEqual(stream.read_all(), b"")
        self.assertEcho(tunnel.connect(self.to()))

    # -- flow control -------------------------------------------------------------------------
    def flood(self, size):
        def behave(sock):
            sock.recv(1)
            sock.sendall(bytes(range(256)) * (size // 256))
            sock.close()
        self.app(8086, behave)

    def test_slow_reader(self):
        """One stream that is not read stops at its window and holds up nobody else."""
        self.flood(1 << 20)
        tunnel = self.tunnel(settings={h2.INITIAL_WINDOW: 65535})
        slow = tunnel.connect(self.to(8086))
        slow.send(b"g")
        self.assertEqual(slow.status(), 200)
        until("its window is used up", lambda: slow.received == 65535)
        for _ in range(3):
            self.assertEcho(tunnel.connect(self.to()), b"x" * 100000)
        self.assertEqual(slow.received, 65535)
        self.assertEqual(slow.read_all(), bytes(range(256)) * 4096)

    def test_window_of_the_connection(self):
        self.flood(1 << 20)
        tunnel = self.tunnel(settings={h2.INITIAL_WINDOW: 1 << 20}, room=0)
        streams = [tunnel.connect(self.to(8086)) for _ in range(3)]
        for stream in streams:
            stream.send(b"g")
            self.assertEqual(stream.status(), 200)
        until("the connection's window is used up", lambda: sum(s.received for s in streams) == 65535)
        time.sleep(0.3)
        self.assertEqual(sum(s.received for s in streams), 65535)
        # All at once: what one does not read holds up the others, as it must.
        got, threads = [], [threading.Thread(target=lambda s=s: got.append(len(s.read_all()))) for s in streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self.assertEqual(got, [1 << 20] * 3)

    def test_windows_that_change(self):
        """A larger initial window lets go on; a smaller one makes the window negative and must be waited for."""
        self.flood(1 << 20)
        tunnel = self.tunnel(settings={h2.INITIAL_WINDOW: 1000})
        stream = tunnel.connect(self.to(8086))
        stream.send(b"g")
        until("1000", lambda: stream.received == 1000)
        self.change(tunnel, stream, 5000)
        until("5000", lambda: stream.received == 5000)
        self.change(tunnel, stream, 0)  # now at -5000
        with tunnel.h2.cond:
            stream.receive_window += 5001
        tunnel.h2.frame(h2.WINDOW_UPDATE, 0, stream.id, (5001).to_bytes(4, "big"))
        until("one byte more", lambda: stream.received == 5001)
        time.sleep(0.2)
        self.assertEqual(stream.received, 5001)

    @staticmethod
    def change(tunnel, stream, window):
        with tunnel.h2.cond:
            stream.receive_window += window - tunnel.h2.settings[h2.INITIAL_WINDOW]
            tunnel.h2.settings[h2.INITIAL_WINDOW] = window
        acked = tunnel.h2.settings_acked
        tunnel.h2.frame(h2.SETTINGS, 0, 0, bytes([0, h2.INITIAL_WINDOW]) + window.to_bytes(4, "big"))
        tunnel.h2.wait(lambda: tunnel.h2.settings_acked > acked, "the ACK of SETTINGS")

    def test_an_application_that_does_not_read(self):
        """What the proxy takes is bounded by the windows that it gave; then all of it arrives."""
        go, got = threading.Event(), []

        def behave(sock):
            go.wait(60)
            got.append(len(read_all(sock)))
            sock.close()
        self.app(8087, behave)
        tunnel = self.tunnel()
        stream = tunnel.connect(self.to(8087))
        self.assertEqual(stream.status(), 200)
        size, sent = 64 << 20, 0
        with self.assertRaises(TimeoutError):
            while sent < size:
                stream.send(bytes(1 << 18), timeout=3)
                sent += 1 << 18
        self.assertLess(sent, 24 << 20)
        self.assertEcho(tunnel.connect(self.to()), b"others go on")
        go.set()
        more = 8 << 20
        left = tunnel.h2.send_window, stream.send_window
        stream.send(bytes(more), end=True)
        total = until("all arrived", lambda: got)[0]
        self.assertGreaterEqual(total, sent + more, left)

    # -- odd but right ------------------------------------------------------------------------
    def test_padding_priority_continuation(self):
        tunnel = self.tunnel()
        fields = Client.request(self.to(), ("baggage", "k8s.namespace.name=far"), ("x-long", "y" * 3000))
        for how in ({"padding": 0}, {"padding": 200}, {"priority": True}, {"pieces": 4}, {"pieces": 3, "padding": 9, "priority": True}):
            with self.subTest(how):
                stream = tunnel.h2.open(fields, **how)
                self.assertEqual(stream.status(), 200)
                for padding in (0, 1, 255):
                    tunnel.h2.send_data(stream, b"padded", padding=padding)
                self.assertEqual(stream.read_exactly(18), b"padded" * 3)
                tunnel.h2.send_data(stream, b"", padding=10)  # nothing but padding
                tunnel.h2.send_data(stream, b"last", end=True, padding=3)
                self.assertEqual(stream.read_all(), b"last")

    def test_padding_counts_against_the_windows(self):
        """17 MiB of padding with 70,000 bytes of data: room must come back for all of it."""
        tunnel = self.tunnel()
        stream = tunnel.connect(self.to())
        self.assertEqual(stream.status(), 200)
        for _ in range(70000):
            tunnel.h2.send_data(stream, b"x", padding=255)
            if len(stream.buffer) > 10000:
                stream.read()
        stream.finish()
        stream.read_all()
        self.assertEqual(stream.received, 70000)

    def test_unknown_frames_and_settings(self):
        tunnel = self.tunnel(settings={0xabc: 7, 0x8: 0, 0xffff: 0xffffffff})
        tunnel.h2.frame(0xfa, 0xff, 0, b"what is this")
        stream = tunnel.connect(self.to())
        tunnel.h2.frame(0xfb, 0, stream.id, b"and this")
        tunnel.h2.frame(h2.PRIORITY, 0, stream.id, b"\0\0\0\0\x10")
        tunnel.h2.frame(0xfc, 0, 77, b"on an idle stream")
        self.assertEcho(stream)

    def test_huffman_and_the_dynamic_table_before_settings_are_known(self):
        """Until we saw the proxy's SETTINGS its table has 4096 bytes; afterwards it must shrink as it said."""
        tunnel = self.tunnel(start=False, encoder=hpack.Encoder(plain=False))
        fields = Client.request(self.to(), ("baggage", "k8s.cluster.name=c,service.name=~{huffman}\\"), ("traceparent", "00-" + "ab" * 16 + "-" + "cd" * 8 + "-00"))
        first, one = tunnel.h2.prepare(fields)
        second, two = tunnel.h2.prepare(fields)
        self.assertLess(len(two), len(one) // 2, "the second is made of references")
        tunnel.h2.start(one + two)
        self.assertEcho(first)
        self.assertEcho(second)
        for _ in range(3):
            self.assertEcho(tunnel.h2.open(fields))

    def test_a_frame_as_large_as_may_be(self):
        """Frames up to a mebibyte are announced; a stream's window, which begins smaller, is the other limit."""
        tunnel = self.tunnel()
        stream = tunnel.connect(self.to())
        self.assertEqual(stream.status(), 200)
        data = (bytes(range(256)) * 4096)[:stream.send_window]
        self.assertEqual(len(data), 256 << 10)
        stream.send_window -= len(data)
        tunnel.h2.send_window -= len(data)
        tunnel.h2.frame(h2.DATA, 0, stream.id, data)
        self.assertEqual(stream.read_exactly(len(data)), data)

    # -- wrong --------------------------------------------------------------------------------
    def dies(self, act, *codes):
        tunnel = self.tunnel()
        stream = tunnel.connect(self.to())
        self.assertEcho(stream)
        self.bed.closers.remove(tunnel)  # what follows is a violation of our own
        act(tunnel.h2, stream)
        tunnel.h2.wait_closed()
        tunnel.close()
        self.assertIn(tunnel.h2.goaways[-1][1] if tunnel.h2.goaways else None, codes)

    def test_errors_of_the_connection(self):
        cases = {
            "DATA on stream 0": (lambda c, s: c.frame(h2.DATA, 0, 0, b"x"), h2.PROTOCOL_ERROR),
            "DATA on an idle stream": (lambda c, s: c.frame(h2.DATA, 0, 99, b"x"), h2.PROTOCOL_ERROR),
            "an even stream": (lambda c, s: c.send_headers(4, Client.request(self.to())), h2.PROTOCOL_ERROR),
            "a lower stream": (lambda c, s: (c.send_headers(9, Client.request(self.to())), c.send_headers(7, Client.request(self.to()))),
                               h2.PROTOCOL_ERROR, h2.STREAM_CLOSED),
            "CONTINUATION alone": (lambda c, s: c.frame(h2.CONTINUATION, h2.END_HEADERS, s.id, b"\x88"), h2.PROTOCOL_ERROR),
            "a frame between HEADERS and CONTINUATION": (lambda c, s: (c.frame(h2.HEADERS, 0, 3, b""), c.frame(h2.PING, 0, 0, bytes(8))), h2.PROTOCOL_ERROR),
            "PUSH_PROMISE": (lambda c, s: c.frame(h2.PUSH_PROMISE, h2.END_HEADERS, s.id, b"\0\0\0\2\x88"), h2.PROTOCOL_ERROR),
            "a PING of 7 bytes": (lambda c, s: c.frame(h2.PING, 0, 0, bytes(7)), h2.FRAME_SIZE_ERROR),
            "a frame above the limit": (lambda c, s: c.raw((0x100001).to_bytes(3, "big") + b"\0\0\0\0\0\1"), h2.FRAME_SIZE_ERROR),
            "SETTINGS of 5 bytes": (lambda c, s: c.frame(h2.SETTINGS, 0, 0, bytes(5)), h2.FRAME_SIZE_ERROR),
            "ENABLE_PUSH 2": (lambda c, s: c.frame(h2.SETTINGS, 0, 0, b"\0\2\0\0\0\2"), h2.PROTOCOL_ERROR),
            "a window of 2^31": (lambda c, s: c.frame(h2.SETTINGS, 0, 0, b"\0\4\x80\0\0\0"), h2.FLOW_CONTROL_ERROR),
            "a window past 2^31": (lambda c, s: c.frame(h2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), h2.FLOW_CONTROL_ERROR),
            "WINDOW_UPDATE by 0": (lambda c, s: c.frame(h2.WINDOW_UPDATE, 0, 0, bytes(4)), h2.PROTOCOL_ERROR),
            "a header block that is none": (lambda c, s: c.frame(h2.HEADERS, h2.END_HEADERS, 3, b"\xff\xff\xff\xff\xff\xff"), h2.COMPRESSION_ERROR),
            "padding beyond the frame": (lambda c, s: c.frame(h2.DATA, h2.PADDED, s.id, b"\x05abc"), h2.PROTOCOL_ERROR),
        }
        for name, (act, *codes) in cases.items():
            with self.subTest(name):
                self.dies(act, *codes)
        self.assertEcho(self.tunnel().connect(self.to()))

    def test_data_after_the_end(self):
        """STREAM_CLOSED, of the stream or the connection; other streams are not harmed by a stream's error. The
        application does not end its side, so the stream is half closed when more comes."""
        go, got = threading.Event(), []

        def behave(sock):
            got.append(read_all(sock))
            go.wait(20)
            sock.close()
        self.app(8088, behave)
        self.addCleanup(go.set)
        tunnel = self.tunnel()
        stream = tunnel.connect(self.to(8088), end=False)
        self.assertEqual(stream.status(), 200)
        stream.send(b"whole", end=True)
        until("the application has all", lambda: got)
        tunnel.h2.frame(h2.DATA, 0, stream.id, b"late")
        until("told", lambda: stream.reset is not None or tunnel.h2.goaways)
        codes = {stream.reset, *(code for _, code, _ in tunnel.h2.goaways)} - {None}
        self.assertEqual(codes, {h2.STREAM_CLOSED})
        self.assertEqual(got, [b"whole"], "what came after the end was passed on")
        go.set()
        self.assertEcho((self.tunnel() if tunnel.h2.goaways else tunnel).connect(self.to()))

    def test_headers_that_are_malformed(self):
        """A stream error (RFC 9113, 8.1.1) or 400; the tunnel stays."""
        for more in ([("Baggage", "upper=case")], [("connection", "close")], [("x", "a\r\nb")], [(":late", "pseudo")]):
            with self.subTest(more):
                tunnel = self.tunnel()
                stream = tunnel.connect(self.to(), *more)
                try:
                    self.assertEqual(stream.status(), 400)
                except h2.Reset as malformed:
                    self.assertEqual(malformed.code, h2.PROTOCOL_ERROR)
                self.assertEcho(tunnel.connect(self.to()))

if __name__ == "__main__":
    unittest.main(verbosity=2)
