# SPDX-License-Identifier: Apache-2.0
"""The YAML that most end-to-end tests share.

node1: mesh/client (sa client), mesh/near (sa server), plain/outsider (no mesh)
node2: mesh/client2 (sa client), mesh/far (sa server), mesh/web-v1, mesh/web-v2 (sa web), plain/bystander
mesh/web has a waypoint; near and far have none.
"""

NAMESPACES = """
apiVersion: v1
kind: Namespace
metadata:
  name: mesh
  labels: {istio.io/dataplane-mode: ambient}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
"""


def application(name, version):
    """The fields of the container that runs app.py."""
    return f"""
    image: docker.io/library/python:3.12-slim
    command: [python3, "@APP@"]
    env:
    - {{name: POD_NAME, value: {name}}}
    - {{name: VERSION, value: {version}}}
    ports:
    - {{name: http, containerPort: 8080}}
    - {{name: echo, containerPort: 9000}}
    readinessProbe:
      httpGet: {{path: /status/200, port: 8080}}
      periodSeconds: 1
      timeoutSeconds: 5
    livenessProbe:
      tcpSocket: {{port: echo}}
      initialDelaySeconds: 5
      periodSeconds: 2
      timeoutSeconds: 5
"""


def pod(namespace, name, sa, node, labels=None, version="v1", annotations=None, container=None):
    labels = {"app": name, "version": version, **(labels or {})}
    notes = f"\n  annotations: {{{', '.join(f'{k}: {v!r}' for k, v in annotations.items())}}}" if annotations else ""
    return f"""
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {sa}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}{notes}
  labels: {{{", ".join(f"{k}: {v!r}" for k, v in labels.items())}}}
spec:
  nodeName: {node}
  serviceAccountName: {sa}
  containers:
  - name: app{container or application(name, version)}"""


def waypoint(namespace, gateway_class):
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: {namespace}
  labels: {{istio.io/waypoint-for: service}}
spec:
  gatewayClassName: {gateway_class}
  listeners:
  - {{name: mesh, port: 15008, protocol: HBONE}}
"""


def service(namespace, name, selector, labels=None):
    label_line = f"\n  labels: {{{', '.join(f'{k}: {v}' for k, v in labels.items())}}}" if labels else ""
    return f"""
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}{label_line}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {{{", ".join(f"{k}: {v}" for k, v in selector.items())}}}
  ports:
  - {{name: http, port: 80, targetPort: http}}
  - {{name: tcp-echo, port: 9000, targetPort: echo}}
"""


def once(text):
    """Drops service accounts that stand twice."""
    seen, out = set(), []
    for document in text.split("\n---\n"):
        key = document.strip()
        if key and key not in seen:
            seen.add(key)
            out.append(document)
    return "\n---\n".join(out)


APPS = once(
    pod("mesh", "client", "client", "node1")
    + pod("mesh", "near", "server", "node1")
    + pod("mesh", "client2", "client", "node2")
    + pod("mesh", "far", "server", "node2")
    + pod("plain", "outsider", "outsider", "node1")
    + pod("plain", "bystander", "bystander", "node2")
    + service("mesh", "near", {"app": "near"})
    + service("mesh", "far", {"app": "far"})
    + service("plain", "bystander", {"app": "bystander"})
)

WEB = once(
    pod("mesh", "web-v1", "web", "node2", {"app": "web"}, "v1")
    + pod("mesh", "web-v2", "web", "node1", {"app": "web"}, "v2")
    + service("mesh", "web", {"app": "web"}, {"istio.io/use-waypoint": "waypoint"})
    + service("mesh", "web-v1", {"app": "web", "version": "v1"})
    + service("mesh", "web-v2", {"app": "web", "version": "v2"})
    + waypoint("mesh", "istio-waypoint")
)


def authorization(name, body, namespace="mesh"):
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {body}
"""


def peer_authentication(mode, namespace="istio-system"):
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: {namespace}}}
spec: {{mtls: {{mode: {mode}}}}}
"""
