#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots one of Debian's kernels in an emulated machine without any network and runs tests of ours on it.

  vm.py 6.1 --agent BIN TEST...       each TEST is a program, or PROGRAM=ARGUMENT,ARGUMENT...
  vm.py 6.12 --agent BIN --features   what the agent's probes find there, and whether bpf/README.md says so

Emulated, not virtual: KVM is not to be had everywhere, and an emulated machine is the same everywhere."""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import kernels
import rootfs

QEMU = "qemu-system-x86_64"
SLOWNESS = 10  # tests that wait for something wait that much longer
TABLE = os.path.join(os.path.dirname(rootfs.HERE), os.pardir, "bpf", "README.md")


def boot(kernel, initrd, cpus):
    return subprocess.Popen(
        [QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(cpus), "-m", "1536", "-nodefaults", "-display", "none",
         "-no-reboot", "-serial", "stdio", "-kernel", os.path.join(kernel, "vmlinuz"), "-initrd", initrd, "-append",
         "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def claimed(series):
    """What bpf/README.md says that this kernel has: yes or no by feature."""
    with open(TABLE) as f:
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in f if line.startswith("|")]
    head = next(row for row in rows if row[0] == "feature")
    return {row[0].strip("`"): row[head.index(series)] for row in rows[rows.index(head) + 2:] if len(row) == len(head)}


def compare(series, printed):
    """Why the table and what was printed are not one; None when they are."""
    try:
        found = json.loads(printed)["features"]
    except ValueError:
        return "what the agent printed is no JSON"
    has = {name: "yes" if feature["present"] else "no" for name, feature in found.items()}
    table = claimed(series)
    wrong = {name for name in has.keys() | table.keys() if has.get(name) != table.get(name)}
    return ("bpf/README.md is not true of " + ", ".join(sorted(wrong))) if wrong else None


def watch(machine, names, series):
    """Passes the console on, and returns what is wrong, by test."""
    wrong = {name: "did not run" for name in names}
    done, printed = False, []
    for raw in machine.stdout:
        line = raw.decode(errors="replace").rstrip()
        print(line, flush=True)
        at = line.find("@@@ ")
        if at < 0:
            printed.append(line)
            continue
        word, *rest = line[at + 4:].split(" ")
        if word == "end":
            name, code, _ = rest
            wrong[name] = None if code == "0" else "ran out of time" if code == "timeout" else f"exit code {code}"
            if name == "features":
                wrong[name] = wrong[name] or compare(series, "".join(printed))
        elif word == "begin":
            printed = []
        elif word == "problem":
            wrong[" ".join(rest)] = "in setting the machine up"
        done |= word == "done"
    if not done:
        wrong["the machine"] = "ended before its orders: its last lines are above"
    return {name: why for name, why in wrong.items() if why}


def orders_of(arguments):
    if arguments.features:
        yield "features", [arguments.agent, "--features"]
    for test in arguments.tests:
        program, _, more = test.partition("=")
        path = os.path.abspath(program)
        yield os.path.basename(path), [path, *(more.split(",") if more else [])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", choices=sorted(kernels.PINS))
    parser.add_argument("--agent", required=True, type=os.path.abspath, help="qanat-agent, which the tests start")
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=900, help="how long each test may take (%(default)s)")
    parser.add_argument("tests", nargs="*")
    arguments = parser.parse_intermixed_args()
    if not shutil.which(QEMU):
        sys.exit(f"{QEMU} is missing: apt-get install qemu-system-x86 (tests/kernels/packages.txt)")
    orders = [{"name": name, "command": command, "environment": {"QANAT_TEST_SLOWNESS": str(SLOWNESS)},
               "seconds": arguments.seconds} for name, command in orders_of(arguments)]
    programs = {arguments.agent, *(order["command"][0] for order in orders)}
    for program in programs:
        if not os.access(program, os.X_OK):
            sys.exit(f"{program} is missing: ./run build --preset release")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qanat-kernel-") as temporary:
        try:
            kernel = kernels.kernel(arguments.series)
            initrd = os.path.join(temporary, "initrd")
            rootfs.build(initrd, temporary, kernel, sorted(programs), orders)
        except kernels.Failed as error:
            sys.exit(f"kernel {arguments.series}: {error}")
        machine = boot(kernel, initrd, arguments.cpus)
        limit = threading.Timer(60 + arguments.seconds * len(orders), machine.kill)
        limit.start()
        try:
            wrong = watch(machine, [order["name"] for order in orders], arguments.series)
        finally:
            limit.cancel()
            machine.kill()
            machine.wait()
    print(f"kernel {arguments.series}: {time.monotonic() - started:.0f} s", flush=True)
    for name, why in wrong.items():
        print(f"kernel {arguments.series}: {name}: {why}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
