# SPDX-License-Identifier: Apache-2.0
"""Captures between the nodes: on the ports of the switch, which every packet from node to node passes."""
import os
import subprocess
import time

from .names import Failed
from .tools import read, wait_for


def command(cluster, file):
    cluster.load()
    # Without immediate mode the last second stays in the kernel's buffer, and is lost with the end of tcpdump. In this
    # mode each packet takes as much of the buffer as the longest could: 64 KiB with segmentation offload.
    return ["nsenter", f"--net={cluster.netns_path('cp')}", "nice", "-n", "-10", "tcpdump", "-i", "any", "--immediate-mode",
            "-s", "65600", "-B", "262144", "-w", os.path.abspath(file),
            "net 10.244.0.0/16 or net fd44::/48 or net 10.99.0.0/24 or net fd99::/64"]


class Capture:
    """with Capture(cluster, file): ...   afterwards the file holds every packet that passed between nodes."""

    def __init__(self, cluster, file):
        self.cluster, self.file = cluster, file

    def __enter__(self):
        self.log = open(self.file + ".log", "w+")
        self.process = subprocess.Popen(command(self.cluster, self.file), stderr=self.log, stdout=self.log)
        wait_for("tcpdump listens", lambda: "listening on" in read(self.log.name) or self.process.poll() is not None, 60)
        if self.process.poll() is not None:
            raise Failed(f"tcpdump: {read(self.log.name)}")
        return self

    def __exit__(self, *unused):
        time.sleep(1.5)  # what was sent last is still in the kernel's buffer
        self.process.terminate()
        self.process.wait()
        self.log.close()
        self.said = read(self.log.name)
        if "0 packets dropped by kernel" not in self.said:
            raise Failed(f"the capture is not complete: {self.said}")

    def holds(self, secret):
        """How often the bytes stand in the capture, payloads joined or not."""
        with open(self.file, "rb") as f:
            return f.read().count(secret.encode())

    def count(self, expression):
        """How many packets match a pcap expression."""
        said = subprocess.run(["tcpdump", "-nn", "-r", self.file, expression], capture_output=True, text=True)
        if said.returncode != 0:
            raise Failed(f"tcpdump {expression!r}: {said.stderr}")
        return len(said.stdout.splitlines())
