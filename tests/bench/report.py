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
        "cpu_unit": cpu_unit(load), "rounds": rounds,
    })
    return row


def deviation(row):
    """How far plain was from plain: in the middle round, and in the worst."""
    return f"±{row['a_a_spread'] * 100:.0f}% ({row['a_a_worst'] * 100:.0f}%)"


def table(rows):
    lines = [f"{'':46}{'plain':>10}{'mesh':>10}{'':8}{'x plain':>9}{'A/A':>20}{'CPU':>10}"]
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
                     f"{row['ratio']:9.2f}{spread:>20}{row['cpu']:10.4f} {row['cpu_unit']}")
    return "\n".join(lines)


def memory_table(memory):
    """Processes down, states across; `memory` is what memory.measure returns."""
    width = max(len(entry["state"]) for entry in memory) + 3
    lines = [f"{'resident memory, MB':30}" + "".join(f"{e['state']:>{width}}" for e in memory)]
    for program in memory[0]["kb"]:
        cells = (f"{e['kb'][program] / 1024:.1f}" if not e["refused"] else "refused" for e in memory)
        lines.append(f"  {program:28}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def markdown(rows):
    """The ratios only: what may be compared between machines."""
    lines = ["| path | | × plain | A/A | CPU |", "|---|---|---|---|---|"]
    for row in rows:
        if row["refused"]:
            lines.append(f"| {row['path']} | {row['row']} | refused | | |")
        else:
            lines.append(f"| {row['path']} | {row['row']} | {row['ratio']:.2f} | "
                         f"{deviation(row)} | {row['cpu']:.3f} {row['cpu_unit']} |")
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
