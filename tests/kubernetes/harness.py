# SPDX-License-Identifier: Apache-2.0
"""What the tests on a cluster share: a cluster of their own, YAML in, and acting inside pods.

`bench.call("mesh/client", function, ...)` runs a Python function as a process of that pod's network
namespace and control group, which is what an application in the pod can do and see (as in
tests/netns, whose application, YAML and functions are used here). QANAT_KEEP=1 leaves the cluster up, and takes
one that was left up.
"""
import base64
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "netns")]

from bed import cgroup2, http_get, run_inside  # noqa: E402
from fixture import NAMESPACES  # noqa: E402
from testbed import control, life, node  # noqa: E402
from testbed.capture import Capture  # noqa: E402
from testbed.names import TEST_PREFIX, Cluster  # noqa: E402
from testbed.tools import read  # noqa: E402


class Bench:
    def __init__(self, name="e2e", nodes=2, images=()):
        # two runs on one machine need clusters of different names
        suffix = os.environ.get("QANAT_CLUSTER_SUFFIX", "")
        name = TEST_PREFIX + name[:11 - len(suffix)] + suffix
        self.cluster, self.node_count, self.images = Cluster(name), nodes, list(images)
        self.folder = tempfile.mkdtemp(prefix="qanat-kubernetes-test-")

    # -- life ----------------------------------------------------------------------------------
    def up(self):
        if not (os.environ.get("QANAT_KEEP") and self.cluster.exists()):
            life.up(self.cluster, self.node_count, self.images)
        return self.attach()

    def attach(self):
        self.api = control.Api(self.cluster)
        self.kubeconfig = self.cluster.kubeconfig
        self.bin = self.cluster.load()["bin"]
        return self

    def down(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        if not os.environ.get("QANAT_KEEP"):
            life.down(self.cluster)

    def __enter__(self):
        try:
            return self.up()
        except BaseException:
            self.down()
            raise

    def __exit__(self, *unused):
        self.down()

    # -- the API -------------------------------------------------------------------------------
    def kubectl(self, *args, check=True, timeout=120, **more):
        command = [os.path.join(self.bin, "kubectl"), "--kubeconfig", self.kubeconfig, *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **more)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def apply(self, text):
        return self.kubectl("apply", "-f", "-", input=text.replace("@APP@", "/app.py")).stdout

    def delete(self, text):
        return self.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", input=text).stdout

    def get(self, path):
        return self.api.get(path)

    def pod(self, pod):
        namespace, name = pod.split("/")
        found = self.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        if found is None:
            raise KeyError(f"there is no pod {pod}")
        return found

    def pods(self, namespace, selector=""):
        query = f"?labelSelector={selector}" if selector else ""
        return self.get(f"/api/v1/namespaces/{namespace}/pods{query}")["items"]

    def ip(self, pod, version=4):
        for each in self.pod(pod)["status"].get("podIPs", []):
            if (":" in each["ip"]) == (version == 6):
                return each["ip"]
        raise KeyError(f"{pod} has no IPv{version} address")

    def ready(self, namespace, selector="", count=1):
        """Whether at least `count` pods exist and every one is ready."""
        pods = [p for p in self.pods(namespace, selector) if "deletionTimestamp" not in p["metadata"]]
        return len(pods) >= count and all(
            any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", [])) for p in pods)

    def wait_ready(self, **counts):
        """Waits until each of these namespaces has at least so many pods, all ready: wait_ready(mesh=4, plain=2)."""
        for namespace, count in counts.items():
            self.wait(f"pods of {namespace} ready", lambda: self.ready(namespace, count=count), 240)

    def restarts(self, namespace):
        """{pod name: (uid, restarts of its containers)}: unchanged means that nothing was restarted."""
        return {p["metadata"]["name"]: (p["metadata"]["uid"], sum(c["restartCount"] for c in p["status"]["containerStatuses"]))
                for p in self.pods(namespace)}

    def probe_failures(self, namespace, names):
        """{(pod, what its kubelet said of a probe that failed): how often} of the pods of these names."""
        return {(e["involvedObject"]["name"], e["message"]): e.get("count") or 1
                for e in self.get(f"/api/v1/namespaces/{namespace}/events")["items"]
                if e["reason"] == "Unhealthy" and e["involvedObject"]["name"] in names}

    def secret_key(self, namespace, name, key):
        return base64.b64decode(self.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")["data"][key])

    # -- inside --------------------------------------------------------------------------------
    def container(self, pod):
        """(pid of a process of the pod's first container, its cgroup2 group), by their names outside."""
        about = self.pod(pod)
        uid, name = about["metadata"]["uid"], about["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        groups = glob.glob(f"{cgroup2()}/{self.cluster.prefix}n*/kubepods/**/pod{uid}/{name}", recursive=True)
        for group in groups:
            for pid in read(f"{group}/cgroup.procs").split():
                return int(pid), group
        raise RuntimeError(f"{pod} has no running container {name}")

    def call(self, pod, function, *args, timeout=60):
        return self.call_at(self.container(pod), function, *args, timeout=timeout)

    def call_at(self, container, function, *args, timeout=60):
        """The same with an answer of container(): needs no API server."""
        pid, group = container
        with tempfile.NamedTemporaryFile("w", dir=self.folder) as resolv_conf:
            resolv_conf.write(read(f"/proc/{pid}/root/etc/resolv.conf"))
            resolv_conf.flush()
            return run_inside(f"/proc/{pid}/ns/net", group, function, args, timeout, resolv_conf.name)

    def call_node(self, index, function, *args, timeout=60):
        return run_inside(self.cluster.netns_path(f"n{index}"), None, function, args, timeout)

    def call_outside(self, function, *args, timeout=60):
        """In the control plane's namespace: beside the nodes, in no pod."""
        return run_inside(self.cluster.netns_path("cp"), None, function, args, timeout)

    def on_node(self, index, *command, check=True):
        done = subprocess.run(node.inside(self.cluster, index, command), capture_output=True, text=True, timeout=60)
        if check and done.returncode != 0:
            raise AssertionError(f"node{index}: {' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def index_of(self, pod):
        return int(self.pod(pod)["spec"]["nodeName"].removeprefix("node"))

    def capture(self, file="capture.pcap"):
        return Capture(self.cluster, os.path.join(self.folder, file))

    def wait(self, what, condition, seconds=120):
        """Waits until condition() is true, and returns how long it took. The last look begins after the
        deadline: a machine that stood still for so long costs no test."""
        start, last, over = time.monotonic(), None, False
        while not over:
            over = time.monotonic() - start >= seconds
            try:
                if condition():
                    return time.monotonic() - start
                last = None
            except Exception as error:
                last = error
            time.sleep(0.05)
        print(self.diagnose(), flush=True)
        raise AssertionError(f"{what}: not within {seconds} s; last: {last}")

    def events_of(self, pod, lines, *options):
        """The last lines of the log of one of our pods but those on single connections."""
        said = self.kubectl("logs", "-n", SYSTEM, pod, f"--tail={lines}", *options, check=False).stdout
        return "".join(line for line in said.splitlines(keepends=True) if "\taccess\t" not in line)

    def diagnose(self):
        """What a failed test should be read with: pods that are not well, and the ends of our logs."""
        out = [self.kubectl("get", "pods", "-A", "-o", "wide", check=False).stdout,
               self.kubectl("get", "events", "-A", "--field-selector=type!=Normal", check=False).stdout[-3000:]]
        for pod in self.pods("qanat-system") if self.get("/api/v1/namespaces/qanat-system") else []:
            name = pod["metadata"]["name"]
            out.append(f"--- {name}\n" + "\n".join(self.events_of(name, 1000).splitlines()[-15:]))
        return "\n".join(out)


class Onlooker(Bench):
    """At a cluster that somebody else has made, by its whole name."""

    def __init__(self, name):
        self.cluster = Cluster(name)
        self.attach()


def product_images():
    folder = os.environ.get("QANAT_IMAGES", os.path.join(ROOT, "build/images"))
    archives = sorted(glob.glob(os.path.join(folder, "*.tar")))
    if not archives:
        raise RuntimeError(f"no image archives in {folder}: ./run images")
    return archives


class MeshBench(Bench):
    """A cluster with the product's images on its nodes; install() puts the product in."""

    def __init__(self, name="e2e", nodes=2):
        super().__init__(name, nodes, product_images())

    def ctl(self, *args, check=True, timeout=180):
        """qanatctl of the build under test, from outside the cluster as an administrator has it."""
        # named, not from $KUBECONFIG: a local mesh of another session would be looked at instead
        command = [os.path.join(BIN, "qanatctl"), args[0], "--kubeconfig", self.kubeconfig, *args[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}\n{self.diagnose()}")
        return done

    def ctl_on_node(self, index, *args):
        """The same on a node, as an operator who logged in there and has a kubeconfig."""
        config = self.kubectl("--kubeconfig", self.cluster.path("pki", "admin.conf"), "config", "view", "--flatten").stdout
        with open(os.path.join(BIN, "qanatctl"), "rb") as program:
            for name, content in (("kubeconfig", config.encode()), ("qanatctl", program.read())):
                subprocess.run(node.inside(self.cluster, index, ["sh", "-c", f"cat >/run/{name} && chmod 700 /run/{name}"]),
                               input=content, check=True)
        try:
            return self.on_node(index, "/run/qanatctl", args[0], "--kubeconfig", "/run/kubeconfig", *args[1:])
        finally:
            self.on_node(index, "rm", "/run/kubeconfig", "/run/qanatctl")

    def install(self, *args):
        return self.ctl("install", *args).stdout

    def label(self, namespace, mode="ambient"):
        change = f"istio.io/dataplane-mode={mode}" if mode else "istio.io/dataplane-mode-"
        self.kubectl("label", "--overwrite", "namespace", namespace, change)

    def redirection(self, pod):
        return self.pod(pod)["metadata"].get("annotations", {}).get("ambient.istio.io/redirection")

    def enrolled(self, namespace):
        """Whether every pod of the namespace that can be meshed says that it is."""
        pods = [p for p in self.pods(namespace) if not p["spec"].get("hostNetwork") and
                p["metadata"].get("labels", {}).get("istio.io/dataplane-mode") != "none"]
        return bool(pods) and all(
            p["metadata"].get("annotations", {}).get("ambient.istio.io/redirection") == "enabled" for p in pods)

    def counters(self, pod):
        """What the kernel programs of its node have done with the pod's connections, by event."""
        uid, said = self.pod(pod)["metadata"]["uid"], self.call_node(self.index_of(pod), http_get, "127.0.0.1", 15030, "/pods")
        return next(p for p in json.loads(said[2]) if p["uid"] == uid)["counters"]

    def part(self, app, index=None):
        """The names of the pods of a part of ours ("ztunnel", "qanat-agent", "qanat-controlplane"), on a node or on all."""
        return [p["metadata"]["name"] for p in self.pods(SYSTEM, f"app={app}")
                if index is None or p["spec"].get("nodeName") == f"node{index}"]

    def condition(self, path, kind):
        """(status, reason, message) of a condition of an object's status, wherever the kind keeps it."""
        status = (self.get(path) or {}).get("status", {})
        lists = [status.get("conditions", [])] + [each.get("conditions", []) for each in
                                                  status.get("parents", []) + status.get("ancestors", [])]
        for each in lists:
            for found in each:
                if found["type"] == kind:
                    return found["status"], found.get("reason"), found.get("message")
        return None


SECURITY, GATEWAY = "/apis/security.istio.io/v1/namespaces", "/apis/gateway.networking.k8s.io/v1/namespaces"
SYSTEM = "qanat-system"
BIN = os.environ.get("QANAT_BIN_DIR", os.path.join(ROOT, "build/release/bin"))
# The namespaces of tests/netns before anybody asked for a mesh.
UNLABELLED = NAMESPACES.replace("  labels: {istio.io/dataplane-mode: ambient}\n", "")
