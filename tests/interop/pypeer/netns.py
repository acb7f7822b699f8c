# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: made with ip, entered by the calling thread for as long as a socket is made."""
import contextlib
import ctypes
import os
import socket
import subprocess

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def run(command, text=None):
    done = subprocess.run(command if isinstance(command, list) else command.split(), input=text, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout


@contextlib.contextmanager
def entered(name):
    """The calling thread inside of the namespace."""
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for_now(there)
        yield
    finally:
        for_now(back)
        os.close(there)
        os.close(back)


def for_now(fd):
    if LIBC.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def listen(name, address, port, backlog=256):
    with entered(name):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    sock.listen(backlog)
    return sock


def connect(name, address, port, timeout=60, source=None):
    with entered(name):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.settimeout(timeout)
    if source:
        sock.bind((source, 0))
    try:
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class Pod:
    """A namespace with an address of each family on the node's bridge."""

    def __init__(self, node, name, last):
        self.name, self.ip, self.ip6 = f"{node}{name}", f"10.77.0.{last}", f"fd77::{last}"
        run(f"ip netns add {self.name}")
        link = f"v{last}"
        run(f"ip -n {node} link add {link} type veth peer name eth0 netns {self.name}")
        run(f"ip -n {node} link set {link} master br0 up")
        run(["ip", "netns", "exec", self.name, "sh", "-c", f"""set -e
            sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.accept_dad=0
            ip link set lo up && ip link set eth0 up
            ip addr add {self.ip}/24 dev eth0 && ip addr add {self.ip6}/64 dev eth0 nodad
            ip route add default via 10.77.0.1 && ip route add default via fd77::1"""])

    def capture(self):
        """The rules of the reference, section 1.2, without DNS and probes."""
        for v6 in (False, True):
            local = "::1/128" if v6 else "127.0.0.1/32"
            run(["ip", "netns", "exec", self.name, "ip6tables-restore" if v6 else "iptables-restore", "--noflush"], f"""*mangle
-A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
-A PREROUTING ! -d {local} -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
-A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A OUTPUT ! -d {local} -o lo -j ACCEPT
-A OUTPUT ! -d {local} -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
""")
            family = "-6" if v6 else "-4"
            run(f"ip -n {self.name} {family} rule add fwmark 0x111/0xfff pref 32764 lookup 100")
            run(f"ip -n {self.name} {family} route add local {'::/0' if v6 else '0.0.0.0/0'} dev lo table 100")


def make_node(node):
    """The node's namespace with its bridge, on which pods stand."""
    run(f"ip netns add {node}")
    run(["ip", "netns", "exec", node, "sh", "-c", """set -e
        sysctl -qw net.ipv6.conf.all.disable_ipv6=0
        ip link set lo up && ip link add br0 type bridge && ip link set br0 up
        ip addr add 10.77.0.1/24 dev br0 && ip addr add fd77::1/64 dev br0 nodad"""])
