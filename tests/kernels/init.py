#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The first process of the machine: mounts, loads modules, runs what /orders.json says, says what came of it,
and switches off. vm.py reads what it prints."""
import ctypes
import json
import os
import subprocess
import time

MOUNTS = (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp"),
          ("cgroup2", "/sys/fs/cgroup"), ("bpf", "/sys/fs/bpf"))
FINIT_MODULE = 313
POWER_OFF = 0x4321fedc
libc = ctypes.CDLL(None, use_errno=True)


def say(*words):
    print("@@@", *words, flush=True)


def mount():
    for kind, point in MOUNTS:
        if libc.mount(kind.encode(), point.encode(), kind.encode(), 0, None) != 0:
            say("problem", f"mount {point}: {os.strerror(ctypes.get_errno())}")
    os.symlink("/proc/self/fd", "/dev/fd")


def load_modules():
    for name in sorted(os.listdir("/modules")):
        with open("/modules/" + name, "rb") as f:
            if libc.syscall(FINIT_MODULE, f.fileno(), b"", 0) != 0:
                say("problem", f"module {name}: {os.strerror(ctypes.get_errno())}")


def order(name, command, environment, seconds):
    """One test program; its lines are on the console. In a group of its own, below the root's."""
    group = "/sys/fs/cgroup/tests"
    os.makedirs(group, exist_ok=True)
    started = time.monotonic()
    say("begin", name)
    child = subprocess.Popen(command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                             preexec_fn=lambda: open(group + "/cgroup.procs", "w").write("0"))
    try:
        code = child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        code = "timeout"
    say("end", name, code, f"{time.monotonic() - started:.0f}")


def main():
    os.environ.update({"PATH": "/usr/sbin:/usr/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"})
    mount()
    load_modules()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    say("kernel", os.uname().release, f"{time.clock_gettime(time.CLOCK_BOOTTIME):.1f}")
    with open("/orders.json") as f:
        for entry in json.load(f):
            order(**entry)
    say("done")
    os.sync()
    libc.reboot(POWER_OFF)


main()
