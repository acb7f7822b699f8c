#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Limits of a node proxy: what runs out is said, what is open goes on, and all recovers."""
import concurrent.futures
import os
import resource
import socket
import struct
import time
import unittest

from bed import MeshCase, connect, outcome, over
from fixture import APPS, NAMESPACES


def hold(host, port, count, seconds, patience=15):
    """Opens connections until one fails or `count` is reached; a byte through each; says how many lived
    to the end, and what the first that did not get through was told."""
    held, told = [], None
    for _ in range(count):
        sock = None
        try:
            sock = connect(host, port, patience)
            sock.sendall(b"x")
            if sock.recv(1) != b"x":
                told = "closed"
        except OSError as error:
            told = type(error).__name__
        if told:
            if sock:
                sock.close()
            break
        held.append(sock)
    time.sleep(seconds)
    alive = 0
    for sock in held:
        try:
            sock.sendall(b"y")
            alive += sock.recv(1) == b"y"
        except OSError:
            pass
        sock.close()
    return len(held), alive, told


def hold_until(host, port, flag):
    """One connection, through which a byte has gone and come back, until the file is there."""
    begin = time.monotonic()
    with connect(host, port, 30) as sock:
        sock.sendall(b"x")
        sock.recv(1)
        while not over(begin, 0, flag, 50):
            time.sleep(0.05)


def half_closed(host, port):
    """Sends FIN after one byte, to a server that answers but keeps its side open; when is it ended, and how."""
    start = time.monotonic()
    with connect(host, port, 30) as sock:
        sock.sendall(b"x")
        sock.shutdown(socket.SHUT_WR)
        try:
            while sock.recv(100):
                pass
            how = "eof"
        except ConnectionResetError:
            how = "reset"
    return how, time.monotonic() - start


def serve_and_keep(address, flag):
    """A server that closes nothing before the file is there. How many it accepted."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, 9977))
        listener.listen(10)
        listener.settimeout(0.1)
        held, begin = [], time.monotonic()
        while not over(begin, 0, flag, 50):
            try:
                held.append(listener.accept())
            except TimeoutError:
                pass
        return len(held)


class Limits(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS}
    environment = {"QANAT_MAX_CONNECTIONS_PER_POD": "60", "QANAT_HALF_CLOSED_TIMEOUT": "2s", "QANAT_IDLE_TUNNEL_TIMEOUT": "2s"}

    def metric(self, node, name, *wanted):
        text = self.mesh.admin(node, "/metrics", 15020)[2].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                   if line.startswith(name) and all(w in line for w in wanted))

    def works(self):
        self.mesh.until("client reaches far", lambda: self.mesh.call("mesh/client", outcome, self.mesh.ip("mesh/far"), 9000), "ok")

    def test_a_pod_has_no_more_connections_than_it_may(self):
        self.works()
        held, alive, told = self.mesh.call("mesh/client", hold, self.mesh.ip("mesh/far"), 9000, 100, 1)
        self.assertEqual(told, "ConnectionResetError")
        self.assertLessEqual(held, 60)
        self.assertGreater(held, 50)
        self.assertEqual(alive, held, "those that were there go on")
        self.mesh.until("it is counted", lambda: self.metric("node1", "qanat_connections_refused_total", "resource_exhausted", "source"),
                        lambda count: count >= 1)
        self.works()

    def test_file_descriptors_run_out(self):
        self.works()
        pid = self.mesh.program_pid("ztunnel-node1")
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        paused = self.metric("node1", "qanat_accept_paused_total")
        open_now = self.settled(lambda: len(os.listdir(f"/proc/{pid}/fd")))
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 20, before[1]))
            held, alive, told = self.mesh.call("mesh/client", hold, self.mesh.ip("mesh/far"), 9000, 50, 1, 10)
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        self.assertIsNotNone(told, "nothing ran out, the test says nothing")
        self.assertGreater(held, 5)
        self.assertEqual(alive, held, "those that were there go on")
        self.works()
        self.mesh.until("it is counted", lambda: self.metric("node1", "qanat_accept_paused_total"), lambda count: count > paused)
        self.mesh.until("it is said", self.log, lambda text: "raise the limit of open files" in text)

    def log(self):
        with open(f"{self.mesh.run}/logs/ztunnel-node1.log", errors="replace") as log:
            return log.read()

    @staticmethod
    def settled(look, seconds=2):
        """What look() gives when it has given the same for so long: what is over may be closed a while later."""
        begin = since = time.monotonic()
        seen = look()
        while time.monotonic() - since < seconds and time.monotonic() - begin < 60:
            time.sleep(0.05)
            if (now := look()) != seen:
                seen, since = now, time.monotonic()
        return seen

    def test_half_closed_and_silent_ends(self):
        # Without the setting it would be an hour, and the server would be asked to end before that.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            with self.mesh.flag() as flag:
                server = pool.submit(self.mesh.call, "mesh/far", serve_and_keep, self.mesh.ip("mesh/far"), flag)
                port = f":{9977:04X}"
                self.mesh.wait("it listens", lambda: any(
                    line.split()[1].endswith(port) and line.split()[3] == "0A" for line in self.mesh.call("mesh/far", connections)))
                how, took = self.mesh.call("mesh/client", half_closed, self.mesh.ip("mesh/far"), 9977)
            self.assertEqual(server.result(), 1)
        self.assertEqual(how, "reset")
        self.assertGreater(took, 1.9)

    def test_tunnels_without_a_stream_are_closed(self):
        self.works()
        port = struct.pack(">H", 15008).hex().upper()
        def tunnels():
            lines = self.mesh.call("mesh/far", connections)
            return [line for line in lines if line.split()[1].endswith(":" + port) and line.split()[3] == "01"]
        with concurrent.futures.ThreadPoolExecutor() as pool, self.mesh.flag() as flag:
            # a stream keeps one there for as long as we look
            stream = pool.submit(self.mesh.call, "mesh/client", hold_until, self.mesh.ip("mesh/far"), 9000, flag)
            self.mesh.wait("a tunnel is there, or the test says nothing", tunnels)
        stream.result()
        self.mesh.wait("the tunnels to far are closed", lambda: not tunnels())
        self.works()

    def test_setup_times_are_told(self):
        self.works()
        for phase in ("queue", "connect"):
            self.mesh.wait(f"{phase} is told", lambda: self.metric(
                "node1", "qanat_connection_setup_seconds_count", f'phase="{phase}"', 'reporter="source"') > 0)
        self.mesh.wait("policy is told", lambda: self.metric(
            "node2", "qanat_connection_setup_seconds_count", 'phase="policy"', 'reporter="destination"') > 0)


def connections():
    with open("/proc/net/tcp") as v4, open("/proc/net/tcp6") as v6:
        return v4.read().splitlines()[1:] + v6.read().splitlines()[1:]


if __name__ == "__main__":
    unittest.main(verbosity=2)
