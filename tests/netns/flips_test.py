#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A pod joins and leaves the mesh again and again while connections are made to it and from it, at a
steady rate, in both families, on its node and from another one. Every one of them succeeds, and
what was open before the first flip is open after the last.

$QANAT_FLIPS_RATE new connections a second in all, $QANAT_FLIPS_SECONDS long."""
import collections
import concurrent.futures
import contextlib
import errno
import json
import os
import selectors
import socket
import time
import unittest

from bed import MeshCase
from fixture import APPS, NAMESPACES, once, pod

RATE = float(os.environ.get("QANAT_FLIPS_RATE", "80"))
SECONDS = float(os.environ.get("QANAT_FLIPS_SECONDS", "5"))
PORT = 9100
PATIENCE = 20  # of one connection
REST = 0.3


def namespace(in_mesh):
    labels = "\n  labels: {istio.io/dataplane-mode: ambient}" if in_mesh else ""
    return f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: flip{labels}\n"


def serve(port, flag):
    """Echoes until the flag is there. One process without threads: thousands a second."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while not os.path.exists(flag):
        for key, _ in selector.select(0.2):
            if key.fileobj is listener:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    continue
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ)
                continue
            try:
                data = key.fileobj.recv(4096)
                key.fileobj.sendall(data)
            except OSError:
                data = b""
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()


def steady(name, host, rate, seconds):
    """Begins a connection every 1/rate s whatever became of those before. Each is asked, rests for a while, so that
    some are open at every flip, and is asked again; one is held from the start to the end. Returns how many there
    were, and what went wrong when."""
    begin, total, failed, live = time.monotonic(), 0, [], {}
    resting, rested = collections.deque(), set()
    selector = selectors.DefaultSelector()
    held = socket.create_connection((host, PORT), timeout=PATIENCE)

    def end(sock, problem=None):
        selector.unregister(sock)
        started = live.pop(sock)
        rested.discard(sock)
        sock.close()
        if problem:
            failed.append(f"{name}: {problem} at {started - begin:.3f} s, after {time.monotonic() - started:.3f} s")

    while True:
        now = time.monotonic()
        if now - begin >= seconds and not live:
            break
        while now - begin < seconds and total < (now - begin) * rate:
            total += 1
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            sock.setblocking(False)
            live[sock] = now
            selector.register(sock, selectors.EVENT_WRITE)
            problem = sock.connect_ex((host, PORT))
            if problem not in (0, errno.EINPROGRESS):
                end(sock, f"connect: {os.strerror(problem)}")
            if total % max(1, int(rate)) == 0:
                held.sendall(b"held")
                if held.recv(4096) != b"held":
                    failed.append(f"{name}: the held connection ended at {now - begin:.3f} s")
                    return total, failed
        while resting and resting[0][0] <= now:
            sock = resting.popleft()[1]
            if sock in live:
                rested.add(sock)
                with contextlib.suppress(OSError):  # what it answers will say
                    sock.send(b"ping")
        for key, events in selector.select(min(1 / rate, 0.05)):
            sock = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    if problem := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        end(sock, f"connect: {os.strerror(problem)}")
                        continue
                    sock.send(b"ping")
                    selector.modify(sock, selectors.EVENT_READ)
                elif (got := sock.recv(4096)) != b"ping":
                    end(sock, f"answer {got!r} {'after' if sock in rested else 'before'} its rest")
                elif sock in rested:
                    end(sock)
                else:
                    resting.append((time.monotonic() + REST, sock))
            except OSError as error:
                end(sock, str(error))
        for sock, started in list(live.items()):
            if time.monotonic() - started > PATIENCE:
                end(sock, "no answer")
    held.close()
    return total, failed


def hold(host, ready, flag):
    """One connection, asked all the time until the flag is there."""
    with socket.create_connection((host, PORT), timeout=PATIENCE) as sock:
        asked = 0
        while not os.path.exists(flag):
            sock.sendall(b"held")
            if sock.recv(4096) != b"held":
                return f"ended after {asked}"
            asked += 1
            if asked == 3:
                with open(ready, "w"):
                    pass
            time.sleep(0.02)
        return "held"


