# SPDX-License-Identifier: Apache-2.0
"""Process 1 of a node: init.py SETTINGS.json. Started in namespaces of its own (node.py), it gives the
node a root file system, runs containerd, kubelet and kube-proxy, and collects what is left to it.

The node's root is the machine's, read through an overlay: what anything on the node writes (a CNI
plugin in /opt/cni/bin, a pin, a cache) stays on the node's own disk, where a test finds all of it.
/var is the node's alone, /run is empty at each start, /sys shows the node's namespaces."""
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time

from .names import API_SERVICE, DNS_SERVICE, IN_NODE, NODE_NET, POD_NET, pods_of
from .tools import read, run

MNT_DETACH = 2
# Settings of the whole machine that a kubelet writes; here it gets files with the same values instead.
MACHINE_SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
                    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


def make_root(settings):
    """Mounts the node's root and moves into it."""
    base, hierarchies = settings["root"], settings["hierarchies"]
    root, disk = f"{base}/root", f"{base}/disk"
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={disk}/upper,workdir={disk}/work", root)
    for folder in ("bin", "own", "images"):
        os.makedirs(f"{root}{IN_NODE}/{folder}", exist_ok=True)
    for folder in ("/etc/cni/net.d", "/opt/cni/bin", "/run", "/tmp"):
        os.makedirs(root + folder, exist_ok=True)
    for source, target in ((settings["bin"], "/testbed/bin"), (f"{base}/own", "/testbed/own"), (f"{disk}/var", "/var"),
                           (os.path.dirname(settings["archives"][0]), "/testbed/images")):
        run("mount", "--bind", source, root + target)
    run("mount", "--rbind", "/dev", f"{root}/dev")
    run("mount", "--bind", "/proc", f"{root}/proc")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{root}/run")
    run("mount", "-t", "tmpfs", "tmpfs", f"{root}/tmp")
    for folder in ("run/netns", "run/lock"):
        os.makedirs(f"{root}/{folder}")
    mount_sys(f"{root}/sys", hierarchies)
    os.chdir(root)
    os.makedirs("run/old")
    run("pivot_root", ".", "run/old")
    os.chroot(".")
    os.chdir("/")
    # Nothing of the machine's mounts stays, other tests' namespace files among them.
    if ctypes.CDLL(None, use_errno=True).umount2(b"/run/old", MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "umount of the machine's root")
    os.rmdir("/run/old")
    run("mount", "--make-rshared", "/")
    for name in MACHINE_SETTINGS:
        path, copy = f"/proc/sys/{name}", f"/run/sys-{name.replace('/', '-')}"
        if os.path.exists(path):
            write(copy, read(path))
            run("mount", "--bind", copy, path)


def mount_sys(sys_folder, hierarchies):
    """A sysfs of this network namespace, a bpffs, and the control groups as this cgroup namespace sees them."""
    run("mount", "-t", "sysfs", "sysfs", sys_folder)
    run("mount", "-t", "bpf", "bpf", f"{sys_folder}/fs/bpf")
    if list(hierarchies) == ["/sys/fs/cgroup"]:
        run("mount", "-t", "cgroup2", "cgroup2", f"{sys_folder}/fs/cgroup")
        delegate(f"{sys_folder}/fs/cgroup")
        return
    run("mount", "-t", "tmpfs", "tmpfs", f"{sys_folder}/fs/cgroup")
    for path, kind in hierarchies.items():
        if os.path.dirname(path) != "/sys/fs/cgroup":
            continue
        target = f"{sys_folder}/fs/cgroup/{os.path.basename(path)}"
        os.makedirs(target)
        options = {"unified": [], "systemd": ["-o", "none,name=systemd"]}.get(
            os.path.basename(path), ["-o", os.path.basename(path)])
        run("mount", "-t", kind, *options, kind, target)


def delegate(root):
    """Control group v2: a group that gives controllers to groups below it may hold no process itself."""
    os.makedirs(f"{root}/init", exist_ok=True)
    for pid in read(f"{root}/cgroup.procs").split():
        write(f"{root}/init/cgroup.procs", pid)
    for controller in read(f"{root}/cgroup.controllers").split():
        write(f"{root}/cgroup.subtree_control", f"+{controller}")


