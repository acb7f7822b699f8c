# SPDX-License-Identifier: Apache-2.0
"""The node proxy against an agent written from the reference, section 2."""
import re
import time
import unittest

import bed as beds
import proto
from bed import Bed, Case, until


class Zds(Case):
    def setUp(self):
        self.use(Bed()).start()

    def begin(self):
        """A session after its hello."""
        session = self.bed.agent.accept()
        self.assertEqual(session.hello(), {"version": 1})
        return session

    def add(self, session, name, uid=None, netns=None):
        return session.add(uid or f"uid-{name}", name, "near", name, netns or self.bed.pods[name].name)

    def listeners(self, name):
        return {port for port in (15001, 15006, 15008) if self.bed.listens(name, port)}

    ALL = {15001, 15006, 15008}

    def test_hello_add_snapshot(self):
        session = self.begin()
        self.assertFalse(self.bed.ready())
        self.assertEqual(self.listeners("client"), set())
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(self.listeners("client"), self.ALL, "the ack says that the listeners are bound")
        self.assertFalse(self.bed.ready(), "not ready before the snapshot")
        self.assertEqual(session.snapshot(), "")
        until("ready after the snapshot", self.bed.ready)
        session.quiet(6)  # an agent looks every 5 s

    def test_add_keep_del_after_snapshot(self):
        session = self.begin()
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(session.snapshot(), "")
        self.assertEqual(self.add(session, "server"), "")
        self.assertEqual(self.listeners("server"), self.ALL)
        self.assertEqual(session.delete("uid-client"), "")
        until("listeners of the deleted pod are gone", lambda: not self.listeners("client"))
        self.assertEqual(self.listeners("server"), self.ALL)
        self.assertEqual(session.delete("uid-client"), "", "Del of what is not there is taken")

    def test_same_add_again_changes_nothing(self):
        session = self.begin()
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(session.snapshot(), "")
        before = self.inodes("client")
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(self.inodes("client"), before)

    def inodes(self, name):
        out = beds.netns.run(["ip", "netns", "exec", self.bed.pods[name].name, "cat", "/proc/net/tcp", "/proc/net/tcp6"])
        return sorted(line.split()[9] for line in out.splitlines() if " 0A " in line)

    def test_add_of_the_same_uid_in_another_namespace(self):
        """Drains the old one, starts the new one."""
        session = self.begin()
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(session.snapshot(), "")
        self.assertEqual(self.add(session, "client", netns=self.bed.pods["server"].name), "")
        self.assertEqual(self.listeners("server"), self.ALL)
        until("the old namespace is left", lambda: not self.listeners("client"))

    def test_del_before_snapshot(self):
        """Only edits the pending set."""
        session = self.begin()
        self.assertEqual(session.delete("uid-never"), "")
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(self.add(session, "server"), "")
        self.assertEqual(session.delete("uid-client"), "")
        self.assertEqual(session.snapshot(), "")
        until("the deleted one is drained at the snapshot at the latest", lambda: not self.listeners("client"))
        self.assertEqual(self.listeners("server"), self.ALL)
        until("ready", self.bed.ready)

    def test_keep_of_unknown(self):
        session = self.begin()
        self.assertEqual(session.keep("uid-never-seen"), "")
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(session.snapshot(), "")
        until("ready", self.bed.ready)
        self.assertEqual(self.listeners("client"), self.ALL)

    def test_snapshot_after_reconnect_reconciles(self):
        """Running proxies stay untouched; the snapshot drains what neither Add nor Keep named."""
        session = self.begin()
        for name in ("client", "server"):
            self.assertEqual(self.add(session, name), "")
        self.assertEqual(session.snapshot(), "")
        until("ready", self.bed.ready)
        before = self.inodes("client"), self.inodes("server")
        session.close()
        until("it tells that the agent is away", lambda: "agent is away" in self.readiness()[1])
        session = self.begin()
        self.assertEqual(self.readiness()[0], 200, "stock is not ready, ours goes on")
        self.assertEqual((self.inodes("client"), self.inodes("server")), before)
        self.assertEqual(session.keep("uid-client"), "")
        self.assertEqual(self.listeners("server"), self.ALL, "not before the snapshot")
        self.assertEqual(session.snapshot(), "")
        until("the one that was not named is drained", lambda: not self.listeners("server"))
        self.assertEqual(self.inodes("client"), before[0])
        until("the agent is back", lambda: self.readiness() == (200, "ready\n"))

    def readiness(self):
        return self.bed.get(15021, "/healthz/ready")

    def connected(self):
        return re.search(r"^qanat_zds_connected (\d)$", self.bed.get(15020, "/metrics")[1], re.M)[1]

    def test_agent_restart(self):
        session = self.begin()
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(self.connected(), "0", "not before the snapshot")
        self.assertEqual(session.snapshot(), "")
        until("ready", lambda: self.readiness() == (200, "ready\n"))
        self.assertEqual(self.connected(), "1")
        self.bed.agent.close()
        for _ in range(10):  # longer than a probe's patience is not needed: it never says anything else
            time.sleep(0.1)
            self.assertEqual(self.readiness()[0], 200)
        self.assertRegex(self.readiness()[1], "^ready\nthe node agent is away")
        self.assertEqual(self.connected(), "0")
        before = self.inodes("client")
        self.assertTrue(before, "pods go on without an agent")
        self.bed.agent.listen()
        session = self.begin()
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(session.snapshot(), "")
        until("the agent is back", lambda: self.readiness() == (200, "ready\n"))
        self.assertEqual(self.connected(), "1")
        self.assertEqual(self.inodes("client"), before)
        for line in ("connection to the node agent lost: .*; the pods that are served go on", "the node agent is back"):
            self.assertEqual(len(re.findall(line, self.bed.logged())), 1, line)

    def test_no_agent_from_the_start(self):
        """Nobody is served, so it is not ready, however often an agent comes and goes."""
        session = self.begin()
        self.assertEqual(self.add(session, "client"), "")
        session.close()
        session = self.begin()
        self.bed.agent.close()
        time.sleep(0.5)
        self.assertEqual(self.readiness(), (500, "not ready, pending: zds\n"))

    def expect_violation(self, session, request, fds=(), raw=None):
        """Refused, and the pods that run stay. Stock then exits; ours reconnects, which the agent sees as the same."""
        session.send_raw(raw if raw is not None else proto.encode("WorkloadRequest", request), fds)
        try:
            error = session.ack()
        except (EOFError, ConnectionResetError) as gone:
            return self.fail(f"no nack: {gone!r}")
        self.assertNotEqual(error, "")
        self.assertIsNone(self.bed.program.poll(), "the program ended")
        self.assertEqual(self.listeners("client"), self.ALL)
        return error

    def began(self):
        session = self.begin()
        self.assertEqual(self.add(session, "client"), "")
        self.assertEqual(session.snapshot(), "")
        return session

    def again(self, session):
        """The agent can go on: on this session or on the next."""
        try:
            self.assertEqual(session.add("uid-server", "server", "near", "server", self.bed.pods["server"].name), "")
        except (EOFError, ConnectionResetError, BrokenPipeError):
            session = self.begin()
            self.assertEqual(session.keep("uid-client"), "")
            self.assertEqual(self.add(session, "server"), "")
            self.assertEqual(session.snapshot(), "")
        self.assertEqual(self.listeners("server"), self.ALL)
        self.assertEqual(self.listeners("client"), self.ALL)

    def test_keep_after_snapshot(self):
        session = self.began()
        self.expect_violation(session, {"keep": {"uid": "uid-client"}})
        self.again(session)

    def test_second_snapshot(self):
        session = self.began()
        self.expect_violation(session, {"snapshot_sent": {}})
        self.again(session)

    def test_add_without_info(self):
        session = self.began()
        with open(f"/run/netns/{self.bed.pods['server'].name}", "rb") as f:
            self.expect_violation(session, {"add": {"uid": "uid-server"}}, [f.fileno()])
        self.again(session)

    def test_add_without_fd(self):
        session = self.began()
        info = {"name": "server", "namespace": "near", "service_account": "server"}
        self.expect_violation(session, {"add": {"uid": "uid-server", "workload_info": info}})
        self.again(session)

    def test_add_with_two_fds(self):
        session = self.began()
        info = {"name": "server", "namespace": "near", "service_account": "server"}
        path = f"/run/netns/{self.bed.pods['server'].name}"
        with open(path, "rb") as one, open(path, "rb") as two:
            self.expect_violation(session, {"add": {"uid": "uid-server", "workload_info": info}}, [one.fileno(), two.fileno()])
        self.again(session)

    def test_fd_on_del(self):
        session = self.began()
        with open(f"/run/netns/{self.bed.pods['client'].name}", "rb") as f:
            self.expect_violation(session, {"del": {"uid": "uid-client"}}, [f.fileno()])
        self.again(session)

    def test_garbage(self):
        session = self.began()
        self.expect_violation(session, None, raw=b"\x0a\xff\xff\xff\xff\x7fgarbage")
        self.again(session)

    def test_fd_that_is_no_namespace(self):
        session = self.began()
        with open("/dev/null", "rb") as f:
            info = {"name": "server", "namespace": "near", "service_account": "server"}
            error = session.send({"add": {"uid": "uid-null", "workload_info": info}}, [f.fileno()])
        self.assertNotEqual(error, "")
        self.again(session)

    def test_a_pod_that_does_not_start_is_tried_again(self):
        """Nack "failure to start proxy", the connection kept, not ready meanwhile, tried every 5 s."""
        session = self.began()
        sock = beds.netns.listen(self.bed.pods["server"].name, "0.0.0.0", 15008)  # without SO_REUSEPORT
        error = self.add(session, "server")
        self.assertIn("failure to start proxy", error)
        until("not ready while one is pending", lambda: not self.bed.ready())
        sock.close()
        until("started by itself", lambda: self.listeners("server") == self.ALL)
        until("ready", self.bed.ready)
        self.assertEqual(session.delete("uid-server"), "")

    def of_size(self, size):
        info = {"name": "server", "namespace": "near", "service_account": "server"}
        make = lambda n: proto.encode("WorkloadRequest", {"add": {"uid": "u" * n, "workload_info": info}})
        for n in range(max(0, size - 80), size):
            if len(make(n)) == size:
                return make(n)
        raise AssertionError(f"no uid makes {size} bytes")

    def test_datagram_of_1024_bytes(self):
        session = self.began()
        with open(f"/run/netns/{self.bed.pods['server'].name}", "rb") as f:
            session.send_raw(self.of_size(1024), [f.fileno()])
        self.assertEqual(session.ack(), "")
        self.assertEqual(self.listeners("server"), self.ALL)

    def test_datagram_of_1025_bytes(self):
        """Would be cut by a buffer of 1024: refused, and whoever reads more must not lose its place."""
        session = self.began()
        with open(f"/run/netns/{self.bed.pods['server'].name}", "rb") as f:
            self.expect_violation(session, None, [f.fileno()], raw=self.of_size(1025))
        self.again(session)

    def test_unknown_fields_are_skipped(self):
        session = self.begin()
        info = proto.encode("WorkloadInfo", {"name": "client", "namespace": "near", "service_account": "client"})
        info += b"\x22\x0dcluster.local" + b"\x98\x06\x01"  # 4, reserved: a trust domain; 99
        inner = b"\x0a\x0auid-client" + b"\x12" + proto.varint(len(info)) + info + b"\xf2\x07\x02hi"
        with open(f"/run/netns/{self.bed.pods['client'].name}", "rb") as f:
            session.send_raw(b"\x0a" + proto.varint(len(inner)) + inner, [f.fileno()])
        self.assertEqual(session.ack(), "")
        self.assertEqual(self.listeners("client"), self.ALL)


if __name__ == "__main__":
    unittest.main(verbosity=2)
