# SPDX-License-Identifier: Apache-2.0
"""The programs of the build under test as another version of them: the same bytes but for the number that they call
themselves by. What differs in an upgrade to it is only what is looked at."""
import os
import re
import subprocess
import sys

from harness import BIN, ROOT
from testbed import node

PROGRAMS = {"agent": ("qanat-agent", "qanat-cni"), "controlplane": ("qanat-controlplane",), "ztunnel": ("qanat-ztunnel",)}


def present():
    """The version of the build under test."""
    said = subprocess.run([os.path.join(BIN, "qanat-controlplane"), "--version"], capture_output=True, text=True, check=True)
    return re.search(r"\d+\.\d+\.\d+", said.stdout)[0]


def load_next(bench, *images):
    """Puts these images on the nodes as those of a next version, and says which that is."""
    old = present()
    major, minor, patch = old.split(".")
    new = f"{major}.{(int(minor) + 1) % 10}.{patch}"
    for program in (program for image in images for program in PROGRAMS[image]):
        with open(os.path.join(BIN, program), "rb") as f:
            # not LIBBPF_0.1.0, by which the loader knows symbols
            content = re.sub(rb"(?<![\w.])" + re.escape(old.encode()) + rb"(?![\w.])", new.encode(), f.read())
        with open(os.path.join(bench.folder, program), "wb") as f:
            f.write(content)
        os.chmod(os.path.join(bench.folder, program), 0o755)
    subprocess.run([sys.executable, os.path.join(ROOT, "deploy/images/build.py"), "--bin-dir", bench.folder,
                    "--out", bench.folder, "--tag", new, *images], check=True, stdout=subprocess.DEVNULL)
    node.load(bench.cluster, [os.path.join(bench.folder, f"{image}.tar") for image in images])
    return new
