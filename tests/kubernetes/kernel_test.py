#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A node whose kernel lacks what capture needs, or whose agent or proxy may not use it: it says which, and the remedy;
nobody is enrolled, new pods of the mesh wait, and what is enrolled stays as it is. So each capability that our manifests
give is one that is missed."""
import copy
import json
import unittest

from harness import SYSTEM
from fixture import pod
from scene import Scene

# What a kernel older than 5.7 answers to BPF_LINK_CREATE (28), and what a profile without bpf() answers.
PROFILES = {
    "old-kernel.json": {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
                        "args": [{"index": 0, "value": 28, "op": "SCMP_CMP_EQ"}]},
    "no-bpf.json": {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
}


def container(spec):
    return spec["template"]["spec"]["containers"][0]


def profile(name):
    def change(spec):
        container(spec)["securityContext"]["seccompProfile"] = {"type": "Localhost", "localhostProfile": name}
    return change


def no_bpffs(spec):
    for volume in spec["template"]["spec"]["volumes"]:
        if volume["name"] == "bpf":
            volume.pop("hostPath")
            volume["emptyDir"] = {}


def without_capability(name):
    return lambda spec: container(spec)["securityContext"]["capabilities"]["add"].remove(name)


def given(daemon_set):
    return container(daemon_set["spec"])["securityContext"]["capabilities"]["add"]


# What who lacks one says of it.
OF_THE_AGENT = {
    "SYS_ADMIN": r"capability SYS_ADMIN",
    "SYS_PTRACE": r"capability SYS_PTRACE",
    "NET_ADMIN": r"rules and routes of pods cannot be changed.*capability NET_ADMIN",
}
OF_THE_PROXY = {
    "SYS_ADMIN": r"network namespaces of pods cannot be entered.*capability SYS_ADMIN",
    "NET_RAW": r"sockets cannot be marked.*capability NET_RAW",
    "SETUID": r"become user 1337:1337.*CAP_SETUID",
}


class Kernel(Scene):
    NAME = "kernel"

    def setUp(self):
        self.path = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/qanat-agent"
        self.good = self.bench.get(self.path)
        for index in (1, 2):
            for name, rule in PROFILES.items():
                text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
                self.bench.on_node(index, "sh", "-c", f"mkdir -p /var/lib/kubelet/seccomp && echo '{text}' >/var/lib/kubelet/seccomp/{name}")

    def replace(self, daemon_set):
        daemon_set = copy.deepcopy(daemon_set)
        for key in ("resourceVersion", "uid", "generation", "creationTimestamp", "managedFields"):
            daemon_set["metadata"].pop(key, None)
        daemon_set.pop("status", None)
        self.bench.kubectl("replace", "-f", "-", input=json.dumps(daemon_set))

    def broken_agents(self):
        return self.broken("qanat-agent")

    def broken(self, app):
        """{node: what its agent or proxy said when it ended} of those that are not ready."""
        found = {}
        for each in self.bench.pods(SYSTEM, f"app={app}"):
            for status in each["status"].get("containerStatuses", []):
                ended = status.get("lastState", {}).get("terminated") or status.get("state", {}).get("terminated")
                if not status["ready"] and ended and "deletionTimestamp" not in each["metadata"]:
                    found[each["spec"]["nodeName"]] = ended.get("message", "")
        return found

    def without(self, change, pattern):
        bad = copy.deepcopy(self.good)
        change(bad["spec"])
        with self.unharmed():
            self.replace(bad)
            try:
                self.bench.wait("an agent ends", self.broken_agents)
                (node, message), = self.broken_agents().items()
                self.assertRegex(message, pattern)
                self.assertRegex(message, "nobody is enrolled on this node")
                self.assertRegex(self.said("verify"), f"(?s){node}: .*{pattern}.*node {node}")
                self.assertRegex(self.said("status"), pattern)
                # a new pod of the mesh is held, not open
                self.bench.apply(pod("mesh", "late", "client", node))
                self.bench.wait("the pod is held, and says why", lambda: "qanat" in self.bench.kubectl(
                    "get", "events", "-n", "mesh", "--field-selector=involvedObject.name=late,type=Warning", "-o", "yaml").stdout, 40)
                self.assertNotIn("containerID", json.dumps(self.bench.pod("mesh/late").get("status", {})))
            finally:
                self.replace(self.good)
            self.bench.wait("both agents are ready", lambda: self.bench.ready(SYSTEM, "app=qanat-agent", 2) and not self.broken_agents())
            self.bench.wait("the pod that waited is enrolled", lambda: self.bench.redirection("mesh/late") == "enabled")
        self.bench.kubectl("delete", "pod", "-n", "mesh", "late", "--grace-period=1")
        self.traffic_is_as_it_was()

    def test_1_links_are_missing(self):
        self.without(profile("old-kernel.json"), r"kernel \(.*\) lacks bpf_link.*5\.7.*6\.1 or newer")

    def test_2_bpf_is_forbidden(self):
        self.without(profile("no-bpf.json"), r"the agent may not use bpf.*seccomp")

    def test_3_no_bpffs(self):
        self.without(no_bpffs, r"/sys/fs/bpf is not the node's bpffs.*mount -t bpf")

    def test_4_each_capability_of_the_agent(self):
        self.assertEqual(set(given(self.good)), set(OF_THE_AGENT))
        for name, pattern in OF_THE_AGENT.items():
            with self.subTest(name):
                self.without(without_capability(name), pattern)

    def test_5_each_capability_of_the_proxy(self):
        """The next proxy of a node ends at once and says why; the one that is there goes on."""
        self.path = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/ztunnel"
        self.good = self.bench.get(self.path)
        self.assertEqual(set(given(self.good)), set(OF_THE_PROXY))
        with self.unharmed():
            for name, pattern in OF_THE_PROXY.items():
                bad = copy.deepcopy(self.good)
                without_capability(name)(bad["spec"])
                self.replace(bad)
                try:
                    self.bench.wait(f"without {name} it ends", lambda: self.broken("ztunnel"))
                    self.assertRegex("".join(self.broken("ztunnel").values()), pattern)
                finally:
                    self.replace(self.good)
                self.bench.wait("two are ready", lambda: len(self.bench.part("ztunnel")) == 2 and self.bench.ready(SYSTEM, "app=ztunnel", 2))


if __name__ == "__main__":
    unittest.main(verbosity=2)
