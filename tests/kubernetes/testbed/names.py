# SPDX-License-Identifier: Apache-2.0
"""What a cluster is called and where its things lie. A cluster has a name; everything of it that the
machine can see (network namespaces, control groups, its folder) carries that name, so that clusters
live side by side and one that was left behind is found again by looking."""
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CACHE = os.environ.get("QANAT_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "qanat")
CLUSTERS = os.environ.get("QANAT_CLUSTERS", "/tmp/qanat-kubernetes")

# Every cluster uses the same addresses: no cluster has a way out of its own namespaces.
NODE_NET = ("10.99.0.", "fd99::")          # .1 is the control plane and the nodes' switch; node I is .1I
POD_NET = ("10.244.0.0/16", "fd44::/48")   # node I has 10.244.I.0/24 and fd44:0:0:I::/64
SERVICE_NET = ("10.96.0.0/16", "fd96::/112")
API_SERVICE, DNS_SERVICE = "10.96.0.1", "10.96.0.10"

# What a node sees below this folder of its own: the programs, and its files (logs, certificates).
IN_NODE = "/testbed"
TEST_PREFIX = "test-"  # of the clusters that tests make, and that nobody else should keep


class Failed(Exception):
    """Something that the caller is told in one line: what, where, and the remedy."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def pods_of(node):
    return f"10.244.{node}.0/24", f"fd44:0:0:{node}::/64"


class Cluster:
    """The names of one cluster, and what `up` wrote down about it."""

    def __init__(self, name):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,15}", name):
            raise Failed(f"cluster name {name!r}: use up to 16 lower case letters, digits and '-'")
        self.name = name
        self.prefix = f"qk-{name}-"
        self.folder = os.path.join(CLUSTERS, name)
        self.kubeconfig = self.path("kubeconfig")

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def netns(self, part):
        """The name of the network namespace of "cp" (the control plane) or of a node ("n1")."""
        return f"{self.prefix}{part}"

    def netns_path(self, part):
        return f"/run/netns/{self.netns(part)}"

    def owns(self, entry):
        """Whether a name of /run/netns or of a control group belongs to this cluster, not to "NAME-more"."""
        return re.fullmatch(re.escape(self.prefix) + r"(cp|n\d+)", entry) is not None

    @staticmethod
    def node_name(index):
        return f"node{index}"

    @staticmethod
    def node_ip(index, family=0):
        return f"{NODE_NET[family]}1{index}"

    def node_path(self, index, *parts):
        return self.path(self.node_name(index), *parts)

    # -- what up wrote down --------------------------------------------------------------------
    def exists(self):
        return os.path.exists(self.path("cluster.json"))

    def load(self):
        try:
            with open(self.path("cluster.json")) as f:
                return json.load(f)
        except FileNotFoundError:
            raise Failed(f"no cluster {self.name!r} in {CLUSTERS}: cluster.py up --name {self.name}") from None

    def store(self, facts):
        with open(self.path("cluster.json.new"), "w") as f:
            json.dump(facts, f, indent=1)
        os.rename(self.path("cluster.json.new"), self.path("cluster.json"))

    def nodes(self):
        return list(range(1, self.load()["nodes"] + 1))
