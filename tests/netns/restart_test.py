#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A node proxy killed with -9: who connects meanwhile waits in a queue that the agent keeps, and is
served by the next one; nothing gets past the policy; nothing is kept for pods that are gone."""
import array
import concurrent.futures
import os
import re
import socket
import threading
import time
import unittest

from bed import BIN, MeshCase, connect, outcome, over
from fixture import APPS, NAMESPACES, authorization, pod

ALLOW_CLIENT = authorization("only-client", """
  action: ALLOW
  selector: {matchLabels: {app: far}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
""")
# What the issue asks for holds for the program that is shipped; sanitizers make it some times slower.
BACK_WITHIN = 1.0 if "release" in BIN else 5.0


def patient(host, port, count, mark=None):
    """`count` connections at once, an echo each: (outcome, when connect() was done, when it was answered). The
    file `mark` grows by a byte with each that connect() was done for."""
    seen = []

    def one():
        connected = None
        try:
            with connect(host, port, 60) as sock:
                connected = time.monotonic()
                if mark:
                    with open(mark, "ab", buffering=0) as file:
                        file.write(b"c")
                sock.sendall(b"patience")
                got = b""
                while len(got) < 8:
                    chunk = sock.recv(100)
                    if not chunk:
                        break
                    got += chunk
            seen.append(("ok" if got == b"patience" else "closed", connected, time.monotonic()))
        except OSError as error:
            seen.append((type(error).__name__, connected, time.monotonic()))
    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def keep_trying(host, port, seconds, flag=None, least=0):
    """New connections one after the other, for so long and until the file `flag` is there and `least` were
    answered: {outcome: count}."""
    counts, begin = {}, time.monotonic()
    while counts.get("ok", 0) < least and not over(begin, 60, None) or not over(begin, seconds, flag):
        how = outcome(host, port, b"ping", 30)
        counts[how] = counts.get(how, 0) + 1
        time.sleep(0.01)
    return counts


class Restart(MeshCase):
    files = {"base.yaml": NAMESPACES + "---\n" + APPS, "policy.yaml": ALLOW_CLIENT}

    def setUp(self):
        self.mesh.until("client reaches far", lambda: self.to_far("mesh/client"), "ok")
        self.mesh.until("near does not", lambda: self.to_far("mesh/near"), lambda seen: seen != "ok")
        for node in ("node1", "node2"):
            self.mesh.until(f"{node} keeps listeners", lambda node=node: self.held(node), lambda held: held > 0)
            self.mesh.wait(f"{node} keeps those of all its pods", lambda node=node: self.steady(node))

    def to_far(self, source):
        return self.mesh.call(source, outcome, self.mesh.ip("mesh/far"), 9000)

    def held(self, node):
        text = self.mesh.admin(node, "/metrics", 15030)[2].decode()
        return float(re.search(r"^qanat_held_listeners (\S+)$", text, re.M)[1])

    def steady(self, node):
        """Whether as many are kept a second later: they come one pod after the other."""
        before = self.held(node)
        time.sleep(1)
        return self.held(node) == before

    def descriptors(self, program):
        return len(os.listdir(f"/proc/{self.mesh.program_pid(program)}/fd"))

    def end(self, *programs):
        """Kills them and waits until they are gone: from here on nobody is there."""
        olds = {program: self.mesh.kill(program) for program in programs}
        for program, pid in olds.items():
            self.mesh.wait(f"{program} is gone", lambda pid=pid: not self.mesh.is_alive(pid, "qanat-"))
        return olds

    def waiting_are_served(self, proxy, *with_it):
        """Kills the proxy; connections made while nobody is there must all be answered, those of a refused
        identity never. How fast is a matter of the machine too: of three times the best counts."""
        best = self.once(proxy, with_it)
        for _ in range(2):
            if best >= BACK_WITHIN:
                best = min(best, self.once(proxy, with_it))
        self.assertLess(best, BACK_WITHIN)

    def once(self, proxy, with_it):
        """Returns how long after the proxy could be started again the last of those who waited was served."""
        with concurrent.futures.ThreadPoolExecutor() as pool, self.mesh.flag() as flag:
            far, mark = self.mesh.ip("mesh/far"), flag + "-connected"
            good = pool.submit(self.mesh.call, "mesh/client", keep_trying, far, 9000, 6, flag, 21, timeout=200)
            bad = pool.submit(self.mesh.call, "mesh/near", keep_trying, far, 9000, 6, flag, timeout=200)
            time.sleep(1)
            # Who waits must be there before the next one is.
            with self.mesh.supervisor_stopped():
                olds = self.end(proxy, *with_it)
                waiting = pool.submit(self.mesh.call, "mesh/client", patient, far, 9000, 20, mark, timeout=200)
                refused = pool.submit(self.mesh.call, "mesh/near", patient, far, 9000, 5, timeout=200)
                self.mesh.wait("all of them wait", lambda: os.path.exists(mark) and os.path.getsize(mark) == 20)
                began = time.monotonic()
            self.mesh.wait("it is started again", lambda: self.mesh.program_pid(proxy) not in (olds[proxy], 0, None))
            restarted = time.monotonic()
            seen = waiting.result()
            self.assertEqual({how for how, _, _ in seen}, {"ok"}, seen)
            early = [connected for _, connected, _ in seen if connected < restarted]
            self.assertGreater(len(early), 10, "they came too late to wait for anything: the test says nothing")
            longest = max(answered for _, _, answered in seen) - began
            print(f"{proxy} killed{' with ' + ' '.join(with_it) if with_it else ''}: {len(early)} of {len(seen)} "
                  f"connections waited, the last was served {longest:.2f} s after it could be started again "
                  f"({restarted - began:.2f} s until it was)")
            self.assertNotIn("ok", {how for how, _, _ in refused.result()})
            self.mesh.until("client reaches far", lambda: self.to_far("mesh/client"), "ok")
        self.assertNotIn("ok", bad.result(), "a refused identity got through")
        counts = good.result()
        # What lived in the proxy died with it: one connection at a time here.
        self.assertLessEqual(sum(counts.values()) - counts.get("ok", 0), 2, counts)
        self.assertGreater(counts.get("ok", 0), 20, counts)
        return longest

    def test_the_source_is_killed(self):
        self.waiting_are_served("ztunnel-node1")

    def test_the_destination_is_killed(self):
        self.waiting_are_served("ztunnel-node2")

    def test_the_agent_was_restarted_before(self):
        before = self.held("node1")
        self.end("agent-node1")
        self.mesh.until("the new agent keeps them too", lambda: self.held("node1"), before)
        self.waiting_are_served("ztunnel-node1")

    def test_the_agent_is_killed_with_it(self):
        """Then nobody but the agent's own supervisor has them."""
        self.waiting_are_served("ztunnel-node1", "agent-node1")

    def test_the_same_sockets(self):
        """Not new ones beside the kept ones, of which half of the connections would get no answer."""
        def listeners():
            # State 0A, port 15001 (3A99), its inode
            text = self.mesh.call("mesh/client", read_file, "/proc/thread-self/net/tcp6")
            return sorted(line.split()[9] for line in text.splitlines()[1:] if line.split()[3] == "0A" and ":3A99 " in line)
        before = listeners()
        self.assertTrue(before)
        self.end("ztunnel-node1")
        self.mesh.until("client reaches far", lambda: self.to_far("mesh/client"), "ok")
        self.assertEqual(listeners(), before)

    def test_nothing_is_kept_for_a_pod_that_is_gone(self):
        before, open_before = self.held("node1"), self.descriptors("agent-node1")
        extra = pod("mesh", "extra", "extra", "node1")
        for _ in range(3):
            self.mesh.write("extra.yaml", extra)
            self.mesh.until("it is kept", lambda: self.held("node1"), lambda held: held > before)
            netns = self.mesh.pod_netns("mesh/extra")
            self.mesh.remove("extra.yaml")
            self.mesh.until("it is given back", lambda: self.held("node1"), before)
            self.mesh.wait("its namespace is gone", lambda: not os.path.exists(netns))
        self.mesh.until("no descriptor is left", lambda: self.descriptors("agent-node1"), lambda now: now <= open_before + 2)

    def test_strangers_get_nothing(self):
        """A process of another user cannot even reach the socket; garbage harms nobody."""
        path = f"{self.mesh.run}/nodes/node1/zds/hold.sock"
        before = self.held("node1")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            for rude in (b"", b"\xff" * 4096, b"FDSTORE=1\nFDNAME=qanat-nobody-outbound", b"X_QANAT_FETCH=1"):
                sock.sendmsg([rude], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))], 0, path)
        child = os.fork()
        if child == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                    sock.connect(path)
                os._exit(1)
            except PermissionError:
                os._exit(0)
            finally:
                os._exit(2)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual(self.held("node1"), before)
        self.assertEqual(self.to_far("mesh/client"), "ok")


def read_file(path):
    with open(path) as file:
        return file.read()


if __name__ == "__main__":
    unittest.main(verbosity=2)
