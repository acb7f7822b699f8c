#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A node proxy in a container that is too small for what is asked of it: it refuses and ends connections, the
kernel never ends it. Nobody tells it the limit but its cgroup."""
import os
import socket
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../takeover"))
from bed import Bed, Job, Proxy, ip, multiprocessing, read_file, write_file  # noqa: E402

MIB = 1 << 20
# A proxy built with a sanitizer needs this much for itself alone; what is to be shed comes on top.
LIMIT = 320 * MIB
FORWARDED = "ASAN_OPTIONS"


def deaf_server(host, port, ready):
    """Accepts and never reads; its own buffers are small, so that the proxy's must hold what comes."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind((host, port))
    listener.listen(4096)
    ready.set()
    kept = []
    while True:
        kept.append(listener.accept())


def write_all_that_is_taken(address, most, seconds):
    """Up to `most` connections at a time, each written to for so long: how many ended or were refused."""
    data, ended, alive, begin = b"x" * 65536, 0, [], time.monotonic()
    while time.monotonic() - begin < seconds:
        if len(alive) < most:
            sock = socket.socket()
            sock.settimeout(5)
            try:
                sock.connect(address)
                sock.setblocking(False)
                alive.append(sock)
            except OSError:
                ended += 1
                sock.close()
        for sock in list(alive):
            try:
                sock.send(data)
            except BlockingIOError:
                pass
            except OSError:
                ended += 1
                alive.remove(sock)
                sock.close()
        time.sleep(0.001)
    for sock in alive:
        sock.close()
    return ended


def talk_steadily(address, stop):
    """One connection, a byte there and back every 50 ms until `stop`: (round trips, how it ended)."""
    trips = 0
    try:
        with socket.create_connection(address, 10) as sock:
            sock.settimeout(30)
            while not stop.is_set():
                sock.sendall(b"y")
                if sock.recv(1) != b"y":
                    return trips, "end"
                trips += 1
                time.sleep(0.05)
    except OSError as error:
        return trips, repr(error)
    return trips, "ok"


class Group:
    """A cgroup with a limit of memory, of whichever version this machine has."""

    def __init__(self, name, limit):
        v1 = os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes")
        self.path = f"/sys/fs/cgroup/memory/{name}" if v1 else f"/sys/fs/cgroup/{name}"
        self.events = "memory.oom_control" if v1 else "memory.events"
        os.mkdir(self.path)
        write_file(f"{self.path}/{'memory.limit_in_bytes' if v1 else 'memory.max'}", str(limit))

    def kills(self):
        rows = dict(line.split() for line in read_file(f"{self.path}/{self.events}").splitlines())
        return int(rows["oom_kill"])

    def close(self):
        os.rmdir(self.path)


class MemoryLimit(unittest.TestCase):
    def setUp(self):
        self.group = Group(f"qanat-limit-{os.getpid()}", LIMIT)
        self.addCleanup(self.group.close)
        self.bed = Bed(hbone=True)
        self.addCleanup(self.bed.close)

    def test_it_is_never_killed(self):
        # A sanitizer keeps what was freed, which is none of the proxy's doing.
        sanitizer = os.environ.get(FORWARDED, "") + ":quarantine_size_mb=4"
        proxy = Proxy(self.bed, "limited", more={"CGROUP": self.group.path, FORWARDED: sanitizer})
        proxy.wait_served()
        self.assertIn(str(proxy.pid), read_file(f"{self.group.path}/cgroup.procs").split())
        budget = proxy.metric("qanat_memory_budget_bytes", "")
        self.assertGreater(budget, 0)
        self.assertLess(budget, LIMIT)
        ready, stop = multiprocessing.Event(), multiprocessing.Event()
        self.bed.jobs.append(Job(self.bed.netns("back"), deaf_server, ("0.0.0.0", 7002, ready)))
        self.assertTrue(ready.wait(60))
        steady = Job(self.bed.netns("front"), talk_steadily, ((ip("back"), 7000), stop))
        ended = self.bed.inside("front", write_all_that_is_taken, (ip("back"), 7002), 3000, 25, seconds=120)
        self.assertEqual(self.group.kills(), 0)
        self.assertIsNone(proxy.process.poll())
        shed = proxy.metric("qanat_memory_shed_connections_total", "")
        refused = proxy.metric("qanat_connections_refused_total", "memory_exhausted")
        stop.set()
        trips, how = steady.result()
        print(f"limit {LIMIT >> 20} MiB, budget {budget / MIB:.0f} MiB: {ended} of the greedy were told, {shed:.0f} ended and "
              f"{refused:.0f} refused by the proxy; {trips} round trips beside them")
        self.assertGreater(shed + refused, 0, "it was never short of memory, the test says nothing")
        self.assertGreater(ended, 0)
        self.assertEqual(how, "ok", "who reads what comes goes on")
        self.assertGreater(trips, 0)
        proxy.stop()


if __name__ == "__main__":
    unittest.main()
