# SPDX-License-Identifier: Apache-2.0
"""HBONE, either side: the reference, section 5."""
import contextlib
import socket
import struct
import threading

import h2
import netns
import tls

WINDOW = 1 << 18


class Client:
    """A tunnel to a proxy's 15008."""

    def __init__(self, namespace, address, context, port=15008, source=None, **how):
        self.pipe = tls.Tls(netns.connect(namespace, address, port, source=source), context, server=False)
        how = {"room": 1 << 24, "settings": {h2.INITIAL_WINDOW: WINDOW}, **how}
        self.h2 = h2.Connection(self.pipe, client=True, **how)

    @staticmethod
    def request(authority, *fields, method="CONNECT"):
        return [(":method", method), (":authority", authority), *fields]

    def connect(self, authority, *fields, method="CONNECT", **how):
        return self.h2.open(self.request(authority, *fields, method=method), **how)

    def problems(self):
        return self.h2.violations

    def close(self, reset=False):
        self.h2.close(reset)


def serve(stream):
    """What a server does with a stream when the test has nothing else in mind: 200 and an echo, whose
    end follows the client's."""
    stream.answer(200)
    while data := stream.read(timeout=120):
        stream.send(data)
    stream.finish()


class Server:
    """Listens on 15008 in a namespace. `on_stream` may be changed at any time; `settings` hold for
    the next connections."""

    def __init__(self, namespace, context, address="0.0.0.0", port=15008):
        self.context, self.on_stream, self.settings, self.how = context, serve, {h2.INITIAL_WINDOW: WINDOW, h2.MAX_STREAMS: 200}, {}
        self.on_connection = None
        self.cond, self.connections, self.failures, self.violations = threading.Condition(), [], [], []
        self.listener = netns.listen(namespace, address, port)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock, peer), daemon=True).start()

    def _serve(self, sock, peer):
        try:
            pipe = tls.Tls(sock, self.context, server=True)
        except OSError as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return
        connection = h2.Connection(pipe, client=False, settings=self.settings, start=False, on_stream=lambda s: self.on_stream(s),
                                   **{"room": 1 << 24, **self.how})
        connection.peer = peer
        with self.cond:
            self.connections.append(connection)
            self.cond.notify_all()
        if self.on_connection:
            self.on_connection(connection)
        try:
            connection.start()
        except OSError as error:  # refused by the client after its handshake
            connection.closed = f"{type(error).__name__}: {error}"
            self.failures.append(connection.closed)

    def streams(self):
        return [s for c in self.connections for s in c.streams.values()]

    def connection(self, number, timeout=60):
        with self.cond:
            if not self.cond.wait_for(lambda: len(self.connections) > number, timeout):
                raise TimeoutError(f"no connection {number}: {len(self.connections)} so far; failed: {self.failures}")
            return self.connections[number]

    def forget(self):
        """Closes what there is, so that the next test begins with a tunnel of its own."""
        for connection in self.connections:
            with contextlib.suppress(OSError):  # one that is gone already
                connection.goaway(connection.highest)
            connection.close()
        for connection in self.connections:
            connection.wait_closed()
        self.violations += [v for c in self.connections for v in c.violations]
        self.connections, self.failures, self.on_stream, self.how, self.on_connection = [], [], serve, {}, None
        self.settings = {h2.INITIAL_WINDOW: WINDOW, h2.MAX_STREAMS: 200}

    def problems(self):
        return self.violations + [v for c in self.connections for v in c.violations]

    def close(self):
        self.listener.shutdown(2)
        self.listener.close()
        for connection in self.connections:
            connection.close()


class App:
    """An ordinary TCP server inside of a pod: `behave(sock)` in a thread per connection."""

    def __init__(self, namespace, address, port, behave):
        self.behave, self.sockets, self.sources = behave, [], []
        self.listener = netns.listen(namespace, address, port)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            self.sockets.append(sock)
            self.sources.append(peer)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            self.behave(sock)
        except OSError:
            pass

    def close(self):
        self.listener.shutdown(2)
        self.listener.close()
        for sock in self.sockets:
            sock.close()


def reset(sock):
    """A RST instead of a FIN."""
    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER
    sock.close()


def read_all(sock):
    out = bytearray()
    while data := sock.recv(1 << 16):
        out += data
    return bytes(out)


def outcome(name, address, port, data=b"hello", end=True):
    """What an application in that namespace sees of a connection: the bytes before a clean end, or "reset". `end`: it
    ends its own direction behind `data`."""
    try:
        sock = netns.connect(name, address, port)
    except ConnectionResetError:  # the reset came before connect() had woken up
        return "reset"
    try:
        sock.sendall(data)
        if end:
            sock.shutdown(socket.SHUT_WR)
        return read_all(sock)
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    finally:
        sock.close()


def echo(sock):
    while data := sock.recv(1 << 16):
        sock.sendall(data)
    sock.close()