class Flips(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + once(APPS + pod("flip", "app", "app", "node1")), "flip.yaml": namespace(False)}

    def state(self):
        pods = json.loads(self.mesh.admin("node1", "/pods", 15030)[2])
        return next(((p["redirection"], p.get("draining", False)) for p in pods if p["namespace"] == "flip"), None)

    def flip(self, in_mesh, *wanted):
        self.mesh.write("flip.yaml", namespace(in_mesh))
        self.mesh.until("the flip", self.state, lambda seen: seen in wanted)

    WAYS = [(source, target, version) for version in (4, 6) for source, target in (
        ("flip/app", "mesh/far"), ("flip/app", "mesh/near"), ("mesh/client2", "flip/app"), ("plain/bystander", "flip/app"),
        ("mesh/near", "flip/app"))]

    def with_servers(self, function):
        with self.mesh.flag() as over, concurrent.futures.ThreadPoolExecutor(48) as pool:
            for name in ("flip/app", "mesh/far", "mesh/near"):
                pool.submit(self.mesh.call, name, serve, PORT, over, timeout=SECONDS + 120)
            try:
                for source, target, version in self.WAYS:
                    self.mesh.wait(f"{source} reaches {target}",
                                   lambda: self.mesh.call(source, steady, "first", self.mesh.ip(target, version), 1, 0.1)[1] == [])
                function(pool, self.WAYS)
            finally:
                with open(over, "w"):
                    pass

    def test_every_connection_succeeds(self):
        self.with_servers(self.flip_under_load)

    def test_what_is_captured_goes_on_after_leaving(self):
        self.flip(True, ("enabled", False))
        self.with_servers(self.leave_with_connections)

    def leave_with_connections(self, pool, ways):
        with self.mesh.flag() as end:
            ready = [f"{end}-{i}" for i in range(len(ways))]
            held = [pool.submit(self.mesh.call, source, hold, self.mesh.ip(target, version), ready[i], end)
                    for i, (source, target, version) in enumerate(ways)]
            self.mesh.wait("all are open", lambda: all(os.path.exists(file) for file in ready))
            self.flip(False, ("disabled", True))
            time.sleep(4)  # a pod without connections has left wholly by then
            self.assertEqual(self.state(), ("disabled", True))
            shown = json.loads(self.mesh.ctl("capture", "--name", self.mesh.name, "flip/app", "-o", "json").stdout)
            # A plaintext connection to the pod is two: to the proxy, and from it.
            self.assertIn(shown[0]["capturedConnections"], range(len(ways), 2 * len(ways) + 1), shown)
            self.assertEqual([h for h in held if h.done()], [])
        self.assertEqual([h.result() for h in held], ["held"] * len(ways))
        self.mesh.until("it has left wholly", self.state, ("disabled", False))

    def flip_under_load(self, pool, ways):
        loads = [pool.submit(self.mesh.call, source, steady, f"{source} to {target} over IPv{version}",
                             self.mesh.ip(target, version), RATE / len(ways), SECONDS, timeout=SECONDS + 60)
                 for source, target, version in ways]
        time.sleep(1)  # what is held the whole time is plain, and does not keep the pod from leaving
        begin, flips = time.monotonic(), 0
        while flips < 2 or time.monotonic() - begin < SECONDS - 2:
            in_mesh = flips % 2 == 0
            # Every other time it comes back before it has left wholly.
            wanted = [("enabled", False)] if in_mesh else [("disabled", False)] + [("disabled", True)] * (flips % 4 == 1)
            self.flip(in_mesh, *wanted)
            flips += 1
            time.sleep(0.3)
        total, failed = 0, []
        for load in loads:
            some, bad = load.result()
            total += some
            failed += bad
        print(f"    {total} connections over {len(ways)} ways in {SECONDS:.0f} s, {flips} flips, {len(failed)} failed", flush=True)
        self.assertEqual(failed, [], f"of {total} connections, {flips} flips")
        self.assertGreater(total, 0.9 * RATE * SECONDS, "the load was not steady")


if __name__ == "__main__":
    unittest.main(verbosity=2)
