# SPDX-License-Identifier: Apache-2.0
"""What a process has used, from /proc."""
import os
import re


def cpu_seconds(pids):
    """On-CPU time of all threads, from the scheduler: /proc/PID/stat counts in steps of 10 ms."""
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                total += int(f.read().split()[0])
    return total / 1e9


def status_kb(pid, field):
    with open(f"/proc/{pid}/status") as f:
        found = re.search(rf"^{field}:\s+(\d+) kB", f.read(), re.MULTILINE)
    if not found:
        raise RuntimeError(f"process {pid} has no {field}")
    return int(found[1])


def rss_kb(pid):
    return status_kb(pid, "VmRSS")
