# SPDX-License-Identifier: Apache-2.0
"""One certificate authority for a cluster, and a client certificate with a kubeconfig for each part."""
import os
import secrets

from .names import API_SERVICE, NODE_NET
from .tools import run

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
SERVER_NAMES = ("DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                "DNS:kubernetes.default.svc.cluster.local", "DNS:localhost", "IP:127.0.0.1",
                f"IP:{API_SERVICE}", f"IP:{NODE_NET[0]}1", f"IP:{NODE_NET[1]}1")


def kubeconfig(path, server, authority, certificate, key):
    with open(path, "w") as f:
        f.write(f"""apiVersion: v1
kind: Config
clusters: [{{name: testbed, cluster: {{server: "{server}", certificate-authority: "{authority}"}}}}]
users: [{{name: testbed, user: {{client-certificate: "{certificate}", client-key: "{key}"}}}}]
contexts: [{{name: testbed, context: {{cluster: testbed, user: testbed}}}}]
current-context: testbed
""")


class Pki:
    def __init__(self, folder):
        self.folder = folder
        self.authority = self.path("ca.crt")

    def path(self, name):
        return os.path.join(self.folder, name)

    def make_authority(self):
        os.makedirs(self.folder)
        run("openssl", "req", "-x509", *KEY, "-days", "3650", "-subj", "/CN=testbed", "-keyout", self.path("ca.key"),
            "-out", self.authority)
        run("openssl", "genrsa", "-out", self.path("sa.key"), "2048")

    def issue(self, name, subject, names=()):
        """Makes NAME.crt and NAME.key."""
        extensions = self.path(f"{name}.ext")
        with open(extensions, "w") as f:
            f.write("extendedKeyUsage=serverAuth,clientAuth\n" + (f"subjectAltName={','.join(names)}\n" if names else ""))
        request = self.path(f"{name}.csr")
        run("openssl", "req", "-new", *KEY, "-subj", subject, "-keyout", self.path(f"{name}.key"), "-out", request)
        run("openssl", "x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", self.path("ca.key"),
            "-set_serial", str(secrets.randbits(64)), "-days", "3650", "-out", self.path(f"{name}.crt"), "-extfile", extensions)
        os.unlink(request)
        os.unlink(extensions)

    def client(self, name, subject, server):
        """Makes the certificate and NAME.conf, a kubeconfig with it."""
        self.issue(name, subject)
        kubeconfig(self.path(f"{name}.conf"), server, self.authority, self.path(f"{name}.crt"), self.path(f"{name}.key"))
        return self.path(f"{name}.conf")
