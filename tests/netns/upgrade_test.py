#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A node proxy is replaced by a new process while the agent runs and connections are made and live: nobody
is refused, no live connection ends, no byte of one is others, and nothing gets past the policy. Then the
new one is killed: the agent has its listeners."""
import concurrent.futures
import os
import signal
import subprocess
import time
import unittest

from bed import MeshCase, cgroup2, connect, outcome, over, setns
from fixture import APPS, NAMESPACES, authorization
from restart_test import keep_trying, patient

ALLOW_CLIENT = authorization("only-client", """
  action: ALLOW
  selector: {matchLabels: {app: far}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
""")


def stay(host, port, count, seconds, flag):
    """`count` connections that echo all the time, for so long and until the file `flag` is there: how many answers,
    and what went wrong. The file FLAG-open comes to be when all are open."""
    socks = [connect(host, port, 60) for _ in range(count)]
    open(flag + "-open", "w").close()
    begin, number, wrong = time.monotonic(), 0, []
    while not over(begin, seconds, flag) and len(wrong) < count:
        for i, sock in enumerate(socks):
            if sock is None:
                continue
            text = f"{i}/{number}".encode() * 200
            try:
                sock.sendall(text)
                got = b""
                while len(got) < len(text):
                    chunk = sock.recv(65536)
                    if not chunk:
                        raise EOFError
                    got += chunk
                if got != text:
                    raise ValueError("other bytes")
                number += 1
            except (OSError, EOFError, ValueError) as error:
                wrong.append(f"connection {i} after {number} answers: {type(error).__name__} {error}")
                socks[i] = None
        time.sleep(0.02)
    for sock in filter(None, socks):
        sock.close()
    return number, wrong


class Upgrade(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS, "policy.yaml": ALLOW_CLIENT}

    def setUp(self):
        far = self.mesh.ip("mesh/far")
        self.mesh.until("client reaches far", lambda: self.mesh.call("mesh/client", outcome, far, 9000), "ok")
        self.mesh.until("near does not", lambda: self.mesh.call("mesh/near", outcome, far, 9000), lambda seen: seen != "ok")
        self.started = []
        self.addCleanup(self.end_started)

    def end_started(self):
        for process, log in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
            log.close()

    def log(self, node, name):
        with open(os.path.join(self.mesh.run, "logs", f"{name}-{node}.log"), errors="replace") as file:
            return file.read()

    def given(self, node, name):
        """How often the log says that all was given away."""
        return self.log(node, name).count("given to the new process")

    def start_beside(self, node):
        """A second process of the node's proxy, as an upgrade starts it: in the same place, with the same
        settings but the ports that only one can have."""
        old = self.mesh.program_pid(f"ztunnel-{node}")
        with open(f"/proc/{old}/environ", "rb") as file:
            environment = dict(entry.decode().split("=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
        with open(f"/proc/{old}/cgroup") as file:
            cgroup = next(line.rstrip().split("::", 1)[1] for line in file if line.startswith("0::"))
        environment.update({name: "127.0.0.1:0" for name in ("QANAT_ADMIN_ADDR", "QANAT_METRICS_ADDR", "QANAT_READINESS_ADDR")})

        def enter():
            with open(f"{cgroup2()}{cgroup}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))
            setns(self.mesh.node_netns(node))
        log = open(os.path.join(self.mesh.run, "logs", f"beside-{node}.log"), "ab")
        process = subprocess.Popen([os.readlink(f"/proc/{old}/exe")], env=environment, stdout=log, stderr=log, preexec_fn=enter)
        self.started.append((process, log))
        return process

    def test_under_load(self):
        for node in ("node1", "node2"):
            with self.subTest(node):
                self.upgrade(node)

    def upgrade(self, node):
        far, proxy = self.mesh.ip("mesh/far"), f"ztunnel-{node}"
        with concurrent.futures.ThreadPoolExecutor() as pool, self.mesh.flag() as flag:
            load = pool.submit(self.mesh.call, "mesh/client", keep_trying, far, 9000, 14, flag, 51, timeout=240)
            bad = pool.submit(self.mesh.call, "mesh/near", keep_trying, far, 9000, 14, flag, timeout=240)
            live = pool.submit(self.mesh.call, "mesh/client", stay, far, 9000, 12, 14, flag, timeout=240)
            self.mesh.wait("connections are open", lambda: os.path.exists(flag + "-open"))
            time.sleep(1)
            known = self.given(node, "ztunnel")
            # To one that nobody supervises ...
            beside = self.start_beside(node)
            self.mesh.wait("all is given to it", lambda: self.given(node, "ztunnel") > known)
            given = time.monotonic()
            time.sleep(1)
            # ... and, as the first one ends, to the one that is started in its place.
            old = self.mesh.kill(proxy, signal.SIGTERM)
            self.mesh.wait("the first one has ended", lambda: not self.mesh.is_alive(old, "qanat-"))
            self.mesh.wait("all is given back", lambda: self.given(node, "beside") > 0)
            self.assertFalse(live.done() or load.done(), "the load was over too early: the test says nothing")
            beside.send_signal(signal.SIGTERM)
            self.assertEqual(beside.wait(60), 0)
            os.rename(os.path.join(self.mesh.run, "logs", f"beside-{node}.log"), os.path.join(self.mesh.run, "logs", f"was-beside-{node}.log"))
        counts, (answers, wrong) = load.result(), live.result()
        print(f"{node}: {counts} new connections and {answers} answers on live ones; the second upgrade was {time.monotonic() - given:.1f} s after the first")
        self.assertEqual(wrong, [])
        self.assertEqual(set(counts), {"ok"})
        self.assertGreater(counts["ok"], 50)
        self.assertNotIn("ok", bad.result(), "a refused identity got through")

    def test_what_was_taken_over_is_kept_too(self):
        """The new process is killed at once: the agent has the listeners from it, and they are the first ones."""
        far = self.mesh.ip("mesh/far")
        known = self.given("node1", "ztunnel")
        beside = self.start_beside("node1")
        self.mesh.wait("all is given to it", lambda: self.given("node1", "ztunnel") > known)
        old = self.mesh.kill("ztunnel-node1")
        self.mesh.wait("the first one has ended", lambda: not self.mesh.is_alive(old, "qanat-"))
        self.mesh.wait("all is given back", lambda: self.given("node1", "beside") > 0)
        self.assertEqual(self.mesh.call("mesh/client", outcome, far, 9000), "ok")
        beside.kill()
        beside.wait()
        old = self.mesh.kill("ztunnel-node1")
        self.mesh.wait("the other one has ended", lambda: not self.mesh.is_alive(old, "qanat-"))
        began = time.monotonic()
        seen = self.mesh.call("mesh/client", patient, far, 9000, 20, timeout=200)
        self.assertEqual({how for how, _, _ in seen}, {"ok"}, seen)
        longest = max(answered for _, _, answered in seen) - began
        print(f"killed after a take-over: the last of {len(seen)} was served after {longest:.2f} s")


if __name__ == "__main__":
    unittest.main(verbosity=2)
