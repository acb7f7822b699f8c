# SPDX-License-Identifier: Apache-2.0
"""What threads of given processes do, counted or sampled by the kernel: perf_event_open(2) itself, so that nothing has to be
installed. Needs root. A counter that this kernel or machine has not is None, never 0."""
import ctypes
import errno
import mmap
import os
import platform
import struct
import subprocess
import tempfile
from contextlib import contextmanager

HARDWARE, SOFTWARE, TRACEPOINT = 0, 1, 2
INSTRUCTIONS, CPU_CLOCK = 1, 0
DISABLED, INHERIT, EXCLUDE_KERNEL, EXCLUDE_HV = 1 << 0, 1 << 1, 1 << 5, 1 << 6
FREQUENCY = 1 << 10
SAMPLE_IP, SAMPLE_TID = 1 << 0, 1 << 1
RECORD_LOST, RECORD_SAMPLE = 2, 9
NUMBER = {"x86_64": 298, "aarch64": 241}
PAGE = mmap.PAGESIZE
PAGES = 256  # of samples a thread; 40,000 of them
LIBC = ctypes.CDLL(None, use_errno=True)


def open_event(kind, config, tid, flags=0, frequency=0):
    attributes = bytearray(128)
    struct.pack_into("=IIQQQQQ", attributes, 0, kind, len(attributes), config, frequency,
                     SAMPLE_IP | SAMPLE_TID if frequency else 0, 0, flags | (FREQUENCY if frequency else 0))
    number = NUMBER.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "perf_event_open on " + platform.machine())
    fd = LIBC.syscall(number, (ctypes.c_char * len(attributes)).from_buffer(attributes), tid, -1, -1, 8)  # FD_CLOEXEC
    if fd < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
    return fd


@contextmanager
def tracefs():
    if os.path.isdir("/sys/kernel/tracing/events"):
        yield "/sys/kernel/tracing"
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tracefs", "tracefs", folder], check=True, capture_output=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


def tracepoints(subsystem, prefix=""):
    """{name without prefix: id}, empty where the kernel has none."""
    try:
        with tracefs() as root:
            base = f"{root}/events/{subsystem}"
            out = {}
            for name in os.listdir(base):
                if name.startswith(prefix) and os.path.exists(f"{base}/{name}/id"):
                    with open(f"{base}/{name}/id") as f:
                        out[name[len(prefix):]] = int(f.read())
            return out
    except (OSError, subprocess.CalledProcessError):
        return {}


def threads(pid):
    return [int(tid) for tid in os.listdir(f"/proc/{pid}/task")]


class Counter:
    """One kind of event, of all threads that the processes have now and of those that these start. Counts from its making."""

    def __init__(self, kind, config, pids, flags=0):
        self.fds = []
        try:
            for tid in (tid for pid in pids for tid in threads(pid)):
                try:
                    self.fds.append(open_event(kind, config, tid, flags | INHERIT))
                except ProcessLookupError:
                    continue  # it ended just now
        except OSError:
            self.close()
            raise

    def read(self):
        return sum(struct.unpack("=Q", os.read(fd, 8))[0] for fd in self.fds)

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []


# What a proxy calls for a connection; all others are told as one sum.
CALLS = ("accept4", "bind", "clock_gettime", "close", "connect", "epoll_ctl", "epoll_pwait", "epoll_wait", "fcntl", "futex", "getpeername",
         "getsockname", "getsockopt", "madvise", "mmap", "munmap", "openat", "pipe2", "read", "recvfrom", "recvmsg", "sched_yield",
         "sendmsg", "sendto", "setns", "setsockopt", "shutdown", "socket", "splice", "write", "writev")


class Counters:
    """System calls, by name, and instructions in user space of the processes, between start() and stop()."""

    def __init__(self, pids):
        self.pids = list(pids)
        total = tracepoints("raw_syscalls").get("sys_enter")
        named = tracepoints("syscalls", "sys_enter_")
        self.kinds = {"all": (TRACEPOINT, total, 0)} if total else {}
        # newfstat and the like have other names there: the tracepoint is the function's, not the number's.
        self.kinds |= {name: (TRACEPOINT, named[name], 0) for name in CALLS if total and name in named}
        self.kinds["instructions"] = (HARDWARE, INSTRUCTIONS, EXCLUDE_KERNEL | EXCLUDE_HV)
        self.open = {}

    def start(self):
        for name, (kind, config, flags) in self.kinds.items():
            try:
                self.open[name] = Counter(kind, config, self.pids, flags)
            except OSError as error:
                # Virtual machines often have no counters of the processor.
                if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.EACCES, errno.EPERM, errno.ENOSYS):
                    self.stop()
                    raise

    def stop(self):
        """{"system_calls": n or None, "by_name": {..}, "instructions": n or None}"""
        got = {name: counter.read() for name, counter in self.open.items()}
        for counter in self.open.values():
            counter.close()
        self.open = {}
        names = {name: n for name, n in got.items() if name not in ("all", "instructions") and n}
        if "all" in got:
            names["others"] = got["all"] - sum(names.values())
        return {"system_calls": got.get("all"), "by_name": names, "instructions": got.get("instructions")}


class Samples:
    """Where the processes' threads spend CPU time: {(pid, address): samples}, in the kernel too."""

    def __init__(self, pids, frequency=4000):
        self.rings, self.lost = [], 0
        try:
            for pid in pids:
                for tid in threads(pid):
                    try:
                        fd = open_event(SOFTWARE, CPU_CLOCK, tid, frequency=frequency)
                    except ProcessLookupError:
                        continue
                    self.rings.append((pid, fd, None))
                    self.rings[-1] = (pid, fd, mmap.mmap(fd, (1 + PAGES) * PAGE))
        except OSError:
            self.close()
            raise

    def stop(self):
        counts = {}
        for pid, fd, ring in self.rings:
            head, = struct.unpack_from("=Q", ring, 1024)  # data_head of perf_event_mmap_page
            size, at = PAGES * PAGE, 0
            while at < head:
                kind, _, length = struct.unpack("=IHH", self.cut(ring, at, 8, size))
                body = self.cut(ring, at + 8, length - 8, size)
                if kind == RECORD_SAMPLE:
                    address, = struct.unpack_from("=Q", body)
                    counts[pid, address] = counts.get((pid, address), 0) + 1
                elif kind == RECORD_LOST:
                    self.lost += struct.unpack_from("=QQ", body)[1]
                at += length
        self.close()
        return counts

    @staticmethod
    def cut(ring, at, length, size):
        # Nobody has read meanwhile, so a full ring stops and nothing is written over.
        start = at % size
        first = ring[PAGE + start:PAGE + min(start + length, size)]
        return first + ring[PAGE:PAGE + length - len(first)]

    def close(self):
        for _, fd, ring in self.rings:
            if ring is not None:
                ring.close()
            os.close(fd)
        self.rings = []
