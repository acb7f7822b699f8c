#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tokens and certificates that are expired, revoked or no longer believed: who is refused says so, with the place and
the remedy; running traffic and policies stay, and all goes on when credentials are good again."""
import base64
import json
import os
import subprocess
import time
import unittest

from harness import BIN, SYSTEM
import ca_client
from bed import outcome
from fixture import authorization, pod
from prober import Prober
from scene import Scene
from testbed import control
from testbed.tools import read, run

NOBODY = authorization("nobody-to-near", """
  action: DENY
  selector: {matchLabels: {app: near}}
  rules:
  - from: [{source: {namespaces: ["mesh"]}}]
""")


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Tokens(Scene):
    NAME = "tokens"

    def as_user(self, user):
        """What qanatctl says with these credentials in its kubeconfig, which are refused."""
        path = os.path.join(self.bench.folder, "kubeconfig")
        config = json.loads(self.bench.kubectl("config", "view", "--raw", "--minify", "-o", "json").stdout)
        config["users"][0]["user"] = user
        with open(path, "w") as f:
            json.dump(config, f)
        done = subprocess.run([os.path.join(BIN, "qanatctl"), "status", "--kubeconfig", path], capture_output=True, text=True, timeout=60)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertIn(path, done.stderr)
        return done.stderr

    def sign(self, claims):
        """A service account token as the API server would have made it."""
        head = base64url(json.dumps({"alg": "RS256"}).encode()) + "." + base64url(json.dumps(claims).encode())
        signed = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.bench.cluster.path("pki", "sa.key")],
                                input=head.encode(), capture_output=True, check=True).stdout
        return head + "." + base64url(signed)

    def test_1_qanatctl_with_a_token_that_expired(self):
        now = int(time.time())
        said = self.as_user({"token": self.sign({
            "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["https://kubernetes.default.svc.cluster.local"],
            "sub": "system:serviceaccount:default:default", "iat": now - 7200, "nbf": now - 7200, "exp": now - 3600,
            "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "default", "uid": "x"}}})})
        self.assertRegex(said, "401.*the token of .* expired at 20.*kubectl create token")

    def test_2_qanatctl_with_a_token_that_was_revoked(self):
        self.bench.kubectl("create", "serviceaccount", "short", "-n", "default")
        token = self.bench.kubectl("create", "token", "short", "-n", "default").stdout.strip()
        self.bench.kubectl("delete", "serviceaccount", "short", "-n", "default")
        self.assertRegex(self.as_user({"token": token}), "401.*would last until .*revoked.*kubectl create token")

    def test_3_qanatctl_with_a_certificate_that_expired(self):
        path = lambda name: os.path.join(self.bench.folder, name)
        pki = self.bench.cluster.path
        run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
            "/O=system:masters/CN=late", "-keyout", path("late.key"), "-out", path("late.csr"))
        run("openssl", "x509", "-req", "-in", path("late.csr"), "-CA", pki("pki", "ca.crt"), "-CAkey", pki("pki", "ca.key"),
            "-set_serial", "7", "-days", "-1", "-out", path("late.crt"))
        said = self.as_user({"client-certificate": path("late.crt"), "client-key": path("late.key")})
        self.assertRegex(said, "401.*the client certificate of .* expired at 20.*put a new one")

    def ask_as_the_proxy_of(self, node, account):
        """A certificate for this account of the namespace mesh, by the token that node's proxy has in its container."""
        (proxy,) = self.bench.part("ztunnel", node)
        mine = f"/proc/{self.bench.container(f'{SYSTEM}/{proxy}')[0]}/root/var/run/secrets"
        identity = f"spiffe://cluster.local/ns/mesh/sa/{account}"
        return self.bench.call_outside(ca_client.ask, self.bench.ip(f"{SYSTEM}/{self.bench.part('qanat-controlplane')[0]}"),
                                       read(f"{mine}/istio/root-cert.pem"), read(f"{mine}/tokens/istio-token"), identity)

    def test_3b_a_node_proxys_token_is_good_for_the_pods_of_its_node(self):
        self.bench.apply(pod("mesh", "alone", "alone", "node1"))
        self.bench.wait("alone is enrolled", lambda: self.bench.ready("mesh", "app=alone") and self.bench.enrolled("mesh"))
        for node, account in ((1, "alone"), (1, "server"), (2, "server")):
            granted = (ca_client.OK, "", f"URI:spiffe://cluster.local/ns/mesh/sa/{account}")
            self.assertEqual(self.ask_as_the_proxy_of(node, account), granted, node)
        status, said, names = self.ask_as_the_proxy_of(2, "alone")
        self.assertEqual((status, names), (ca_client.PERMISSION_DENIED, ""), said)
        self.assertIn("no pod on node node2 runs as mesh/alone", said)
        self.wait_for_log("qanat-controlplane", "certificate refused to qanat-system/ztunnel on node2: no pod on node node2 runs as mesh/alone")
        self.assertEqual(self.ask_as_the_proxy_of(1, "nobody")[0], ca_client.PERMISSION_DENIED)

    def ztunnels_listed(self):
        done = self.bench.ctl("status", "-o", "json", check=False)
        return {c["pod"] for c in json.loads(done.stdout)["clients"]} & set(self.bench.part("ztunnel"))

    def test_4_a_proxy_whose_token_was_revoked(self):
        account = self.bench.get(f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/ztunnel")
        with self.unharmed():
            self.bench.kubectl("delete", "serviceaccount", "-n", SYSTEM, "ztunnel")
            account["metadata"] = {k: account["metadata"][k] for k in ("name", "namespace", "labels")}
            self.bench.kubectl("create", "-f", "-", input=json.dumps(account))
            time.sleep(11)  # so long the API server itself believes a token that it has once accepted
            # Streams that run stay; new ones need the token.
            self.bench.kubectl("delete", "pod", "-n", SYSTEM, "-l", "app=qanat-controlplane", "--wait=false")
            self.wait_for_log("ztunnel", r"stream to https://qanat-controlplane\S+:15012 failed \(UNAUTHENTICATED: .*kubectl rollout restart.*"
                                         r"what is known stays in force", 60)
            self.wait_for_log("qanat-controlplane", r"stream of .* ended: the API server does not accept the token", 30)
            self.bench.wait("control planes are ready", lambda: self.bench.ready(SYSTEM, "app=qanat-controlplane", 2))
            self.assertRegex(self.said("status"), r"ztunnel-node1 is connected to no control plane.*kubectl logs")
        # the remedy that was named; connections of a proxy that ends may end with it, but nothing opens
        old = set(self.bench.part("ztunnel"))
        with Prober(self.bench, "mesh/near", outcome, self.bench.ip("mesh/far"), 9000, b"x", 3, seconds=200) as near:
            self.bench.kubectl("rollout", "restart", "daemonset/ztunnel", "-n", SYSTEM)
            self.bench.wait("others are there", lambda: not old & set(self.bench.part("ztunnel")) and
                            self.bench.ready(SYSTEM, "app=ztunnel", 2), 150)
            self.assertNotIn("ok", [each[2] for each in near.seen()])
        self.bench.wait("both are listed again", lambda: len(self.ztunnels_listed()) == 2)
        self.assertIn("all is well", self.bench.ctl("status").stdout)

    def believe(self, key):
        """The API server signs and checks tokens with this key from now on."""
        facts = self.bench.cluster.load()
        path = self.bench.cluster.path("pki", key)
        facts["commands"]["kube-apiserver"] = [
            f"{arg.partition('=')[0]}={path}" if arg.startswith(("--service-account-key-file", "--service-account-signing-key-file"))
            else arg for arg in facts["commands"]["kube-apiserver"]]
        self.bench.cluster.store(facts)
        control.stop(self.bench.cluster, "kube-apiserver")
        control.start(self.bench.cluster, "kube-apiserver")
        control.wait_until_ready(self.bench.cluster)

    def test_5_no_token_of_the_cluster_is_believed(self):
        run("openssl", "genrsa", "-out", self.bench.cluster.path("pki", "other.key"), "2048")
        started = self.bench.restarts(SYSTEM)
        rejected = r"401 Unauthorized.*the token in /var/run/secrets/kubernetes.io/serviceaccount/token would last until .*read again with every try"
        with self.unharmed():
            self.believe("other.key")
            try:
                self.wait_for_log("qanat-agent", rejected)
                self.wait_for_log("qanat-controlplane", rejected)
                time.sleep(12)  # past the lease's deadline
                self.assertTrue(self.bench.ready(SYSTEM, "app=qanat-controlplane", 2), "proxies are served what is known")
            finally:
                self.believe("sa.key")
            self.bench.apply(NOBODY)
            took = self.bench.wait("a change arrives again", lambda: self.bench.call(
                "mesh/client", outcome, self.bench.ip("mesh/near"), 9000, b"x", 3) != "ok", 60)
            print(f"the next change arrives {took:.0f} s after the tokens are good again", flush=True)
            self.bench.wait("all is well", lambda: self.bench.ctl("status", check=False).returncode == 0 and
                            self.bench.ctl("verify", check=False).returncode == 0, 60)
        self.assertEqual(self.bench.restarts(SYSTEM), started, "nobody had to be started again")


if __name__ == "__main__":
    unittest.main(verbosity=2)
