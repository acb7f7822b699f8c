# SPDX-License-Identifier: Apache-2.0
"""Small helpers: running programs, waiting, processes by number."""
import os
import subprocess
import time

from .names import Failed


def run(*command, **options):
    """Runs a program that must succeed; its output becomes part of the error when it does not."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} failed ({done.returncode}): {done.stdout.strip()[-2000:]}")
    return done.stdout


def wait_for(what, probe, seconds, pause=0.05):
    """Asks probe() until it says something true, and returns that."""
    end = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(pause)


def alive(pid):
    """Whether the process still runs; one that is dead and not yet collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid, signal):
    try:
        os.kill(pid, signal)
    except ProcessLookupError:
        pass


def children(pid):
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as f:
                if int(f.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry))
        except OSError:
            pass  # it ended while we looked
    return found


def read(path, default=""):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except OSError:
        return default


def tail(path, lines=5):
    return "\n".join(read(path).splitlines()[-lines:])
