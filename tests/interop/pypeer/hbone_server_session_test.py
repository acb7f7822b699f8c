# SPDX-License-Identifier: Apache-2.0
"""A server of this peer where the node proxy's tunnels end: the HTTP/2 session and the pool of tunnels.
The reference, section 5, and RFC 9113."""
import socket
import threading
import time
import unittest

import h2
from bed import until
from hbone import read_all, reset, serve
from outbound import Outbound


class Session(Outbound):
    # -- the session --------------------------------------------------------------------------
    def test_goaway_while_streams_live(self):
        """What is open goes on; what is new goes to another connection."""
        socks = self.open_streams(3)
        first = self.server.connection(0)
        first.goaway(first.highest)
        more = self.open_streams(2)
        self.assertEqual(len(self.server.connections), 2)
        self.assertEqual(len(first.streams), 3)
        self.finish(socks + more)
        first.wait_closed()

    def test_goaway_below_a_stream_that_was_just_opened(self):
        """A stream above the last id was certainly not processed: it goes to another connection."""
        [old] = self.open_streams(1)
        first = self.server.connection(0)

        def answer(stream):
            if stream.connection is first:
                return first.goaway(stream.id - 2)
            return serve(stream)
        self.server.on_stream = answer
        self.assertEqual(self.echo(b"moved"), b"moved")
        self.assertEqual(len(self.server.connections), 2)
        self.finish([old])

    def test_two_goaways(self):
        """The graceful way: 2^31-1 first, then the real one."""
        socks = self.open_streams(1)
        first = self.server.connection(0)
        first.goaway(0x7fffffff)
        time.sleep(0.2)
        first.goaway(first.highest)
        socks += self.open_streams(1)
        self.assertEqual(len(self.server.connections), 2)
        self.finish(socks)

    def test_refused_stream_is_tried_again(self):
        seen = []

        def answer(stream):
            seen.append(stream)
            return stream.abort(h2.REFUSED_STREAM) if len(seen) == 1 else serve(stream)
        self.server.on_stream = answer
        self.assertEqual(self.echo(b"again"), b"again")
        self.assertEqual(len(seen), 2)

    def test_refused_stream_is_not_tried_for_ever(self):
        seen = []

        def answer(stream):
            seen.append(stream)
            stream.abort(h2.REFUSED_STREAM)
        self.assertEqual(self.outcome(answer), "reset")
        self.assertLessEqual(len(seen), 4)

    def test_number_of_streams_of_the_peer(self):
        """Two a tunnel, once it has said so: whoever opens a third is reported as a violation."""
        self.server.settings[h2.MAX_STREAMS] = 2
        socks = []
        for _ in range(7):
            socks += self.open_streams(1)
        self.assertGreaterEqual(len(self.server.connections), 4)
        self.finish(socks)

    def test_burst_at_a_peer_that_takes_few_streams(self):
        """Streams that were opened before the SETTINGS came are refused (RFC 9113, 5.1.2): certainly not
        processed, so none of the applications should notice."""
        def answer(stream):
            with stream.connection.cond:
                live = sum(not s.ended and s.reset is None and s not in refused for s in stream.connection.streams.values() if s.id <= stream.id)
                if live > 2:
                    refused.append(stream)
            return stream.abort(h2.REFUSED_STREAM) if stream in refused else serve(stream)
        refused = []
        self.server.on_stream, self.server.on_connection = answer, lambda connection: time.sleep(0.5)
        self.server.settings[h2.MAX_STREAMS] = 2
        socks = self.open_streams(7)
        self.assertGreaterEqual(len(self.server.connections), 4)
        self.finish(socks)

    def test_number_of_streams_that_shrinks(self):
        socks = self.open_streams(3)
        first = self.server.connection(0)
        first.settings[h2.MAX_STREAMS] = 3
        first.frame(h2.SETTINGS, 0, 0, b"\0\3\0\0\0\3")
        first.wait(lambda: first.settings_acked == 2, "the ACK of SETTINGS")
        socks += self.open_streams(2)
        self.assertEqual(len(first.streams), 3)
        self.finish(socks)

    def test_a_hundred_streams_a_tunnel(self):
        socks = self.open_streams(150)
        self.assertEqual(sum(len(c.streams) for c in self.server.connections), 150)
        self.assertLessEqual(max(len(c.streams) for c in self.server.connections), 100)
        self.finish(socks)

    def test_200_at_once_with_bytes(self):
        failed = []

        def one(number):
            data = bytes([number]) * 50000
            try:
                if self.echo(data) != data:
                    failed.append(number)
            except OSError as error:
                failed.append((number, error))
        threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        self.assertFalse(any(thread.is_alive() for thread in threads), "some are not done")
        self.assertEqual(failed, [])

    def test_pings(self):
        """The proxy's every 10 s; ours are answered; a server that answers none loses the tunnel."""
        self.server.how = {"answer_pings": False}
        [deaf] = self.open_streams(1)
        connection = self.server.connection(0)
        connection.ping()
        started = time.monotonic()
        connection.wait_closed(120)
        self.assertGreater(time.monotonic() - started, 15)
        self.assertGreaterEqual(len(connection.pings), 1)
        with self.assertRaises(ConnectionResetError):
            read_all(deaf)
        deaf.close()

    # -- flow control -------------------------------------------------------------------------
    def test_slow_reader(self):
        go = threading.Event()

        def answer(stream):
            stream.answer(200)
            if stream.id == 1:
                go.wait(60)
            while data := stream.read():
                stream.send(data)
            stream.finish()
        self.server.on_stream = answer
        self.server.settings[h2.INITIAL_WINDOW] = 65535
        slow, data = self.dial(), bytes(range(256)) * 20000
        sender = threading.Thread(target=slow.sendall, args=(data,))
        sender.start()
        stream = self.only_stream()
        until("its window is used up", lambda: stream.received == 65535)
        for _ in range(3):
            self.assertEqual(self.echo(b"y" * 100000), b"y" * 100000)
        self.assertEqual(stream.received, 65535)
        self.assertEqual(len(self.server.connections), 1)
        go.set()
        got = bytearray()
        while len(got) < len(data):
            got += slow.recv(1 << 16)
        sender.join()
        self.assertEqual(got, data)
        self.finish([slow])

    def test_tiny_windows(self):
        self.server.settings[h2.INITIAL_WINDOW] = 1
        self.assertEqual(self.echo(b"byte by byte" * 20), b"byte by byte" * 20)

    def test_no_window_until_later(self):
        """Initial window 0; a later SETTINGS opens it."""
        self.server.settings[h2.INITIAL_WINDOW] = 0
        sock = self.dial()
        sock.sendall(b"hello")
        stream = self.only_stream()
        time.sleep(0.3)
        self.assertEqual(stream.received, 0)
        connection = stream.connection
        with connection.cond:
            connection.settings[h2.INITIAL_WINDOW] = 70000
            stream.receive_window += 70000
        connection.frame(h2.SETTINGS, 0, 0, b"\0\4" + (70000).to_bytes(4, "big"))
        self.assertEqual(sock.recv(5), b"hello")
        self.finish([sock])

    def test_large_frames_are_allowed_and_small_ones_are_kept(self):
        """The proxy may send frames up to the peer's limit, here the least that there is: checked for each frame."""
        self.server.settings[h2.MAX_FRAME] = 16384
        data = bytes(range(256)) * 40000
        self.assertEqual(self.echo_large(data), data)

    def echo_large(self, data):
        sock, got = self.dial(), bytearray()
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        got = read_all(sock)
        sender.join()
        sock.close()
        return got

    def test_an_application_that_does_not_read(self):
        """Stops at the windows that the proxy gave; others on the tunnel go on."""
        def answer(stream):
            stream.answer(200)
            if stream.fields()[":authority"].endswith(":7001"):
                try:
                    stream.send(bytes(64 << 20), timeout=3)
                except TimeoutError:
                    stopped.append(True)
                return
            while data := stream.read():
                stream.send(data)
            stream.finish()
        stopped = []
        self.server.on_stream = answer
        sock = self.dial(7001)
        until("stopped", lambda: stopped)
        self.assertEqual(self.echo(), b"hello")
        self.assertEqual(len(self.server.connections), 1)
        reset(sock)


class Few(Outbound):
    environment = {"POOL_MAX_STREAMS_PER_CONNECTION": "3", "POOL_UNUSED_RELEASE_TIMEOUT": "1s"}

    def test_as_many_streams_a_tunnel_as_configured_and_not_long_without(self):
        socks = self.open_streams(7)
        connections = list(self.server.connections)
        self.assertEqual(sum(len(c.streams) for c in connections), 7)
        self.assertLessEqual(max(len(c.streams) for c in connections), 3)
        self.assertIsNone(next((c.closed for c in connections if c.closed), None))
        self.finish(socks)
        for connection in connections:  # by default after five minutes
            connection.wait_closed(60)


if __name__ == "__main__":
    unittest.main(verbosity=2)
