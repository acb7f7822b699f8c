# SPDX-License-Identifier: Apache-2.0
"""The control plane as in the local mode: a folder of YAML, a status overlay, a CA directory and
the keys of a token issuer, which is this file. And the bootstrap of an Envoy that connects to it."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import time

from bed import HTTP_OPTIONS, OVERLAY, TLS, WAYPOINT_IP, address, any_of

WAYPOINT_POD = """
---
apiVersion: v1
kind: Pod
metadata:
  name: {gateway}-0
  namespace: {namespace}
  uid: uid-{gateway}-0
  labels:
    gateway.networking.k8s.io/gateway-name: {gateway}
    gateway.istio.io/managed: istio.io-mesh-controller
    istio.io/dataplane-mode: none
spec:
  nodeName: node1
  serviceAccountName: {gateway}
  containers: [{{name: proxy}}]
status:
  phase: Running
  podIP: {ip}
  podIPs: [{{ip: {ip}}}]
  conditions: [{{type: Ready, status: "True"}}]
"""


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenIssuer:
    """Signs tokens as an API server signs projected ones (ES256)."""

    def __init__(self, directory):
        self.key = os.path.join(directory, "issuer.pem")
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key],
                       check=True)
        public = subprocess.run(["openssl", "ec", "-in", self.key, "-pubout", "-outform", "DER"],
                                check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        x, y = public[-64:-32], public[-32:]
        self.kid = hashlib.sha256(public).hexdigest()[:16]
        self.jwks = os.path.join(directory, "jwks.json")
        with open(self.jwks, "w") as file:
            json.dump({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
                                 "kid": self.kid, "x": b64(x), "y": b64(y)}]}, file)

    def token(self, namespace, account, pod, uid, node):
        now = int(time.time())
        head = {"alg": "ES256", "kid": self.kid, "typ": "JWT"}
        claims = {"iss": "https://kubernetes.default.svc", "aud": ["istio-ca"], "iat": now - 5, "nbf": now - 5,
                  "exp": now + 3600, "jti": os.urandom(8).hex(),
                  "sub": f"system:serviceaccount:{namespace}:{account}",
                  "kubernetes.io": {"namespace": namespace,
                                    "serviceaccount": {"name": account, "uid": "sa-" + account},
                                    "pod": {"name": pod, "uid": uid}, "node": {"name": node, "uid": "n"}}}
        signed = b64(json.dumps(head).encode()) + "." + b64(json.dumps(claims).encode())
        der = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=signed.encode(),
                             check=True, stdout=subprocess.PIPE).stdout
        # SEQUENCE { INTEGER r, INTEGER s } -> r || s
        r_length = der[3]
        r, s = der[4:4 + r_length], der[6 + r_length:6 + r_length + der[5 + r_length]]
        raw = b"".join(n.lstrip(b"\0").rjust(32, b"\0") for n in (r, s))
        return signed + "." + b64(raw)


class ControlPlane:
    def __init__(self, bed, program, files, namespace, overlay=True):
        self.bed, self.program, self.namespace = bed, program, namespace
        make = lambda name: os.path.join(bed.directory, name)
        self.folder, self.overlay, self.ca = make("yaml"), make("overlay"), make("ca")
        for directory in (self.folder, self.overlay, self.ca):
            os.makedirs(directory)
        for file in files:
            shutil.copy(file, self.folder)
        if overlay:
            shutil.copy(OVERLAY, self.overlay)
        with open(os.path.join(self.overlay, "waypoint.yaml"), "w") as file:
            file.write(WAYPOINT_POD.format(gateway=bed.gateway, namespace=namespace, ip=WAYPOINT_IP))
        self.issuer = TokenIssuer(bed.directory)
        self.process = None

    def start(self):
        # Beside Envoy's waypoint, so that it needs no address of its own.
        self.process = self.bed.start(self.bed.way_ns, [
            self.program, "--source", "folder:" + self.folder, "--overlay", self.overlay,
            "--ca-dir", self.ca, "--token-jwks", self.issuer.jwks, "--listen", "127.0.0.1:15012",
            "--http", "127.0.0.1:8080", "--metrics", "127.0.0.1:15014"], "controlplane")
        until = time.monotonic() + 20
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError("the control plane did not become ready:\n" + self.bed.log("controlplane"))
            time.sleep(0.1)

    def ready(self):
        out = subprocess.run(["ip", "netns", "exec", self.bed.way_ns, "curl", "-s", "-o", "/dev/null", "-m", "2",
                              "-w", "%{http_code}", "http://127.0.0.1:8080/ready"], stdout=subprocess.PIPE)
        return out.stdout == b"200" and os.path.exists(os.path.join(self.ca, "root-cert.pem"))

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.bed.processes = [p for p in self.bed.processes if p[1] is not self.process]

    def debug(self, path):
        out = self.bed.run_in(self.bed.way_ns, ["curl", "-s", "-m", "5", "http://127.0.0.1:8080" + path],
                              stdout=subprocess.PIPE)
        return json.loads(out.stdout)

    def write(self, name, text, overlay=False):
        """Replaces or adds a file at once, as an editor or a git checkout does."""
        directory = self.overlay if overlay else self.folder
        path = os.path.join(directory, name)
        with open(path + ".tmp", "w") as file:
            file.write(text)
        os.rename(path + ".tmp", path)

    def remove(self, name):
        os.unlink(os.path.join(self.folder, name))

    def bootstrap(self):
        """For an Envoy that is told nothing but where the control plane is and who it is itself."""
        bed, ns = self.bed, self.namespace
        certificates = bed.authority
        pod, uid = bed.gateway + "-0", f"uid-{bed.gateway}-0"
        token = self.issuer.token(ns, bed.gateway, pod, uid, "node1")
        config = {
            "node": {"id": f"waypoint~{WAYPOINT_IP}~{pod}.{ns}~{ns}.svc.cluster.local", "cluster": bed.gateway,
                     "metadata": {"NAMESPACE": ns, "SERVICE_ACCOUNT": bed.gateway, "CLUSTER_ID": "Kubernetes"}},
            "admin": {"address": address("127.0.0.1", 15000)},
            "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": any_of(
                "envoy.extensions.bootstrap.internal_listener.v3.InternalListener")}],
            # As Istio's bootstrap: users' regular expressions may be longer than Envoy's default.
            "layered_runtime": {"layers": [{"name": "static", "static_layer": {
                "re2.max_program_size.error_level": 32768}}]},
            "dynamic_resources": {
                "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{
                    "envoy_grpc": {"cluster_name": "xds"},
                    "initial_metadata": [{"key": "authorization", "value": "Bearer " + token}]}]},
                "lds_config": {"ads": {}, "resource_api_version": "V3"},
                "cds_config": {"ads": {}, "resource_api_version": "V3"}},
            "static_resources": {
                "secrets": [
                    {"name": "default", "tls_certificate": {
                        "certificate_chain": {"filename": certificates.path("waypoint.pem")},
                        "private_key": {"filename": certificates.path("waypoint.key")}}},
                    {"name": "ROOTCA", "validation_context": {
                        "trusted_ca": {"filename": os.path.join(self.ca, "root-cert.pem")}}}],
                "clusters": [{
                    "name": "xds", "type": "STATIC", "connect_timeout": "2s",
                    "typed_extension_protocol_options": {HTTP_OPTIONS: any_of(HTTP_OPTIONS, explicit_http_config={
                        "http2_protocol_options": {}})},
                    "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [
                        {"endpoint": {"address": address("127.0.0.1", 15012)}}]}]},
                    "transport_socket": {"name": "tls", "typed_config": any_of(
                        TLS + "UpstreamTlsContext", sni="istiod.istio-system.svc", common_tls_context={
                            "alpn_protocols": ["h2"],
                            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                            "validation_context": {
                                "trusted_ca": {"filename": os.path.join(self.ca, "root-cert.pem")},
                                "match_typed_subject_alt_names": [{
                                    "san_type": "DNS", "matcher": {"exact": "istiod.istio-system.svc"}}]}})}}]}}
        path = os.path.join(bed.directory, "waypoint.json")
        with open(path, "w") as file:
            json.dump(config, file)
        return path

    def rejected(self):
        """What Envoy refused of what it was told, by its own count."""
        stats = self.bed.stats("update_rejected")
        return {name: value for name, value in stats.items() if value != "0"}
