# SPDX-License-Identifier: Apache-2.0
"""The pods of the bench, and loads that run inside them.

Each pod of `mesh` has a twin in `plain`: same node, same links, same program, same settings; only
the namespace's label differs. So plain TCP is measured in the same run over the same kind of links
with the capture not in the way. The Service `far` has a waypoint: its address goes through it, the
address of the pod itself does not. `near` asks for the node proxy (qanat.io/same-node), `close` does not.
"""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../netns"))
from bed import BIN, cgroup2, setns  # noqa: E402
from fixture import NAMESPACES, once  # noqa: E402

ECHO, SINK, HTTP = 9100, 9101, 9102


def pod(namespace, name, node, labels=""):
    return f"""
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{app: {name}{labels}}}
spec:
  nodeName: {node}
  serviceAccountName: {name}
  containers:
  - name: app
    image: localhost/qanat-loadgen
    command: ["{BIN}/qanat-loadgen", server, --port, "{ECHO}"]
    ports:
    - {{name: echo, containerPort: {ECHO}}}
    - {{name: sink, containerPort: {SINK}}}
    - {{name: http, containerPort: {HTTP}}}
    readinessProbe: {{tcpSocket: {{port: {ECHO}}}, periodSeconds: 1}}
"""


YAML = once(
    NAMESPACES
    + "".join(pod(namespace, name, node, labels)
              for namespace in ("mesh", "plain")
              for name, node, labels in (("client", "node1", ""), ("near", "node1", ", qanat.io/same-node: proxy"),
                                         ("close", "node1", ""), ("far", "node2", "")))
    + f"""
---
apiVersion: v1
kind: Service
metadata:
  name: far
  namespace: mesh
  labels: {{istio.io/use-waypoint: waypoint}}
spec:
  selector: {{app: far}}
  ports:
  - {{name: tcp-echo, port: {ECHO}, targetPort: echo}}
  - {{name: tcp-sink, port: {SINK}, targetPort: sink}}
  - {{name: http, port: {HTTP}, targetPort: http}}
---
apiVersion: v1
kind: Service
metadata:
  name: close
  namespace: mesh
spec:
  selector: {{app: close}}
  ports:
  - {{name: tcp-echo, port: {ECHO}, targetPort: echo}}
  - {{name: tcp-sink, port: {SINK}, targetPort: sink}}
  - {{name: http, port: {HTTP}, targetPort: http}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: mesh
  labels: {{istio.io/waypoint-for: service}}
spec:
  gatewayClassName: qanat-waypoint
  listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]
""")

# The loads open thousands of connections a second from one address to one port. With the kernel's
# defaults the 28,000 ports, each kept for a minute after its close, would be what is measured.
# Only new connections are made faster by this, of both twins alike. Ports below 15000 stay the
# node proxy's, for its legs to applications.
SYSCTLS = {"ip_local_port_range": "16000 65535", "tcp_tw_reuse": "1"}
# Most nodes run cubic. A machine with another default may not let a namespace have it; then it is
# reno, which every namespace may have. On links without a rate BBR would show how it paces.
CONGESTION = ("cubic", "reno")


def set_sysctls():
    """In a pod. Returns the congestion control that it got."""
    for name, value in SYSCTLS.items():
        with open(f"/proc/sys/net/ipv4/{name}", "w") as f:
            f.write(value)
    for name in CONGESTION:
        try:
            with open("/proc/sys/net/ipv4/tcp_congestion_control", "w") as f:
                f.write(name)
            return name
        except OSError:
            continue
    raise RuntimeError(f"none of {CONGESTION} may be used in a network namespace here")


def cgroup(mesh, name):
    info = mesh.pod_files()[name]
    return f"{cgroup2()}/qanat-{mesh.name}/{info['node']}/pods/{info['uid']}"


def cpu_of(mesh, names):
    """On-CPU seconds of all that has run in these pods."""
    total = 0
    for name in set(names):
        with open(f"{cgroup(mesh, name)}/cpu.stat") as f:
            total += int(dict(line.split() for line in f)["usage_usec"])
    return total / 1e6


def start(mesh, name, flags):
    """Starts qanat-loadgen as an application of the pod: its network namespace, its cgroup."""
    procs = f"{cgroup(mesh, name)}/cgroup.procs"

    def enter():
        with open(procs, "w") as f:
            f.write(str(os.getpid()))
        setns(mesh.pod_netns(name))

    return subprocess.Popen([f"{BIN}/qanat-loadgen", *flags], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, preexec_fn=enter)


def finish(process, timeout):
    """The load's own report. The process never outlives this call."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        stop(process)
    if process.returncode != 0:
        raise RuntimeError(f"qanat-loadgen exited with {process.returncode}: {err.strip()}")
    return json.loads(out)


def stop(process):
    if process.poll() is None:
        process.kill()
    process.wait()
