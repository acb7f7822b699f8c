# SPDX-License-Identifier: Apache-2.0
"""The control groups of a cluster. Each part (the control plane, each node) has one group of its own
name in every hierarchy; whoever is below it belongs to the cluster, and is found and ended that way,
whatever else has been lost. Works with cgroup v1, v2, and v1 with a v2 hierarchy beside it."""
import os
import shutil
import signal
import subprocess
import time

from .names import HERE, Failed
from .tools import kill, read

left_running = []  # so that nobody warns of processes that were not waited for


def hierarchies():
    """The mount points of all hierarchies of this machine: {path: "cgroup" | "cgroup2"}."""
    found = {}
    for line in read("/proc/self/mountinfo").splitlines():
        left, right = line.split(" - ")
        kind = right.split()[0]
        if kind in ("cgroup", "cgroup2") and left.split()[3] == "/":
            found[left.split()[4]] = kind
    if "cgroup2" not in found.values():
        raise Failed("no cgroup2 hierarchy is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    if "cgroup" in found.values() and not any(os.path.basename(path) == "memory" for path in found):
        raise Failed("the root of the memory control group is not mounted (the kubelet needs it): "
                     "mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory")
    return found


def make(name):
    """Makes the group everywhere; returns the files by which a process joins."""
    joins = []
    for path in hierarchies():
        group = os.path.join(path, name)
        os.makedirs(group, exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):  # v1 wants these set before a process may join
            if os.path.exists(os.path.join(path, "cpuset.memory_pressure_enabled")) or os.path.exists(
                    os.path.join(path, "cpuset.cpu_exclusive")):
                with open(os.path.join(group, file), "w") as f:
                    f.write(read(os.path.join(path, file)).strip())
        joins.append(os.path.join(group, "cgroup.procs"))
    return joins


def join(files):
    for file in files:
        with open(file, "w") as f:
            f.write(str(os.getpid()))


def spawn(command, joins, log):
    """Starts a program in these groups and leaves it running; it outlives us."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=HERE,
                               start_new_session=True, preexec_fn=lambda: join(joins))
    left_running.append(process)
    return process


def groups(owns):
    """The groups at the top of a hierarchy for whose names owns(name) is true."""
    return [os.path.join(path, entry) for path in hierarchies() for entry in os.listdir(path)
            if owns(entry) and os.path.isdir(os.path.join(path, entry))]


def members(owns):
    pids = set()
    for group in groups(owns):
        for folder, _, files in os.walk(group):
            if "cgroup.procs" in files:
                pids.update(int(pid) for pid in read(os.path.join(folder, "cgroup.procs")).split())
    return pids - {0}


def end(owns, seconds=20):
    """Kills everybody in these groups, and removes the groups."""
    deadline = time.monotonic() + seconds
    while left := groups(owns):
        for pid in members(owns):
            kill(pid, signal.SIGKILL)
        for group in left:
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass  # a process of it is still on its way out
        if time.monotonic() > deadline:
            raise Failed(f"control groups {', '.join(groups(owns))} are still in use by {sorted(members(owns))}")
        time.sleep(0.02)


def remove_tree(path):
    """rm -r that waits for mounts of ended namespaces to go away."""
    for attempt in range(100):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        time.sleep(0.05)
    raise Failed(f"{path} cannot be removed: see what holds it with: fuser -vm {path}")
