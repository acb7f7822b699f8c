# SPDX-License-Identifier: Apache-2.0
"""What the kernel programs of the mesh take of a connection and of a GiB, and what the agents do, with the kernel's own clock
(kernel.bpf_stats_enabled, which costs some 20 ns a run itself): in a mesh that keeps records of connections and in one that
does not, so that telemetry's part shows."""
import json
import os
import subprocess
import time

from counts import QUIET, UNITS, units
from loads import LOADS
from process import cpu_seconds
from proof import Misrouted

COUNTED = tuple(load for load in LOADS if load.name in ("new connections/s, 1 client", "bulk, 1 connection"))
WITHOUT = {"QANAT_TELEMETRY": "false"}
# What telemetry may take: microseconds a connection at both ends together, milliseconds a GiB.
TARGETS = {"connection": 3, "GiB": 20}
SCALE = {"connection": 1e6, "GiB": 1e3}
SWITCH = "/proc/sys/kernel/bpf_stats_enabled"


def programs(mesh):
    """{name: ids} of what the mesh's pins hold attached."""
    found, base = {}, "/sys/fs/bpf/qanat"
    for folder in os.listdir(base):
        if not folder.startswith(mesh + "-"):
            continue
        links = f"{base}/{folder}/links"
        for pin in os.listdir(links):
            shown = json.loads(subprocess.run(["bpftool", "-j", "link", "show", "pinned", f"{links}/{pin}"],
                                              capture_output=True, text=True, check=True).stdout)
            name = pin.split("-")[2] if pin.startswith("pod-") else pin
            found.setdefault(name, set()).add((shown[0] if isinstance(shown, list) else shown)["prog_id"])
    return found


def spent(ids):
    """(seconds, runs) by program."""
    shown = {p["id"]: p for p in json.loads(
        subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, text=True, check=True).stdout)}
    return {name: (sum(shown.get(i, {}).get("run_time_ns", 0) for i in some) / 1e9,
                   sum(shown.get(i, {}).get("run_cnt", 0) for i in some)) for name, some in ids.items()}


class Watching:
    """A leg's watcher."""

    def __init__(self, bench):
        self.agents = [pid for name, pid in bench.programs.items() if name.startswith("agent-")]
        self.ids = programs(bench.mesh.name)
        self.got, self.agent_seconds = {}, 0.0

    def start(self):
        with open(SWITCH) as f:
            self.before = f.read()
        with open(SWITCH, "w") as f:
            f.write("1")
        self.first, self.cpu = spent(self.ids), cpu_seconds(self.agents)

    def stop(self):
        time.sleep(QUIET)
        self.agent_seconds = cpu_seconds(self.agents) - self.cpu
        last = spent(self.ids)
        with open(SWITCH, "w") as f:
            f.write(self.before)
        self.got = {name: (last[name][0] - seconds, last[name][1] - runs) for name, (seconds, runs) in self.first.items()}


def measure(bench, wanted):
    """[{"path", "row", "per", "by_program": {name: [cost, runs]}, "programs", "agents", "refused"}]; costs in us or ms."""
    out = []
    for path, load in wanted:
        if load not in COUNTED or path == "waypoint":
            continue
        bench.say(f"kernel programs: {path}, {load.name}")
        per = UNITS[load.mode][0]
        row = {"path": path, "row": load.name, "per": per, "refused": None}
        out.append(row)
        watching = Watching(bench)
        try:
            result = bench.leg(path, load, "mesh", watching, bench.options.seconds / 2)
        except (Misrouted, RuntimeError) as wrong:
            bench.refuse(row, wrong)
            continue
        count = units(load, result)[1]
        row["by_program"] = {name: [seconds * SCALE[per] / count, runs / count]
                             for name, (seconds, runs) in watching.got.items() if runs}
        row["agents"] = watching.agent_seconds * SCALE[per] / count
        row["programs"] = sum(cost for cost, _ in row["by_program"].values())
    return out


def table(with_records, without):
    """Both meshes side by side; telemetry's own is the difference."""
    if not with_records:
        return ""
    plain = {(row["path"], row["row"]): row for row in without}
    lines = [f"{'records of connections: with, without':46}{'programs':>17}{'agents':>17}{'telemetry':>11}{'target':>8}"]
    for row in with_records:
        name = f"  {row['path']}: {row['row']}"
        other = plain.get((row["path"], row["row"]))
        if row["refused"] or not other or other["refused"]:
            lines.append(f"{name:46}refused: {row['refused'] or (other or {}).get('refused') or 'not measured'}")
            continue
        both = [f"{row[key]:.2f}, {other[key]:.2f}" for key in ("programs", "agents")]
        own = sum(row[key] - other[key] for key in ("programs", "agents"))
        unit = "us a connection" if row["per"] == "connection" else "ms a GiB"
        lines.append(f"{name:46}{both[0]:>17}{both[1]:>17}{own:11.2f}{TARGETS[row['per']]:8} {unit}")
        lines.append("      " + ", ".join(f"{program} {cost:.2f} ({runs:.1f} runs)"
                                          for program, (cost, runs) in sorted(row["by_program"].items())))
    return "\n".join(lines)
