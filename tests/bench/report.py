# SPDX-License-Identifier: Apache-2.0
"""From the samples of all rounds to rows, the printed table and the JSON."""
import json
import os
import platform
from statistics import median

from loads import cpu_unit


def make_row(path, load, figure, samples, refused):
    """One row; `samples` is a list of rounds {"mesh": .., "plain": .., "again": ..} of results."""
    name, key, unit = figure
    row = {"path": path, "row": name, "figure": key, "unit": unit,
           "better": "lower" if unit == "us" else "higher", "refused": refused}
    if refused:
        return row
    rounds = [{leg: result[key] for leg, result in round_.items()} for round_ in samples]
    # A round's plain legs run next to its mesh leg; the ratio is taken within the round.
    ratios = [r["mesh"] / ((r["plain"] + r["again"]) / 2) for r in rounds]
    a_a = [r["again"] / r["plain"] for r in rounds]
    row.update({
        "plain": median(r["plain"] for r in rounds), "mesh": median(r["mesh"] for r in rounds),
        "ratio": median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
        "a_a": median(a_a), "a_a_spread": median(abs(ratio - 1) for ratio in a_a),
        "a_a_worst": max(abs(ratio - 1) for ratio in a_a),
        "cpu": median(round_["mesh"]["cpu_per_unit"] for round_ in samples),
        "own_cpu": median(round_[leg]["own_cpu_per_unit"] for round_ in samples for leg in ("plain", "again")),
        "cpu_unit": cpu_unit(load), "rounds": rounds,
    })
    return row


def deviation(row):
    """How far plain was from plain: in the middle round, and in the worst."""
    return f"±{row['a_a_spread'] * 100:.0f}% ({row['a_a_worst'] * 100:.0f}%)"


def table(rows):
    lines = [f"{'':46}{'plain':>10}{'mesh':>10}{'':8}{'x plain':>9}{'A/A':>20}{'CPU':>10}{'plain':>9}"]
    path = None
    for row in rows:
        if row["path"] != path:
            path = row["path"]
            lines.append(f"{path}")
        name = f"  {row['row']}"
        if row["refused"]:
            lines.append(f"{name:46}refused: {row['refused']}")
            continue
        spread = f"{row['a_a']:.2f} {deviation(row)}"
        lines.append(f"{name:46}{row['plain']:10.1f}{row['mesh']:10.1f} {row['unit']:7}"
                     f"{row['ratio']:9.2f}{spread:>20}{row['cpu']:10.4f}{row['own_cpu']:9.4f} {row['cpu_unit']}")
    return "\n".join(lines)


def or_none(value, pattern):
    return "not here" if value is None else format(value, pattern)


def counts_table(counts):
    """A row's second line says which system calls they are."""
    if not counts:
        return ""
    lines = [f"{'of all proxies on the path':46}{'system calls':>14}{'instructions':>16}"]
    for row in counts:
        name = f"  {row['path']}: {row['row']}"
        if row["refused"]:
            lines.append(f"{name:46}refused: {row['refused']}")
            continue
        lines.append(f"{name:46}{or_none(row['system_calls'], '14.1f'):>14}{or_none(row['instructions'], '16,.0f'):>16} a {row['per']}")
        if row["per"] != "GiB" and row["by_call"]:
            lines.append("      " + ", ".join(f"{call} {n:.1f}" for call, n in row["by_call"].items() if n >= 0.05))
    return "\n".join(lines)


def profile_table(profiles):
    lines = []
    for row in profiles:
        title = f"CPU time of the proxies, {row['path']}: {row['row']}"
        if row["refused"]:
            lines.append(f"{title}: refused: {row['refused']}")
            continue
        lost = f", {row['lost']} lost" if row["lost"] else ""
        lines.append(f"{title} ({row['samples']} samples{lost}; {row['in_kernel'] * 100:.0f}% in the kernel)")
        for entry in row["top"]:
            lines.append(f"  {entry['share'] * 100:5.1f}%  {entry['where']:16.16}  {entry['function']:.110}")
    return "\n".join(lines)


def fairness_table(fairness):
    lines = ["another pod's load on the same node"]
    for row in fairness:
        name = f"  {row['row']}"
        lines.append(f"{name:46}refused: {row['refused']}" if row["refused"] else
                     f"{name:46}{row['alone_us']:10.1f}{row['beside_us']:10.1f} us     {row['ratio']:9.2f} x alone")
    return "\n".join(lines)


def upgrades_table(upgrades):
    lines = [f"{'longest stall, ms':64}{'upgrading':>10}{'without':>10}{'checker':>10}{'moves':>8}{'lost or altered':>18}"]
    for row in upgrades:
        name = f"  {row['row']}"
        lines.append(f"{name:64}refused: {row['refused']}" if row["refused"] else
                     f"{name:64}{row['stall_ms']:10.0f}{row['without_ms']:10.0f}{row['checker_ms']:10.0f}{row['moved']:8}"
                     f"{row['lost_or_altered']:15} of {row['connections']}")
    return "\n".join(lines)


def memory_table(memory):
    """Processes down, states across; `memory` is what memory.measure returns."""
    width = max(len(entry["state"]) for entry in memory) + 3
    lines = [f"{'resident memory, MB':30}" + "".join(f"{e['state']:>{width}}" for e in memory)]
    for program in memory[0]["kb"]:
        cells = (f"{e['kb'][program] / 1024:.1f}" if not e["refused"] else "refused" for e in memory)
        lines.append(f"  {program:28}" + "".join(f"{cell:>{width}}" for cell in cells))
    lines.append("  idle, without clean pages of files: " + ", ".join(f"{name} {kb / 1024:.1f}" for name, kb in memory[0]["own_kb"].items()))
    for before, entry in zip(memory, memory[1:]):
        if before["refused"] or entry["refused"] or not entry.get("connections"):
            continue
        each = {name: (kb - before["kb"][name]) / entry["connections"] for name, kb in entry["kb"].items() if name.startswith("ztunnel-")}
        lines.append(f"  {entry['state']}, KB each: " + ", ".join(f"{name} {kb:.2f}" for name, kb in each.items()))
    return "\n".join(lines)


def workloads_table(rows):
    lines = [f"{'a node proxy starts in a mesh of':34}{'ready after':>12}{'CPU':>9}{'RSS, MB':>10}{'at most':>10}"]
    for row in rows:
        name = f"  {row['workloads']} workloads"
        lines.append(f"{name:34}refused: {row['refused']}" if row["refused"] else
                     f"{name:34}{row['ready_s']:10.2f} s{row['cpu_s']:7.2f} s{row['rss_kb'] / 1024:10.1f}{row['peak_kb'] / 1024:10.1f}")
    return "\n".join(lines)


def markdown(rows):
    """The ratios only: what may be compared between machines."""
    lines = ["| path | | × plain | A/A | CPU | plain's own |", "|---|---|---|---|---|---|"]
    for row in rows:
        if row["refused"]:
            lines.append(f"| {row['path']} | {row['row']} | refused | | | |")
        else:
            lines.append(f"| {row['path']} | {row['row']} | {row['ratio']:.2f} | "
                         f"{deviation(row)} | {row['cpu']:.3f} | {row['own_cpu']:.3f} {row['cpu_unit']} |")
    return "\n".join(lines)


def machine():
    """What the figures depend on, without naming the machine."""
    model = "unknown"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpus": os.cpu_count(), "model": model, "kernel": platform.release(),
            "load_average_before": os.getloadavg()[0]}


def write(path, out):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path + ".tmp", "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")
    os.rename(path + ".tmp", path)
