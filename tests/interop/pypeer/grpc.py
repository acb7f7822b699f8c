# SPDX-License-Identifier: Apache-2.0
"""gRPC over HTTP/2, server side, TLS without client certificates: five-byte framing, trailers."""
import struct
import threading

import h2
import netns
import tls


class Call:
    def __init__(self, stream):
        self.stream, self.fields, self.path = stream, stream.fields(), stream.fields().get(":path")
        self.answered = False

    def receive(self, timeout=h2.WAIT):
        """The next message; None when the client has ended."""
        head = self.stream.read(5, timeout)
        if not head:
            return None
        head += self.stream.read_exactly(5 - len(head), timeout) if len(head) < 5 else b""
        packed, size = struct.unpack(">BI", head)
        if packed:
            raise RuntimeError("compressed message")
        return self.stream.read_exactly(size, timeout) if size else b""

    def begin(self):
        if not self.answered:
            self.answered = True
            self.stream.answer(200, [("content-type", "application/grpc")])

    def send(self, message):
        self.begin()
        self.stream.send(struct.pack(">BI", 0, len(message)) + message)

    def finish(self, status=0, text=""):
        """Trailers; alone in the only HEADERS when nothing was sent before."""
        fields = [("grpc-status", str(status))] + ([("grpc-message", text)] if text else [])
        if not self.answered:
            self.answered = True
            fields = [(":status", "200"), ("content-type", "application/grpc"), *fields]
        self.stream.sent_end = True
        self.stream.connection.send_headers(self.stream.id, fields, end=True)


class Server:
    """Serves `methods` (path -> function(call)) on an address inside of a namespace."""

    def __init__(self, namespace, context, methods, address="127.0.0.1", port=0):
        self.namespace, self.context, self.methods, self.address = namespace, context, methods, address
        self.connections, self.calls, self.violations, self.failures = [], [], [], []
        self.listener, self.port = None, port
        self.open()

    def open(self):
        self.listener = netns.listen(self.namespace, self.address, self.port)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def close(self):
        """As a server that dies."""
        self.listener.shutdown(2)
        self.listener.close()
        for connection in self.connections:
            connection.close()

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            pipe = tls.Tls(sock, self.context, server=True)
        except OSError as error:
            self.failures.append(str(error))
            return
        self.connections.append(h2.Connection(pipe, client=False, settings={h2.MAX_STREAMS: 100}, on_stream=self._stream))

    def _stream(self, stream):
        call = Call(stream)
        self.calls.append(call)
        for name, wanted in (("content-type", "application/grpc"), ("te", "trailers"), (":method", "POST"), (":scheme", "https")):
            if call.fields.get(name) != wanted:
                self.violations.append(f"{name}: {call.fields.get(name)!r} in a gRPC request")
        if method := self.methods.get(call.path):
            method(call)
        else:
            call.finish(12, "no such method")

    def problems(self):
        return self.violations + [v for c in self.connections for v in c.violations]
