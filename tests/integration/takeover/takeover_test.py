#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Upgrades and deaths of the proxy with real processes: no connection is refused, no queue is lost."""
import array
import os
import select
import socket
import threading
import time
import unittest

from bed import ENROLLED, Job, Proxy, Supervisor, ip, talk, wait_listening
from case import TakeoverCase


ASK, STATE = 2, 6  # common/takeover/wire.h


class Middle:
    """Between the old and the new process: passes one message at a time, and calls `at(number)`
    before each, which may kill either of them."""

    def __init__(self, bed, at, name="middle", old=None):
        self.path, self.old = f"{bed.folder}/{name}.sock", old or bed.takeover
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.bed, self.at = bed, at
        self.passed = []  # kinds of messages
        wait_listening(self.old)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def watch(self, data):
        """A datagram that is about to be passed on."""

    def change(self, data):
        return data

    def has_passed(self):
        """What was watched last has been."""

    def serve(self):
        new, _ = self.listener.accept()
        self.listener.close()
        old = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        old.connect(self.old)
        try:
            while True:
                for side in select.select([old, new], [], [])[0]:
                    other = new if side is old else old
                    data, fds, _, _ = socket.recv_fds(side, 1 << 20, 253)
                    if not data:
                        return
                    try:
                        self.watch(data)
                        self.at(len(self.passed))
                        self.passed.append(int.from_bytes(data[6:8], "big"))
                        data = self.change(data)
                        other.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
                        self.has_passed()
                    finally:
                        for fd in fds:
                            os.close(fd)
        except OSError:
            pass
        finally:
            old.close()
            new.close()


