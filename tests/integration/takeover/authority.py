#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for the proxies of this bed, as a process: the foreign peer's (tests/interop/
pypeer). Writes root.pem and token into the folder, then its port to stdout, and serves until its end."""
import os
import socket
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../interop/pypeer"))
import ca  # noqa: E402
import certs  # noqa: E402
import grpc  # noqa: E402
import tls  # noqa: E402


class Server(grpc.Server):
    """In this process's own namespace."""

    def open(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()


def main(folder):
    root = certs.Authority(folder)
    cert, key = root.issue("controlplane", ["DNS:localhost", "IP:127.0.0.1"], "serverAuth")
    server = Server(None, tls.server_context(cert, key), {ca.PATH: ca.Ca(root, root).serve})
    certs.Authority.write(os.path.join(folder, "token"), "a-token")
    print(server.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