def write_cni(index):
    for plugin in os.listdir("/usr/lib/cni"):
        if not os.path.lexists(f"/opt/cni/bin/{plugin}"):
            os.symlink(f"/usr/lib/cni/{plugin}", f"/opt/cni/bin/{plugin}")
    path = "/etc/cni/net.d/10-testbed.conflist"
    # Anew at each start of the node, as flannel's and Calico's pods do: what others added to it is lost.
    ranges = [[{"subnet": subnet}] for subnet in pods_of(index)]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    write(path, json.dumps({"cniVersion": "0.4.0", "name": "testbed", "plugins": [
        {"type": "ptp", "ipam": {"type": "host-local", "ranges": ranges, "routes": routes}},
        {"type": "portmap", "capabilities": {"portMappings": True}}]}, indent=1))


CONTAINERD = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/testbed/pause:1"
  restrict_oom_score_adj = true   # without CAP_SYS_RESOURCE runc cannot lower it, and dies
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def kubelet_settings():
    return {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock", "cgroupDriver": "cgroupfs",
            "failSwapOn": False, "failCgroupV1": False,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                               "x509": {"clientCAFile": f"{IN_NODE}/own/ca.crt"}},
            "authorization": {"mode": "Webhook"}, "clusterDNS": [DNS_SERVICE], "clusterDomain": "cluster.local",
            "resolvConf": f"{IN_NODE}/own/resolv.conf",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%",
                             "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100, "serializeImagePulls": False,
            # the defaults are for large clusters; a test waits for each of these
            "syncFrequency": "10s", "configMapAndSecretChangeDetectionStrategy": "Watch",
            "registryPullQPS": 0, "eventRecordQPS": 0}


def proxy_settings(name):
    return {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
            "clientConnection": {"kubeconfig": f"{IN_NODE}/own/proxy.conf"}, "hostnameOverride": name,
            "clusterCIDR": ",".join(POD_NET), "detectLocalMode": "ClusterCIDR",
            "nftables": {"minSyncPeriod": "100ms"},
            "conntrack": {"maxPerCore": 0}}  # the machine's limits cannot be set from a namespace


services = {}  # pid -> (name, command): what is started again when it ends


def start(name, *command):
    with open(f"{IN_NODE}/own/log/{name}.log", "a") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    services[process.pid] = (name, command, process)


def collect():
    """Process 1's work: whatever ends is collected, and a service is started again."""
    while True:
        pid, status = os.wait()
        if pid in services:
            name, command, _ = services.pop(pid)
            print(f"{name} ended with {status}; it is started again", flush=True)
            time.sleep(0.5)
            start(name, *command)


def wait_for_port(host, port):
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


def run_node(settings):
    own = f"{IN_NODE}/own"
    start("containerd", "containerd", "-c", f"{own}/containerd.toml", "-l", "warn")
    while subprocess.run(["ctr", "version"], capture_output=True).returncode != 0:
        time.sleep(0.1)
    if not os.path.exists(f"{own}/imported"):
        for archive in settings["archives"]:
            run("ctr", "-n", "k8s.io", "images", "import", f"{IN_NODE}/images/{os.path.basename(archive)}")
        write(f"{own}/imported", "")
    wait_for_port(f"{NODE_NET[0]}1", 6443)
    start("kubelet", f"{IN_NODE}/bin/kubelet", f"--config={own}/kubelet.json", f"--kubeconfig={own}/node.conf",
          f"--hostname-override={settings['name']}", f"--node-ip={','.join(settings['ips'])}", "--v=1")
    start("kube-proxy", f"{IN_NODE}/bin/kube-proxy", f"--config={own}/proxy.json")


def main(path):
    with open(path) as f:
        settings = json.load(f)
    socket.sethostname(settings["name"])
    make_root(settings)
    own = f"{IN_NODE}/own"
    write_cni(settings["index"])
    write(f"{own}/containerd.toml", CONTAINERD)
    write(f"{own}/resolv.conf", "")
    write(f"{own}/kubelet.json", json.dumps(kubelet_settings(), indent=1))
    write(f"{own}/proxy.json", json.dumps(proxy_settings(settings["name"]), indent=1))
    run_node(settings)
    print(f"node {settings['name']} runs; the API service is {API_SERVICE}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    collect()


if __name__ == "__main__":
    main(sys.argv[1])
