# SPDX-License-Identifier: Apache-2.0
"""The control plane: etcd, API server, controller manager and scheduler in the namespace "cp", and the
entry, which lets programs outside of all namespaces reach the API server on a port of 127.0.0.1.

Each is a process of its own, started here and left running; who starts one again (a test of an API
server that went away) finds its command line in cluster.json."""
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from . import cgroups
from .names import HERE, NODE_NET, SERVICE_NET, Failed
from .pki import SERVER_NAMES, Pki, kubeconfig
from .tools import alive, kill, tail, wait_for

API = f"https://{NODE_NET[0]}1:6443"
# What programs in pods asked of the API server, and what came of it, a line each: log/audit.log.
AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
    {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
    {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
    {"level": "None"}]}


def make_certificates(cluster, nodes):
    pki = Pki(cluster.path("pki"))
    pki.make_authority()
    clients = {"admin": "/O=system:masters/CN=admin"}
    clients.update({part: f"/CN=system:kube-{part}" for part in ("controller-manager", "scheduler", "proxy")})
    clients.update({name: f"/O=system:nodes/CN=system:node:{name}" for name in map(cluster.node_name, nodes)})
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(pki.issue, "apiserver", "/CN=kube-apiserver", SERVER_NAMES)]
        jobs += [pool.submit(pki.client, name, subject, API) for name, subject in clients.items()]
        for job in jobs:
            job.result()
    return pki


def commands(cluster, bin_folder, port):
    pki, program = Pki(cluster.path("pki")), lambda name: os.path.join(bin_folder, name)

    def of_component(name):
        config = pki.path(f"{name}.conf")
        return [f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
                "--leader-elect=false"]
    return {
        "etcd": [program("etcd"), "--data-dir", cluster.path("etcd"), "--unsafe-no-fsync", "--log-level", "warn"],
        "kube-apiserver": [
            program("kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", f"--advertise-address={NODE_NET[0]}1",
            f"--service-cluster-ip-range={','.join(SERVICE_NET)}",
            f"--tls-cert-file={pki.path('apiserver.crt')}", f"--tls-private-key-file={pki.path('apiserver.key')}",
            f"--client-ca-file={pki.authority}", f"--kubelet-client-certificate={pki.path('admin.crt')}",
            f"--kubelet-client-key={pki.path('admin.key')}", "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki.path('sa.key')}", f"--service-account-signing-key-file={pki.path('sa.key')}",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
            "--enable-aggregator-routing=true",  # webhooks go to pod addresses: there is no kube-proxy here
            f"--audit-policy-file={cluster.path('audit-policy.json')}", f"--audit-log-path={cluster.path('log', 'audit.log')}",
            "--shutdown-delay-duration=0s", "--profiling=false"],
        "kube-controller-manager": [
            program("kube-controller-manager"), *of_component("controller-manager"), f"--root-ca-file={pki.authority}",
            f"--service-account-private-key-file={pki.path('sa.key')}", "--use-service-account-credentials",
            f"--cluster-signing-cert-file={pki.authority}", f"--cluster-signing-key-file={pki.path('ca.key')}"],
        "kube-scheduler": [program("kube-scheduler"), *of_component("scheduler")],
        "entry": [sys.executable, "-B", "-m", "testbed.entry", str(port), cluster.netns_path("cp"), f"{NODE_NET[0]}1", "6443"],
    }


def free_port():
    """One that nobody gets by chance before the entry has it, nor while the entry is away: below those that
    the kernel gives out by itself."""
    first = 20000 + os.getpid() % 10000
    for port in [*range(first, 30000), *range(20000, first)]:
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise Failed("no port between 20000 and 30000 is free")


def prepare(cluster, bin_folder):
    """Chooses the entry's port, notes the command lines, and writes the kubeconfig for everybody outside."""
    port = free_port()
    with open(cluster.path("audit-policy.json"), "w") as f:
        json.dump(AUDIT_POLICY, f)
    facts = cluster.load()
    facts.update(port=port, bin=bin_folder, commands=commands(cluster, bin_folder, port), pids={})
    cluster.store(facts)
    pki = Pki(cluster.path("pki"))
    kubeconfig(cluster.kubeconfig, f"https://127.0.0.1:{port}", pki.authority, pki.path("admin.crt"), pki.path("admin.key"))


def start(cluster, part):
    facts = cluster.load()
    if part not in facts["commands"]:
        raise Failed(f"{part!r} is none of {', '.join(facts['commands'])}")
    if alive(facts["pids"].get(part, 0)):
        raise Failed(f"{part} runs already")
    command = facts["commands"][part]
    if part != "entry":  # that one stands in both namespaces
        command = ["nsenter", f"--net={cluster.netns_path('cp')}", *command]
    joins = cgroups.make(cluster.netns("cp"))
    with open(cluster.path("log", f"{part}.log"), "a") as log:
        process = cgroups.spawn(command, joins, log)
    facts["pids"][part] = process.pid
    cluster.store(facts)


def stop(cluster, part):
    """As a power cut would: SIGTERM has the API server drain for ten seconds."""
    pid = cluster.load()["pids"].get(part, 0)
    if not alive(pid):
        raise Failed(f"{part} does not run")
    kill(pid, signal.SIGKILL)
    wait_for(f"end of {part}", lambda: not alive(pid), 60)


class Api:
    """The API server as the cluster's administrator, for what the bed itself asks."""

    def __init__(self, cluster):
        pki = Pki(cluster.path("pki"))
        self.base = f"https://127.0.0.1:{cluster.load()['port']}"
        self.context = ssl.create_default_context(cafile=pki.authority)
        self.context.load_cert_chain(pki.path("admin.crt"), pki.path("admin.key"))

    def get(self, path):
        """The parsed answer, or None while the API server or the thing asked for is not there."""
        try:
            with urllib.request.urlopen(self.base + path, context=self.context, timeout=30) as answer:
                text = answer.read()
        except (urllib.error.URLError, OSError):
            return None
        try:
            return json.loads(text)
        except ValueError:
            return text.decode()


def wait_until_ready(cluster, seconds=180):
    api = Api(cluster)

    def ready():
        for part in ("etcd", "kube-apiserver"):
            if not alive(cluster.load()["pids"][part]):
                raise Failed(f"{part} ended:\n{tail(cluster.path('log', part + '.log'))}")
        return api.get("/readyz") == "ok"
    wait_for("API server ready", ready, seconds, 0.1)


def node_ready(cluster, name):
    node = Api(cluster).get(f"/api/v1/nodes/{name}") or {}
    return [c["lastHeartbeatTime"] for c in node.get("status", {}).get("conditions", [])
            if c["type"] == "Ready" and c["status"] == "True"]
