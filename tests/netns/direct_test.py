#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Connections between two pods of one node go straight, by the kernel, as long as the agent lets them: no proxy sees
them, both ends see the real addresses, a policy that is written as YAML closes them, an agent that stands still loses
its hold within five seconds, and what somebody else drops at the veth stays dropped.

$QANAT_DIRECT_STOPPED: how many seconds the agent stands still."""
import concurrent.futures
import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import time
import unittest

from bed import MeshCase, outcome
from fixture import APPS, NAMESPACES, authorization, once, pod

STOPPED = float(os.environ.get("QANAT_DIRECT_STOPPED", "8"))
LEASE = 5
PORT = 9000
DENY = authorization("no-echo", """
  action: DENY
  selector: {matchLabels: {app: near}}
  rules:
  - to: [{operation: {ports: ["9000"]}}]
""")
OTHER = once(pod("mesh", "other", "other", "node1"))


def ends(host, port):
    """(own port, port of the peer as the kernel says) of a connection that carried something."""
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        return sock.getsockname()[1], sock.getpeername()[:2]


def hold(host, port, flag):
    """One connection until the flag is there: "ok", or what ended it before."""
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.settimeout(10)
        try:
            while not os.path.exists(flag):
                sock.sendall(b"x")
                if sock.recv(1) != b"x":
                    return "closed"
                time.sleep(0.05)
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))
        return "ok"


def peers_of(port):
    """Ports of those who are connected to that one, as this namespace's kernel says."""
    found = set()
    for table in ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"):
        with open(table) as f:
            for line in f.readlines()[1:]:
                local, remote, state = line.split()[1:4]
                if int(local.rsplit(":", 1)[1], 16) == port and state == "01":
                    found.add(int(remote.rsplit(":", 1)[1], 16))
    return found


def keep_trying(host, port, seconds):
    """(second, outcome) of connection after connection."""
    begin, seen = time.monotonic(), []
    while (now := time.monotonic() - begin) < seconds:
        seen.append((now, outcome(host, port, timeout=5)))
        time.sleep(0.05)
    return seen


