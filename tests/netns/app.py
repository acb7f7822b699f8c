#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The application of the end-to-end tests: plain servers that know nothing of the mesh.

8080 HTTP: answers JSON about the request; /status/N answers N; /flaky/ID answers 503 the first time
     an ID is seen and 200 after; /bytes/N sends N bytes; /slow/S answers after S seconds
9000 echo    9001 greets first, then echoes    9002 reads to the end, answers "LENGTH SHA256"
9003 reads "N\\n", sends N pattern bytes and ends    9004 accepts and resets after the first byte
"""
import hashlib
import http.server
import json
import os
import socket
import socketserver
import struct
import sys
import threading
import time

NAME = os.environ.get("POD_NAME", socket.gethostname())
VERSION = os.environ.get("VERSION", "v1")
PATTERN = bytes(range(256)) * 256  # 64 KiB
seen = set()
seen_lock = threading.Lock()


class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment: no 40 ms of Nagle against delayed ACK

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-served-by", NAME)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        part = self.path.split("?")[0].strip("/").split("/")
        status = 200
        if part[0] == "status":
            status = int(part[1])
        elif part[0] == "flaky":
            with seen_lock:
                if part[1] not in seen:
                    seen.add(part[1])
                    status = 503
        elif part[0] == "slow":
            time.sleep(float(part[1]))
        elif part[0] == "bytes":
            n = int(part[1])
            self.answer(200, (PATTERN * (n // len(PATTERN) + 1))[:n], "application/octet-stream")
            return
        self.answer(status, json.dumps({
            "pod": NAME, "version": VERSION, "method": self.command, "path": self.path,
            "peer": self.client_address[0], "headers": {k.lower(): v for k, v in self.headers.items()},
            "body_length": len(body), "body_sha256": hashlib.sha256(body).hexdigest(),
        }).encode() + b"\n")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def echo(sock):
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def greet(sock):
    sock.sendall(b"220 " + NAME.encode() + b" ready\r\n")
    echo(sock)


def sink(sock):
    digest, total = hashlib.sha256(), 0
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    while n := sock.recv_into(buffer):
        digest.update(view[:n])
        total += n
    sock.sendall(f"{total} {digest.hexdigest()}".encode())
    sock.shutdown(socket.SHUT_WR)


def source(sock):
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            return
        line += byte
    left = int(line)
    while left > 0:
        chunk = PATTERN[:min(left, len(PATTERN))]
        sock.sendall(chunk)
        left -= len(chunk)
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):
        pass


def reset(sock):
    sock.recv(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def handler(function):
    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            try:
                function(self.request)
            except OSError:
                pass

    if function is reset:
        # shutdown_request() would send FIN first; a reset is close() with linger 0 and nothing else.
        Handler.no_shutdown = True
    return Handler


class ResetServer(Server):
    def shutdown_request(self, request):
        request.close()


def main():
    servers = [Server(("::", 8080), Http)]
    for port, function in ((9000, echo), (9001, greet), (9002, sink), (9003, source)):
        servers.append(Server(("::", port), handler(function)))
    servers.append(ResetServer(("::", 9004), handler(reset)))
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{NAME} {VERSION} serves", file=sys.stderr, flush=True)
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
