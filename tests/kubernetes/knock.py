# SPDX-License-Identifier: Apache-2.0
"""What a test asks while a node starts again: is a pod open to anybody, at the addresses that it really has by now
(the API server tells those of before for some time), and does the cluster's DNS answer."""
import glob
import os
import re
import selectors
import socket
import struct
import time

from testbed.names import DNS_SERVICE
from testbed.tools import read

GREETS = 9001  # app.py says its name here, unasked: who is open is known by name
PATIENCE = 1.0


def addresses_of(group):
    """The pods' addresses in the network namespaces that processes of this control group and those below are in."""
    found = set()
    for file in glob.glob(f"{group}/*/cgroup.procs"):
        for pid in read(file).split():
            found.update(re.findall(r"-- (10\.244\.\S+)\n\s+/32 host LOCAL", read(f"/proc/{pid}/net/fib_trie")))
            for line in read(f"/proc/{pid}/net/if_inet6").splitlines():
                if line.startswith("fd44"):
                    found.add(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])))
    return found


class Knock:
    """Each call begins a connection to every address that the pod has at that moment, waits for none of them, and gives
    how those that have ended since the last call did: [[address, outcome], ...]"""

    def __init__(self, group):
        self.group, self.selector = group, None

    def __call__(self):
        self.selector = self.selector or selectors.DefaultSelector()
        ended = []
        for address in addresses_of(self.group):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            sock.setblocking(False)
            sock.connect_ex((address, GREETS))
            self.selector.register(sock, selectors.EVENT_READ, (address, time.monotonic()))
        for key, _ in self.selector.select(0):
            try:
                said = key.fileobj.recv(100).decode().strip() or "closed"
            except OSError as error:
                said = type(error).__name__
            ended.append((key, said))
        late = time.monotonic() - PATIENCE
        done = {key.fileobj for key, _ in ended}
        ended += [(key, "silence") for key in list(self.selector.get_map().values())
                  if key.data[1] < late and key.fileobj not in done]
        for key, _ in ended:
            self.selector.unregister(key.fileobj)
            key.fileobj.close()
        return [[key.data[0], said] for key, said in ended]


def dns_answers(name="far.mesh.svc.cluster.local", timeout=0.5):
    """Whether the cluster's DNS has an address for the name, asked once."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = os.urandom(2) + struct.pack(">5H", 0x100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.sendto(question, (DNS_SERVICE, 53))
            said = sock.recv(512)
        except OSError:
            return False
    return said[:2] == question[:2] and struct.unpack_from(">H", said, 6)[0] > 0