class Takeover(TakeoverCase):
    def all_ok(self, results, least=50):
        for counts, longest, others in results:
            self.assertEqual(set(counts), {"ok"}, f"{counts}, {others[:3]}")
            self.assertGreater(counts["ok"], least)
            self.assertLess(longest, 15.0)  # not one that waited for its deadline

    def test_upgrades_under_load(self):
        proxy = self.first()
        sockets = proxy.listening()
        self.assertEqual({port for _, port in sockets}, {15001, 15006, 15008, 15053})
        finish = self.bed.start_load()
        for number in range(5):
            old = proxy
            wait_listening(self.bed.takeover)
            proxy = Proxy(self.bed, f"next-{number}", takeover=self.bed.takeover)
            proxy.wait_served()
            old.wait_log("given to the new process")
            self.assertEqual(proxy.listening(), sockets, "not the same sockets")
            self.assertEqual(old.stop(), 0)
        results = finish()
        self.all_ok(results)
        print("upgrades:", [(counts, f"longest {longest * 1000:.0f} ms") for counts, longest, _ in results])

    def test_live_connections_go_on(self):
        moved, _ = self.upgrade_with_connections(40, 4, 0.2)
        self.assertGreater(moved, 100)

    def test_without_a_take_over_connections_are_lost(self):
        """The control run: that the load notices."""
        proxy = Proxy(self.bed, "first")
        proxy.wait_served()
        finish = self.bed.start_load()
        for number in range(3):
            proxy.kill()
            proxy = Proxy(self.bed, f"next-{number}")
            proxy.wait_served()
        lost = [how for counts, _, _ in finish() for how in counts if how != "ok"]
        self.assertTrue(lost)

    def test_the_old_one_goes_on_when_the_new_one_dies(self):
        old = self.first()
        sockets = old.listening()
        for number in range(2):
            wait_listening(self.bed.takeover)
            new = Proxy(self.bed, f"dies-{number}", takeover=self.bed.takeover)
            new.wait_served()
            old.wait_for("the end of the take-over", lambda: old.text().count("given to the new process") == number + 1)
            new.kill()
            # At once: who comes waits in the queue until the old one takes it.
            for pod, address in (("front", (ip("back"), 7000)), ("out", (ip("back"), 7000)), ("out", (ip("back"), 15008))):
                payload = b"" if address[1] == 15008 else b"still here"
                self.assertEqual(self.bed.inside(pod, talk, address, payload, 10)[0], "ok")
            old.wait_for("its own word", lambda: old.text().count("this one goes on") == number + 1)
        self.assertEqual(old.listening(), sockets)

    def test_the_old_one_goes_on_when_the_new_one_is_stopped(self):
        old = self.first()
        finish = self.bed.start_load()
        new = Proxy(self.bed, "rolled-back", takeover=self.bed.takeover)
        new.wait_served()
        old.wait_log("given to the new process")
        self.assertEqual(new.stop(), 0)
        old.wait_log("this one goes on")
        time.sleep(1)
        self.all_ok(finish())

    def test_it_is_ready_when_it_has_the_connections(self):
        """Who waits for that ends the process before, and with it what had not come yet."""
        old = self.first()
        finish = self.bed.start_clients(10)
        go_on, listeners, asked = threading.Event(), threading.Event(), []

        def at(count):
            asked.append(count)
            if middle.passed.count(ASK) == 2:  # for the connections: not passed on yet
                listeners.set()
                go_on.wait(30)
        middle = Middle(self.bed, at)
        new = Proxy(self.bed, "second", takeover=middle.path)
        self.assertTrue(listeners.wait(30))
        new.wait_served()
        new.wait_for("the take-over alone to be open", lambda: "connections of the process before" in new.ready())
        time.sleep(0.3)
        self.assertIn("connections of the process before", new.ready())
        go_on.set()
        new.wait_for("readiness", lambda: new.ready() == "")
        old.given()  # a word of another process, which may come after
        old.kill()
        self.assertEqual([failed for _, failures in finish() for failed in failures], [])

    def test_a_supervisor_keeps_the_queues_across_kill_9(self):
        supervisor = Supervisor(self.bed.folder)
        self.addCleanup(supervisor.close)
        proxy = Proxy(self.bed, "first", notify=supervisor.path)
        proxy.wait_served()
        sockets = proxy.listening()
        proxy.wait_for("READY=1", lambda: supervisor.ready)
        names = {f"qanat-uid-{pod}-{role}" for pod in ENROLLED for role in ("outbound", "inbound", "hbone", "dnsudp", "dnstcp")}
        self.assertEqual(set(supervisor.kept()), names)
        for number in range(3):
            proxy.kill()
            # Nobody is there now.
            waiting = [Job(self.bed.netns(pod), talk, ((ip("back"), 7000), b"patience", 20)) for pod in ("front", "out") for _ in range(10)]
            time.sleep(0.3)
            begin = time.monotonic()
            proxy = Proxy(self.bed, f"next-{number}", notify=supervisor.path, fds=supervisor.kept())
            outcomes = [job.result(30)[0] for job in waiting]
            self.assertEqual(set(outcomes), {"ok"}, outcomes)
            proxy.wait_served()
            seconds = time.monotonic() - begin
            print(f"after kill -9: {len(waiting)} waiting connections served {seconds:.2f} s after the start")
            self.assertLess(seconds, 15.0)  # with sanitizers, on a busy machine
            self.assertEqual(proxy.listening(), sockets)

    def test_what_nobody_needs_is_given_back(self):
        """Listeners of a pod that is no longer here go, with the supervisor's copies of them."""
        supervisor = Supervisor(self.bed.folder)
        self.addCleanup(supervisor.close)
        stale = socket.socket()
        self.addCleanup(stale.close)
        supervisor.store["qanat-uid-gone-outbound"] = [os.dup(stale.fileno())]
        proxy = Proxy(self.bed, "first", notify=supervisor.path, fds=supervisor.kept())
        proxy.wait_served()
        proxy.wait_for("FDSTOREREMOVE", lambda: "qanat-uid-gone-outbound" not in supervisor.kept())

    def test_garbage_and_silence_at_the_socket(self):
        proxy = self.first()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rude:
            rude.connect(self.bed.takeover)
            rude.send(b"GET / HTTP/1.1\r\n\r\n and more")
            rude.settimeout(30)
            self.assertIn(rude.recv(100), (b"",))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.connect(self.bed.takeover)
            silent.settimeout(30)
            self.assertEqual(silent.recv(100), b"")  # it has its time, and no more
        new = Proxy(self.bed, "second", takeover=self.bed.takeover)
        new.wait_served()
        proxy.wait_log("given to the new process")

    def test_an_old_one_that_hangs_delays_nobody_for_long(self):
        old = self.first()
        os.kill(old.pid, 19)  # SIGSTOP: the kernel still takes connections for its socket
        try:
            new = Proxy(self.bed, "second", takeover=self.bed.takeover)
            begin = time.monotonic()
            new.wait_served()
            self.assertLess(time.monotonic() - begin, 20)
        finally:
            os.kill(old.pid, 18)
        self.assertEqual(self.bed.inside("out", talk, (ip("back"), 7000), b"served", 10)[0], "ok")

    def kill_at(self, number, which):
        """Takes over, and kills the old or the new one just before message `number` would arrive."""
        old = Proxy(self.bed, f"old-{number}-{which}", takeover=self.bed.takeover)
        old.wait_served()
        processes = {"old": old}
        started = threading.Event()

        def at(count):
            if count == number:
                started.wait()
                processes[which].kill()

        middle = Middle(self.bed, at)
        finish = self.bed.start_load(threads=3)
        processes["new"] = new = Proxy(self.bed, f"new-{number}-{which}", takeover=middle.path)
        started.set()
        survivor = new if which == "old" else old
        if which == "old":
            new.wait_served()
        else:
            new.process.wait(60)
        time.sleep(0.2)
        results = finish()
        # What the dead one had accepted died with it. Nobody else notices, unless the old one died
        # before all sockets had left it.
        if which == "new" or middle.passed[:number].count(STATE) >= len(ENROLLED):
            refused = [how for counts, _, _ in results for how in counts if how.startswith("connect")]
            self.assertEqual(refused, [])
        self.assertEqual(self.bed.inside("out", talk, (ip("back"), 7000), b"served", 10)[0], "ok")
        self.assertEqual(self.bed.inside("front", talk, (ip("back"), 7000), b"served", 10)[0], "ok")
        survivor.stop()

    def test_either_dies_at_every_message(self):
        old = self.first()
        middle = Middle(self.bed, lambda count: None)
        new = Proxy(self.bed, "second", takeover=middle.path)
        new.wait_served()
        old.wait_log("given to the new process")
        messages = len(middle.passed)
        self.assertGreaterEqual(messages, 15)  # hello x2, ask, offer x2, asked, (want, state, accepted, committed) x2, finished
        old.stop()
        new.stop()
        for which in ("old", "new"):
            for number in range(messages):
                with self.subTest(which=which, number=number):
                    self.kill_at(number, which)


if __name__ == "__main__":
    unittest.main(verbosity=2)
