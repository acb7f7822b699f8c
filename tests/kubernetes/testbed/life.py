# SPDX-License-Identifier: Apache-2.0
"""up, down, reboot, status: the life of a cluster as a whole."""
import fcntl
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

from . import build, cgroups, control, images, network, node
from .names import CLUSTERS, HERE, Cluster, Failed, say
from .tools import alive, read, run, wait_for

NEEDED = {"containerd": "containerd", "runc": "runc", "/usr/lib/cni/ptp": "containernetworking-plugins",
          "/bin/busybox": "busybox-static", "iptables": "iptables", "nft": "nftables", "openssl": "openssl",
          "nsenter": "util-linux", "ip": "iproute2", "curl": "curl", "/usr/bin/python3": "python3"}


def check_machine():
    if os.geteuid() != 0:
        raise Failed("a cluster needs root: namespaces, mounts, control groups")
    missing = sorted({package for program, package in NEEDED.items() if not shutil.which(program)})
    if missing:
        raise Failed(f"missing packages: apt-get install --no-install-recommends {' '.join(missing)}")


@contextmanager
def locked(cluster):
    """One up, down or reboot of a cluster at a time. The lock ends with its process, however that ends."""
    os.makedirs(CLUSTERS, exist_ok=True)
    with open(os.path.join(CLUSTERS, f".{cluster.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


INOTIFY, ENOUGH = "/proc/sys/fs/inotify/max_user_instances", 1024
INOTIFY_BEFORE = os.path.join(CLUSTERS, ".max_user_instances")


def raise_limits():
    """The one setting of the machine that clusters need: each kubelet and containerd watches files, and
    they all count as root's. What it was is written down, for restore_limits()."""
    before = int(read(INOTIFY, "0"))
    if 0 < before < ENOUGH:
        with open(INOTIFY_BEFORE, "w") as f:
            f.write(str(before))
        with open(INOTIFY, "w") as f:
            f.write(str(ENOUGH))


def restore_limits():
    """With the last cluster, unless somebody else has changed the setting since."""
    before = read(INOTIFY_BEFORE)
    if before and not all_clusters():
        if int(read(INOTIFY)) == ENOUGH:
            with open(INOTIFY, "w") as f:
                f.write(before)
        os.unlink(INOTIFY_BEFORE)


class Clock:
    def __init__(self):
        self.start = time.monotonic()

    def tell(self, text):
        say(f"{time.monotonic() - self.start:6.1f} s  {text}")


def up(cluster, nodes=2, archives=(), dns=True, gateway_api=True):
    check_machine()
    clock = Clock()
    with locked(cluster):
        if cluster.exists() and any(alive(pid) for pid in cluster.load().get("pids", {}).values()):
            raise Failed(f"cluster {cluster.name!r} is up: cluster.py down --name {cluster.name}")
        take_down(cluster)
        cold = not os.path.exists(os.path.join(build.folder(), "bin"))
        bin_folder = build.programs()
        definitions = build.gateway_api() if gateway_api else None
        clock.tell(f"Kubernetes {build.version()}, {'built' if cold else 'from the cache'}")
        standard = images.standard()
        clock.tell(f"{len(standard)} images of the cluster's own")
        indices = range(1, nodes + 1)
        make_folder(cluster)
        os.makedirs(cluster.path("log"))
        raise_limits()
        cluster.store({"name": cluster.name, "nodes": nodes})
        network.make_switch(cluster, indices)
        control.make_certificates(cluster, indices)
        control.prepare(cluster, bin_folder)
        for part in ("etcd", "kube-apiserver", "entry"):
            control.start(cluster, part)
        for index in indices:
            node.write_disk(cluster, index, bin_folder, standard)
            node.power_on(cluster, index)
        control.wait_until_ready(cluster)
        clock.tell("API server ready")
        for part in ("kube-controller-manager", "kube-scheduler"):
            control.start(cluster, part)
        if dns:
            kubectl(cluster, "apply", "-f", os.path.join(HERE, "dns.yaml"))
        if definitions:
            kubectl(cluster, "apply", "--server-side", "-f", definitions)
        for index in indices:
            node.wait_until_ready(cluster, index)
            clock.tell(f"node {cluster.node_name(index)} ready")
        if archives:
            node.load(cluster, archives)
            clock.tell(f"{len(archives)} images loaded")
        if dns:
            wait_for("cluster DNS ready", lambda: dns_ready(cluster), 180)
            clock.tell("cluster DNS ready")
    say(f"export KUBECONFIG={cluster.kubeconfig}")


def make_folder(cluster):
    """Its folder, on what can hold the written side of an overlay: where the machine's own root is an
    overlay (a container) that is memory."""
    os.makedirs(cluster.folder)
    if run("stat", "--file-system", "--format=%T", cluster.folder).strip() == "overlayfs":
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", cluster.folder)


def kubectl(cluster, *args):
    return run(os.path.join(cluster.load()["bin"], "kubectl"), "--kubeconfig", cluster.kubeconfig, *args)


def dns_ready(cluster):
    found = control.Api(cluster).get("/apis/apps/v1/namespaces/kube-system/deployments/coredns") or {}
    return found.get("status", {}).get("readyReplicas")


def down(cluster):
    clock = Clock()
    with locked(cluster):
        there = take_down(cluster)
        restore_limits()
        if there:
            clock.tell(f"cluster {cluster.name!r} is gone")
        else:
            say(f"there is no cluster {cluster.name!r}")


def take_down(cluster):
    """Ends and removes whatever carries the cluster's name; works without cluster.json. True if there was any."""
    there = leftovers(cluster)
    for _ in range(30):  # again while a child of an `up` that was killed is still at its one errand
        cgroups.end(cluster.owns)
        network.remove(cluster)
        if os.path.ismount(cluster.folder):
            subprocess.run(["umount", "--lazy", cluster.folder], check=False)
        if os.path.lexists(cluster.folder):
            cgroups.remove_tree(cluster.folder)
        if not leftovers(cluster):
            break
        time.sleep(0.1)
    return bool(there)


def leftovers(cluster):
    """Everything on this machine that carries the cluster's name: nothing after `down`."""
    found = cgroups.groups(cluster.owns)
    found += [f"/run/netns/{name}" for name in (os.listdir("/run/netns") if os.path.isdir("/run/netns") else [])
              if cluster.owns(name)]
    found += [cluster.folder] if os.path.lexists(cluster.folder) else []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        command = read(f"/proc/{pid}/cmdline")
        if cluster.folder + "/" in command and int(pid) != os.getpid():
            found.append(f"process {pid}: " + command.replace("\0", " "))
    found += [line.split()[4] for line in read("/proc/self/mountinfo").splitlines()
              if line.split()[4] == cluster.folder or cluster.folder + "/" in line]
    return found


def reboot(cluster, index, pause=0.0):
    """Power off, power on; returns when the API server calls the node ready again."""
    clock = Clock()
    with locked(cluster):
        before = max(control.node_ready(cluster, cluster.node_name(index)), default="")
        node.power_off(cluster, index)
        clock.tell(f"node{index} is off")
        time.sleep(pause)
        node.power_on(cluster, index)
        node.wait_until_ready(cluster, index, before)
        clock.tell(f"node{index} ready")


def status(cluster):
    facts = cluster.load()
    print(f"cluster     {cluster.name}, Kubernetes {build.version()}, {cluster.folder}")
    print(f"kubeconfig  {cluster.kubeconfig}")
    for part in facts["commands"]:
        pid = facts["pids"].get(part, 0)
        print(f"{part:24} {f'process {pid}' if alive(pid) else 'DOWN, see ' + cluster.path('log', part + '.log')}")
    for index in cluster.nodes():
        pid = node.outer_pid(cluster, index)
        ready = bool(control.node_ready(cluster, cluster.node_name(index)))
        print(f"node n{index:<19} {f'process {pid}' if alive(pid) else 'OFF'}, {'ready' if ready else 'not ready'}, "
              f"logs in {cluster.node_path(index, 'own/log')}")


def all_clusters():
    return [Cluster(name) for name in sorted(os.listdir(CLUSTERS)) if not name.startswith(".")] if os.path.isdir(CLUSTERS) else []
