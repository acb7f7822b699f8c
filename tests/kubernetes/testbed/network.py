# SPDX-License-Identifier: Apache-2.0
"""The network of a cluster: one namespace for the control plane, which is also the nodes' switch, and
one for each node. Routes instead of an overlay, no address is rewritten between nodes. Tests run in
the control plane's namespace and reach nodes, pods and (through node 1) services."""
import os
import subprocess

from .names import NODE_NET, SERVICE_NET, pods_of
from .tools import run, wait_for

# A node forwards, and its addresses are usable at once.
NODE_SYSCTLS = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")


def batch(netns, lines):
    run("ip", "-n", netns, "-batch", "-", input="\n".join(lines) + "\n")


def sysctl(netns_path, settings):
    run("nsenter", f"--net={netns_path}", "sysctl", "-qw", *settings)


def make_switch(cluster, nodes):
    cp = cluster.netns("cp")
    run("ip", "netns", "add", cp)
    sysctl(cluster.netns_path("cp"), NODE_SYSCTLS[2:])
    batch(cp, ["link set lo up", "link add br0 type bridge", "link set br0 up",
               f"addr add {NODE_NET[0]}1/24 dev br0", f"addr add {NODE_NET[1]}1/64 dev br0 nodad",
               *(f"route add {net} via {cluster.node_ip(1, family)}" for family, net in enumerate(SERVICE_NET)),
               *(f"route add {net} via {cluster.node_ip(i, family)}"
                 for i in nodes for family, net in enumerate(pods_of(i)))])


def plug_in(cluster, index, nodes):
    """Makes node I's namespace and connects it to the switch as port I. Its hardware address is the same each time, as
    that of a machine is: others would send to the one of before for up to a minute."""
    node, port, address = cluster.netns(f"n{index}"), f"port{index}", f"02:00:00:00:00:{index:02x}"
    run("ip", "netns", "add", node)
    sysctl(cluster.netns_path(f"n{index}"), NODE_SYSCTLS)
    batch(node, ["link set lo up", f"link add eth0 address {address} type veth peer name {port} netns {cluster.netns('cp')}"])
    batch(cluster.netns("cp"), [f"link set {port} master br0 up"])
    batch(node, [f"addr add {cluster.node_ip(index)}/24 dev eth0",
                 f"addr add {cluster.node_ip(index, 1)}/64 dev eth0 nodad", "link set eth0 up",
                 *(f"route add default via {net}1" for net in NODE_NET),
                 *(f"route add {net} via {cluster.node_ip(other, family)}"
                   for other in nodes if other != index for family, net in enumerate(pods_of(other)))])


def unplug(cluster, index):
    if os.path.exists(cluster.netns_path(f"n{index}")):
        run("ip", "netns", "del", cluster.netns(f"n{index}"))
    # The kernel takes the namespace's devices down some time later, or just now; the port's name is wanted at once.
    link = ["ip", "-n", cluster.netns("cp"), "-o", "link"]

    def gone():
        if f"port{index}@" not in run(*link):
            return True
        subprocess.run([*link, "del", f"port{index}"], capture_output=True, check=False)
        return False
    wait_for(f"port{index} is gone", gone, 60)


def remove(cluster):
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else []:
        if cluster.owns(name):
            run("ip", "netns", "del", name)