class Direct(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS + "\n---\n" + OTHER}
    environment = {"QANAT_SAME_NODE": "direct"}

    def setUp(self):
        self.addCleanup(self.settle)
        self.pool = concurrent.futures.ThreadPoolExecutor()
        self.addCleanup(self.pool.shutdown)

    def settle(self):
        with contextlib.suppress(FileNotFoundError):
            self.mesh.remove("policy.yaml")

    def agent(self, path):
        status, _, body = self.mesh.admin("node1", path, 15030)
        self.assertEqual(status, 200, body)
        return json.loads(body)

    def direct_count(self):
        return sum(p["counters"]["direct"] for p in self.agent("/pods") if "counters" in p)

    def went_direct(self, version=4):
        before = self.direct_count()
        return self.call(PORT, version) == "ok" and self.direct_count() == before + 1

    def call(self, port=PORT, version=4, who="mesh/client"):
        return self.mesh.call(who, outcome, self.mesh.ip("mesh/near", version), port)

    def wait_direct(self, version=4):
        self.mesh.wait(f"IPv{version} goes direct", lambda: self.went_direct(version))

    def proxys_lines(self):
        with open(f"{self.mesh.run}/logs/ztunnel-node1.log", errors="replace") as f:
            return f.read()

    @contextlib.contextmanager
    def held(self, version=4):
        with self.mesh.flag() as flag:
            near = self.mesh.ip("mesh/near", version)
            future = self.pool.submit(self.mesh.call, "mesh/client", hold, near, PORT, flag, timeout=120)
            self.mesh.wait("it is held", lambda: self.mesh.call("mesh/near", peers_of, PORT))
            yield future

    def test_1_no_proxy_sees_it_and_both_ends_see_who_they_are(self):
        for version in (4, 6):
            self.wait_direct(version)
            before, direct, near = len(self.proxys_lines()), self.direct_count(), self.mesh.ip("mesh/near", version)
            own = []
            for _ in range(20):
                port, peer = self.mesh.call("mesh/client", ends, near, PORT)
                self.assertEqual(peer, (near, PORT))
                own.append(port)
            self.assertEqual(self.direct_count(), direct + 20, self.agent("/direct"))
            time.sleep(0.5)
            said = self.proxys_lines()[before:]
            for port in own:
                self.assertNotIn(f":{port}", said)
            with self.held(version):
                # The server's peer is the client's own socket, not one that a proxy made.
                server = self.mesh.call("mesh/near", peers_of, PORT)
                client = {p for p in server if self.mesh.call("mesh/client", lambda p=p: bool(peers_of(p)))}
                self.assertEqual(server, client)

    def test_2_a_policy_written_as_yaml_closes_it(self):
        self.wait_direct()
        with self.held() as held:
            self.mesh.write("policy.yaml", DENY)
            self.assertIn(held.result(60), ("ECONNABORTED", "ECONNRESET"))
            for _ in range(5):
                self.assertNotEqual(self.call(), "ok")
            self.assertEqual(self.call(9001), "corrupt")  # its greeting instead of an echo: another port is still allowed
        self.mesh.remove("policy.yaml")
        self.wait_direct()

    def test_3_an_agent_that_stands_still_lets_nothing_new_through(self):
        self.wait_direct()
        agent = self.mesh.program_pid("agent-node1")
        with self.held() as held:
            os.kill(agent, signal.SIGSTOP)
            self.addCleanup(os.kill, agent, signal.SIGCONT)
            stopped = time.monotonic()
            self.mesh.write("policy.yaml", DENY)
            seen = self.mesh.call("mesh/client", keep_trying, self.mesh.ip("mesh/near"), PORT, STOPPED, timeout=STOPPED + 60)
            began = LEASE - (time.monotonic() - stopped - STOPPED)  # both clocks, with what the calls themselves took
            late = [how for at, how in seen if at > max(began, 0) + 0.5]
            self.assertGreater(len(late), 5, seen)
            self.assertNotIn("ok", late, seen)
            self.assertFalse(held.done(), "what lives waits for the agent")
            os.kill(agent, signal.SIGCONT)
            self.assertIn(held.result(60), ("ECONNABORTED", "ECONNRESET"))
        self.mesh.remove("policy.yaml")
        self.wait_direct()

    def one_passes(self):
        text = self.mesh.admin("node1", "/metrics", 15020)[2].decode()
        return sum(float(n) for n in re.findall(r'^qanat_one_pass_connections_total\{[^}]*outcome="taken"[^}]*\} (\S+)', text, re.M))

    def test_4_a_namespace_may_ask_for_the_proxy(self):
        self.wait_direct()
        self.addCleanup(self.mesh.write, "base.yaml", self.files["base.yaml"])
        for wish in ("proxy", "encrypt"):
            asking = NAMESPACES.replace("dataplane-mode: ambient", "dataplane-mode: ambient, qanat.io/same-node: " + wish)
            self.assertNotEqual(asking, NAMESPACES)
            self.mesh.write("base.yaml", asking + "---\n" + APPS + "\n---\n" + OTHER)
            self.mesh.until("the agent knows", lambda: {p["wish"] for p in self.agent("/direct")["pods"]}, {wish})
            if wish == "encrypt":
                self.mesh.until("the proxy knows", lambda: self.why("mesh/near:9000")["steps"][0].get("not_one_pass", ""),
                                lambda why: "asks for encryption" in why)
            before, passes = self.direct_count(), self.one_passes()
            for _ in range(3):
                self.assertEqual(self.call(), "ok")
            self.assertEqual(self.direct_count(), before)
            self.assertEqual(self.one_passes() - passes, 0 if wish == "encrypt" else 3, wish)
            self.mesh.write("base.yaml", self.files["base.yaml"])
            self.wait_direct()

    def why(self, target):
        done = self.mesh.ctl("why", "mesh/client", target, "--name", self.mesh.name, "-o", "json", check=False)
        return json.loads(done.stdout)

    def test_5_why_says_which_way(self):
        self.wait_direct()
        answer = self.why("mesh/near:9000")
        self.assertEqual((answer["verdict"], answer["path"]), ("allow", "direct"), answer)
        text = self.mesh.ctl("why", "mesh/client", "mesh/near:9000", "--name", self.mesh.name).stdout
        self.assertIn("path direct", text)
        self.assertEqual(self.why("mesh/far:9000")["path"], "")
        self.mesh.write("policy.yaml", DENY)
        self.mesh.until("why knows the policy", lambda: self.why("mesh/near:9000")["verdict"], "deny")
        verdict = self.agent(f"/direct/verdict?from=mesh/client&to={self.mesh.ip('mesh/near')}:9000")
        self.assertEqual((verdict["direct"], verdict["allowed"]), (False, False))
        table = self.mesh.ctl("capture", "--name", self.mesh.name).stdout
        self.assertRegex(table, r"mesh +client +enabled +.* direct +")
        metrics = self.mesh.admin("node1", "/metrics", 15030)[2].decode()
        self.assertIn("\nqanat_direct_on 1\n", metrics)
        self.assertIn('\nqanat_direct_verdicts{verdict="direct"} ', metrics)

    def test_6_what_is_dropped_at_the_veth_stays_dropped(self):
        self.wait_direct()
        netns = os.path.basename(self.mesh.node_netns("node1"))
        near = self.mesh.ip("mesh/near")
        index = subprocess.run(["ip", "netns", "exec", os.path.basename(self.mesh.pod_netns("mesh/near")), "ip", "-j", "link", "show", "eth0"],
                               capture_output=True, text=True, check=True).stdout
        other = json.loads(index)[0]["link_index"]
        links = json.loads(subprocess.run(["ip", "-n", netns, "-j", "link"], capture_output=True, text=True, check=True).stdout)
        device = next(link["ifname"] for link in links if link["ifindex"] == other)

        def nft(*words):
            subprocess.run(["ip", "netns", "exec", netns, "nft", *words], check=True)
        nft("add table netdev q")
        self.addCleanup(subprocess.run, ["ip", "netns", "exec", netns, "nft", "delete table netdev q"], stderr=subprocess.DEVNULL)
        # What the pod answers from its echo port, at the host's end.
        nft(f"add chain netdev q in {{ type filter hook ingress device {device} priority 0; }}")
        nft("add rule netdev q in tcp sport 9000 drop")
        self.assertEqual(self.mesh.call("mesh/client", outcome, near, PORT, b"x", 3), "timeout")
        self.assertEqual(self.mesh.call("mesh/client", outcome, near, 9001, b"x", 10), "corrupt")  # its greeting: it is reached
        nft("delete table netdev q")
        self.wait_direct()


if __name__ == "__main__":
    unittest.main(verbosity=2)
