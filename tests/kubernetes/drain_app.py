#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A server that ends as a good one does: told to, it is no longer ready, serves on while endpoints
forget it, then asks each client to go, and leaves when none is left. Port 8080; DRAIN seconds of
grace (default 5). GET /ready for the probe; every other answer names the pod and the request's id."""
import http.server
import json
import os
import signal
import sys
import threading
import time

NAME = os.environ.get("POD_NAME", "?")
DRAIN = float(os.environ.get("DRAIN", "5"))
ending = threading.Event()
idle = threading.Condition()
open_connections = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle(self):
        global open_connections
        with idle:
            open_connections += 1
        try:
            super().handle()
        except OSError:
            pass
        finally:
            with idle:
                open_connections -= 1
                idle.notify_all()

    def do_GET(self):
        ready = self.path == "/ready"
        body = json.dumps({"pod": NAME, "id": self.headers.get("x-id"), "ending": ending.is_set()}).encode()
        self.send_response(503 if ready and ending.is_set() else 200)
        self.send_header("content-length", str(len(body)))
        if ending.is_set():
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


def drain(server):
    ending.wait()
    time.sleep(DRAIN)
    server.shutdown()
    with idle:
        idle.wait_for(lambda: open_connections == 0, timeout=10)
    print(f"{NAME} ends with {open_connections} connections open", file=sys.stderr, flush=True)
    os._exit(0)


def main():
    server = Server(("", 8080), Handler)
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    threading.Thread(target=drain, args=(server,)).start()
    server.serve_forever()
    time.sleep(60)  # drain() ends the process


if __name__ == "__main__":
    main()
