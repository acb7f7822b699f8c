# SPDX-License-Identifier: Apache-2.0
"""What a mesh had in the kernel, and whether it is still there when its names are gone: an object lives as long as
anybody holds it. By number, so that another mesh's objects of the same name are none of ours; and what of our marks
and table is in this machine's own network, which no mesh has business with."""
import json
import os
import subprocess


def shown(*command):
    """What bpftool says, in JSON; {} where there is no such thing."""
    done = subprocess.run(["bpftool", "-j", *command], capture_output=True, text=True)
    try:
        found = json.loads(done.stdout or "{}")
    except ValueError:
        return {}
    return found if done.returncode == 0 and "error" not in found else {}


def network():
    """Rules, routes and filters of ours in this network namespace."""
    def lines(script):
        return {line.strip() for line in subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout.splitlines()}
    found = {line for line in lines("ip -4 rule; ip -6 rule; tc filter show") if "0x53" in line or "lookup 101" in line or "qanat" in line}
    return found | {f"table 101 {line}" for line in lines("ip -4 route show table 101; ip -6 route show table 101")}


class KernelObjects:
    def __init__(self):
        self.ids = {"link": set(), "prog": set(), "map": set()}
        self.before = network()

    def note(self, folder):
        """All that is pinned below the folder now, and what that leads to."""
        for inside, _, files in os.walk(folder):
            for file in files:
                kind = os.path.basename(inside).removesuffix("s")
                if kind not in self.ids:
                    continue
                found = shown(kind, "show", "pinned", os.path.join(inside, file))
                if "id" in found:
                    self.ids[kind].add(found["id"])
                if "prog_id" in found:
                    self.ids["prog"].add(found["prog_id"])

    def left(self):
        found = [f"{kind} {number}" for kind, ids in self.ids.items() for number in sorted(ids)
                 if shown(kind, "show", "id", str(number))]
        return found + sorted(network() - self.before)
