# SPDX-License-Identifier: Apache-2.0
"""A node seen from outside: its power switch. A node is a network, mount, PID, UTS, IPC and cgroup
namespace of its own; cutting its power is one SIGKILL, after which its disk (its folder) is what is
left of it, as on a machine."""
import json
import os
import signal
import subprocess

from . import cgroups, control, network
from .names import HERE, IN_NODE, Failed
from .pki import Pki, kubeconfig
from .tools import alive, children, kill, read, tail, wait_for

PYTHON = "/usr/bin/python3"  # one of PATH may lie in a folder that a node does not see
IN_NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net")


def write_disk(cluster, index, bin_folder, archives):
    """What a node finds on its disk when it starts for the first time."""
    for folder in ("disk/upper", "disk/work", "disk/var/lib/containerd", "disk/var/lib/kubelet", "disk/var/lib/cni",
                   "disk/var/log", "disk/var/tmp", "disk/var/cache", "disk/var/spool", "root", "own/log"):
        os.makedirs(cluster.node_path(index, folder))
    os.symlink("../run", cluster.node_path(index, "disk/var/run"))
    os.symlink("../run/lock", cluster.node_path(index, "disk/var/lock"))
    pki, own = Pki(cluster.path("pki")), cluster.node_path(index, "own")
    name = cluster.node_name(index)
    for source, target in ((pki.authority, "ca.crt"), (pki.path(f"{name}.crt"), "node.crt"), (pki.path(f"{name}.key"), "node.key"),
                           (pki.path("proxy.crt"), "proxy.crt"), (pki.path("proxy.key"), "proxy.key")):
        with open(os.path.join(own, target), "w") as f:
            f.write(read(source))
    for part in ("node", "proxy"):
        kubeconfig(os.path.join(own, f"{part}.conf"), control.API, *(f"{IN_NODE}/own/{file}" for file in
                                                                    ("ca.crt", f"{part}.crt", f"{part}.key")))
    with open(os.path.join(own, "settings.json"), "w") as f:
        json.dump({"index": index, "name": name, "ips": [cluster.node_ip(index, family) for family in (0, 1)],
                   "bin": bin_folder, "archives": archives, "root": cluster.node_path(index),
                   "hierarchies": cgroups.hierarchies()}, f, indent=1)


def power_on(cluster, index):
    if alive(outer_pid(cluster, index)):
        raise Failed(f"node{index} is on already")
    network.unplug(cluster, index)
    network.plug_in(cluster, index, cluster.nodes())
    joins = cgroups.make(cluster.netns(f"n{index}"))
    command = ["nsenter", f"--net={cluster.netns_path(f'n{index}')}", "unshare", "--mount", "--pid", "--uts", "--ipc",
               "--cgroup", "--fork", "--kill-child", "--mount-proc", PYTHON, "-B", "-m", "testbed.init",
               cluster.node_path(index, "own/settings.json")]
    with open(cluster.node_path(index, "own/log/init.log"), "a") as log:
        process = cgroups.spawn(command, joins, log)
    with open(cluster.node_path(index, "pid"), "w") as f:
        f.write(str(process.pid))


def power_off(cluster, index):
    """At once, for everything: no process of it gets to say goodbye."""
    if outer_pid(cluster, index):
        kill(outer_pid(cluster, index), signal.SIGKILL)
    cgroups.end(lambda entry: entry == cluster.netns(f"n{index}"))
    network.unplug(cluster, index)


def outer_pid(cluster, index):
    return int(read(cluster.node_path(index, "pid")) or 0)


def init_pid(cluster, index):
    """Process 1 of the node, by its number outside."""
    outer = outer_pid(cluster, index)
    if not alive(outer):
        raise Failed(f"node{index} is off (cluster.py on {index}):\n{tail(cluster.node_path(index, 'own/log/init.log'))}")
    own = os.readlink("/proc/self/ns/pid")

    def find():
        for pid in children(outer):
            try:
                if os.readlink(f"/proc/{pid}/ns/pid") != own:
                    return pid
            except OSError:
                pass
        return None
    return wait_for(f"process 1 of node{index}", find, 60)


def inside(cluster, index, command):
    """The command line that runs a command on the node."""
    return ["nsenter", "-t", str(init_pid(cluster, index)), *IN_NAMESPACES, "--root", "--wd", *command]


def wait_until_ready(cluster, index, since="", seconds=300):
    """Ready as the API server sees it, said by this start of the node (since: a time of before)."""
    def ready():
        if not alive(outer_pid(cluster, index)):
            raise Failed(f"node{index} ended:\n{tail(cluster.node_path(index, 'own/log/init.log'), 15)}")
        return any(time > since for time in control.node_ready(cluster, cluster.node_name(index)))
    wait_for(f"node{index} ready", ready, seconds, 0.1)


def load(cluster, archives):
    """Puts image archives on every node that is on."""
    jobs = []
    for index in cluster.nodes():
        for archive in archives:
            f = open(archive, "rb")
            jobs.append((index, archive, subprocess.Popen(
                inside(cluster, index, ["ctr", "-n", "k8s.io", "images", "import", "-"]), stdin=f,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))
            f.close()
    for index, archive, job in jobs:
        said = job.communicate()[0]
        if job.returncode != 0:
            raise Failed(f"node{index} does not take {archive}: {said.strip()}")
