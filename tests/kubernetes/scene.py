# SPDX-License-Identifier: Apache-2.0
"""What the tests of bad input share: a mesh of which one pod lets in one client only, and a look at whether
that is still so."""
import contextlib
import re
import unittest

from harness import SYSTEM, MeshBench
from bed import outcome
from fixture import APPS, NAMESPACES, authorization
from prober import Prober

ALLOW_CLIENT = authorization("only-client", """
  action: ALLOW
  selector: {matchLabels: {app: far}}
  rules:
  - from: [{source: {principals: ["cluster.local/ns/mesh/sa/client"]}}]
""")
POLICY = "/apis/security.istio.io/v1/namespaces/mesh/authorizationpolicies/only-client"


class Scene(unittest.TestCase):
    NAME = None  # of the cluster; the classes that have none are no tests

    @classmethod
    def setUpClass(cls):
        cls.bench = bench = MeshBench(cls.NAME).up()
        cls.addClassCleanup(bench.down)  # also when one of the next steps fails
        bench.install()
        cls.add_applications()

    @classmethod
    def add_applications(cls):
        cls.bench.apply(NAMESPACES + "---\n" + APPS)
        cls.bench.apply(ALLOW_CLIENT)
        cls.bench.wait_ready(mesh=4, plain=2)
        cls.bench.wait("pods enrolled", lambda: cls.bench.enrolled("mesh"))
        cls.bench.wait("the policy holds", cls.is_as_it_was)
        cls.bench.wait("the policy has a status", lambda: "status" in cls.bench.get(POLICY))

    def said(self, *args, **more):
        """What qanatctl says when it must fail."""
        done = self.bench.ctl(*args, check=False, **more)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        return done.stdout + done.stderr

    @classmethod
    def is_as_it_was(cls):
        far = cls.bench.ip("mesh/far")
        return (cls.bench.call("mesh/client", outcome, far, 9000, b"x", 15) == "ok" and
                cls.bench.call("mesh/near", outcome, far, 9000, b"x", 3) != "ok")

    def traffic_is_as_it_was(self):
        self.assertTrue(self.is_as_it_was())

    def log(self, app, previous=False):
        """The ends of the logs of a part's pods, without the lines on connections, which are most of them under load."""
        return "\n".join(self.bench.events_of(pod, 3000, *(["--previous"] if previous else [])) for pod in self.bench.part(app))

    def wait_for_log(self, app, pattern, seconds=60):
        self.bench.wait(f"the log of {app} says {pattern}", lambda: re.search(pattern, self.log(app)), seconds)

    def unharmed(self):
        """with self.unharmed(): who may call does so all the time without a failure, who may not never comes through."""
        return Unharmed(self)


class Unharmed:
    def __init__(self, test):
        far = test.bench.ip("mesh/far")
        self.test = test
        self.probers = {pod: Prober(test.bench, pod, outcome, far, 9000, b"x", 15, seconds=400, every=0.1)
                        for pod in ("mesh/client", "mesh/near")}

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            for each in self.probers.values():
                stack.enter_context(each)
            self.stack = stack.pop_all()

    def __exit__(self, kind, *more):
        self.stack.__exit__(kind, *more)  # fails when one of them did not try to the end
        if kind is None:
            client, near = ([each[2] for each in self.probers[pod].seen()] for pod in ("mesh/client", "mesh/near"))
            self.test.assertEqual({o for o in client if o != "ok"}, set(), "who may call was refused")
            self.test.assertNotIn("ok", near, "who may not call came through")
            print(f"{len(client)} calls that may and {len(near)} that may not went as before", flush=True)
