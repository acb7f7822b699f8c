# SPDX-License-Identifier: Apache-2.0
"""An authority made with the openssl program. Owned by a bed; its files live in the bed's folder."""
import os
import re
import subprocess


def openssl(*args, text=None):
    done = subprocess.run(["openssl", *args], input=text, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(args)}: {done.stderr}")
    return done.stdout


class Authority:
    def __init__(self, folder, name="root", parent=None):
        os.makedirs(folder, exist_ok=True)
        self.folder, self.name, self.parent, self.serial = folder, name, parent, 1000
        self.key, self.cert = self.path(f"{name}.key"), self.path(f"{name}.pem")
        self.new_key(self.key)
        subject = ["-subj", f"/O=Foreign peer/CN={name}"]
        if parent is None:
            openssl("req", "-x509", "-new", "-key", self.key, "-sha256", "-days", "30", *subject, "-out", self.cert,
                    "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        else:
            csr = openssl("req", "-new", "-key", self.key, *subject)
            parent.write(self.cert, parent.sign(csr, "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign"))

    def path(self, file):
        return os.path.join(self.folder, file)

    @staticmethod
    def write(path, text):
        with open(path, "w") as f:
            f.write(text)
        return path

    @staticmethod
    def new_key(path):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)

    def pem(self):
        with open(self.cert) as f:
            return f.read()

    def chain(self):
        """The authorities between a leaf and the root, without it."""
        return [] if self.parent is None else [self.pem(), *self.parent.chain()]

    def sign(self, csr, extensions, days=1):
        self.serial += 1
        stem = self.path(f"{self.name}-{self.serial}")
        self.write(stem + ".ext", extensions)
        self.write(stem + ".csr", csr)
        return openssl("x509", "-req", "-in", stem + ".csr", "-CA", self.cert, "-CAkey", self.key, "-sha256",
                       "-set_serial", str(self.serial), "-days", str(days), "-extfile", stem + ".ext")

    def leaf(self, csr, uris, usage="serverAuth,clientAuth", days=1):
        names = ",".join(f"URI:{uri}" if "://" in uri else uri for uri in uris)
        extensions = f"keyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\nbasicConstraints=critical,CA:FALSE\n"
        return self.sign(csr, extensions + (f"subjectAltName=critical,{names}\n" if names else ""), days)

    def issue(self, label, uris, usage="serverAuth,clientAuth"):
        """A certificate for this peer: (chain file, key file)."""
        key = self.path(f"{label}.key")
        self.new_key(key)
        csr = openssl("req", "-new", "-key", key, "-subj", "/")
        return self.write(self.path(f"{label}.pem"), self.leaf(csr, uris, usage) + "".join(self.chain())), key


def read_csr(csr):
    """What a request says, its signature checked."""
    openssl("req", "-noout", "-verify", text=csr)
    text = openssl("req", "-noout", "-text", "-nameopt", "RFC2253", text=csr)
    names = re.search(r"Subject Alternative Name:( critical)?\s*\n\s*(.*)", text)
    return {"subject": re.search(r"Subject:[ ]*(.*)", text)[1].strip(),
            "names": [n.strip() for n in names[2].split(",")] if names else [],
            "key": re.search(r"Public Key Algorithm: (\S+)", text)[1],
            "curve": (re.search(r"ASN1 OID: (\S+)", text) or [None, None])[1],
            "signature": re.search(r"Signature Algorithm: (\S+)", text)[1],
            "public": openssl("req", "-noout", "-pubkey", text=csr)}
