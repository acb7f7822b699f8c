# SPDX-License-Identifier: Apache-2.0
"""Processes of the node proxy follow each other while this peer is at the other end of their tunnels, both
as client and as server: its streams go on, over the TLS connections that it has, without a violation of
HTTP/2 and without a byte that is another."""
import os
import re
import signal
import socket
import threading
import unittest

import netns
import tls
from ads import ADDRESS, workload
from bed import PEER, Bed, Case, until
from hbone import App, Client, Server, echo, read_all, serve

PORT, HELD = 7000, 7001  # at the peer; a stream for the second is not read before it may be
ECHO, LATER = 8080, 8081  # at the pod; what comes to the second is answered after its end, later
UPGRADES = 4
LARGE = bytes(range(256)) * 8000


class Takeover(Case):
    def setUp(self):
        bed = self.use(Bed(environment={"ZTUNNEL_WORKER_THREADS": "2"}))
        bed.environment["QANAT_TAKEOVER_SOCKET"] = os.path.join(bed.folder, "takeover.sock")
        self.client, self.server, self.far = bed.pods["client"], bed.pods["server"], bed.peer()
        bed.ads.resources[ADDRESS] = dict([
            workload("client", "near", "client", self.client), workload("server", "near", "server", self.server),
            workload("peer", "far", "peer", self.far)])
        self.may = threading.Event()
        for port, behave in ((ECHO, echo), (LATER, self.later)):
            bed.closers.append(App(self.server.name, "0.0.0.0", port, behave))
        cert = bed.root.issue("peer", [PEER])
        self.peer = Server(self.far.name, tls.server_context(*cert, bed.root.cert))
        self.peer.on_stream = self.answer
        bed.closers.append(self.peer)
        self.context = tls.client_context(bed.root.cert, *cert)
        self.next = 0
        self.start()

    def start(self):
        """Each process has its own ports for those who look at it."""
        self.next += 1
        names = ("QANAT_ADMIN_ADDR", "QANAT_METRICS_ADDR", "QANAT_READINESS_ADDR")
        ports = [16000 + 10 * self.next + i for i in range(len(names))]
        self.bed.start(**{name: f"127.0.0.1:{port}" for name, port in zip(names, ports)}).enrol()
        until("ready", lambda: self.bed.get(ports[2], "/healthz/ready")[0] == 200)

    def upgrade(self, how):
        """Another process takes over, then the one before it ends so. How many items were given."""
        old = self.bed.program, self.bed.log
        until("somebody to take over from", lambda: os.path.exists(self.bed.environment["QANAT_TAKEOVER_SOCKET"]))
        self.start()

        def given():
            with open(old[1], errors="replace") as log:
                return re.search(r"given to the new process: (\d+) listeners and connections, (\d+) refused\n", log.read())
        said = until("the end of the take-over", given)
        old[0].send_signal(how)
        old[0].wait(60)
        self.assertEqual(said[2], "0")
        return int(said[1])

    # -- what the applications do ---------------------------------------------------------------
    def later(self, sock):
        data = read_all(sock)
        self.may.wait(120)
        sock.sendall(data[::-1])
        sock.close()

    def answer(self, stream):
        if not stream.fields()[":authority"].endswith(f":{HELD}"):
            return serve(stream)
        stream.answer(200)
        self.may.wait(120)
        got = stream.read_all()
        stream.send(got[::-1], end=True)
        return None

    @staticmethod
    def read(sock, size):
        out = bytearray()
        while len(out) < size:
            data = sock.recv(size - len(out))
            if not data:
                raise EOFError(f"{len(out)} bytes of {size}")
            out += data
        return out

    def dial(self, port):
        return netns.connect(self.client.name, self.far.ip, port)

    def run_all(self, exchanges):
        """Threads that exchange bytes until they are told to end; what went wrong, how many rounds each has."""
        self.stop, self.wrong, self.rounds = threading.Event(), [], [0] * len(exchanges)

        def work(number, exchange):
            data = bytes([number + 1]) * 700 if number % 2 else LARGE
            try:
                while not self.stop.is_set():
                    part = data[self.rounds[number] % 200:]
                    if exchange(part) != part:
                        raise AssertionError("other bytes")
                    self.rounds[number] += 1
            except Exception as error:
                self.wrong.append(f"{number} in round {self.rounds[number]}: {type(error).__name__} {error}")
        self.threads = [threading.Thread(target=work, args=one, daemon=True) for one in enumerate(exchanges)]
        for thread in self.threads:
            thread.start()

    def all_go_on(self, before):
        until("two rounds more of each", lambda: self.wrong or all(now > then + 1 for now, then in zip(self.rounds, before)))
        self.assertEqual(self.wrong, [])

    @staticmethod
    def over(send, read):
        """An exchange: what is sent while the same comes back."""
        def exchange(data):
            sender = threading.Thread(target=send, args=(data,), daemon=True)
            sender.start()
            got = read(len(data))
            sender.join()
            return got
        return exchange

    def test_live_streams_go_on(self):
        until("the client has its certificate", lambda: self.first_echo())
        until("the server has its certificate", lambda: Client(self.far.name, self.server.ip, self.context).h2.ping() is None)
        socks = [self.dial(PORT) for _ in range(4)]
        tunnels = [Client(self.far.name, self.server.ip, self.context) for _ in range(2)]
        streams = [tunnel.connect(f"{self.server.ip}:{ECHO}") for tunnel in tunnels for _ in range(2)]
        self.bed.closers += tunnels
        self.assertEqual([stream.status() for stream in streams], [200] * 4)
        self.run_all([self.over(s.sendall, lambda size, s=s: self.read(s, size)) for s in socks]
                     + [self.over(s.send, s.read_exactly) for s in streams])
        # One direction of each has come to its end, the other one is to be used after the upgrades; what the
        # peer does not take fills its window, and then what is between.
        held = self.dial(HELD)
        sender = threading.Thread(target=lambda: (held.sendall(LARGE), held.shutdown(socket.SHUT_WR)), daemon=True)
        sender.start()
        ended = tunnels[0].connect(f"{self.server.ip}:{LATER}")
        self.assertEqual(ended.status(), 200)
        ended.send(LARGE, end=True)
        self.all_go_on([0] * len(self.rounds))
        # A tunnel that nothing goes over is not used again once the new process has its own certificate, and ends.
        connections = [c for c in self.peer.connections if any(not s.sent_end for s in c.streams.values())]
        self.assertTrue(connections)
        for number in range(UPGRADES):
            given = self.upgrade(signal.SIGTERM if number % 2 else signal.SIGKILL)
            self.assertGreaterEqual(given, 2 + 3, "two pods' listeners, and a tunnel each way at least")
            self.all_go_on(list(self.rounds))
            for one in [tunnel.h2 for tunnel in tunnels] + connections:
                self.assertIsNone(one.closed)
        for tunnel in tunnels:
            tunnel.h2.ping()
        self.may.set()
        self.assertEqual(read_all(held), LARGE[::-1])
        self.assertEqual(ended.read_all(), LARGE[::-1])
        sender.join(60)
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        self.assertEqual(self.wrong, [])
        # New streams find what is there: from the peer, and to it.
        more = tunnels[0].connect(f"{self.server.ip}:{ECHO}")
        self.assertEqual(more.status(), 200)
        for sock in socks:
            sock.shutdown(socket.SHUT_WR)
            self.assertEqual(read_all(sock), b"")
            sock.close()
        held.close()
        for stream in [*streams, more]:
            stream.finish()
            self.assertEqual(stream.read_all(), b"")
        self.assertEqual([tunnel.problems() for tunnel in tunnels], [[], []])
        self.assertEqual(self.peer.problems(), [])
        print(f"{UPGRADES} upgrades, rounds of each: {self.rounds}")

    def first_echo(self):
        with self.dial(PORT) as sock:
            sock.sendall(b"ready")
            return self.read(sock, 5) == b"ready"


if __name__ == "__main__":
    unittest.main(verbosity=2)
