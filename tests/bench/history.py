# SPDX-License-Identifier: Apache-2.0
"""One line a run in a file that is only added to, and what is worse than the runs before it."""
import json
import os
import subprocess
import time
from statistics import median

LEAST = 3  # earlier runs, before one says that something is worse


def commit():
    def git(*args):
        return subprocess.run(["git", *args], capture_output=True, text=True, check=False).stdout.strip()
    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def entry(out):
    """The part of a run's JSON that runs are compared by."""
    rows = {f"{row['path']}: {row['row']}": {key: row[key] for key in ("ratio", "a_a_spread", "cpu", "better")}
            for row in out["rows"] if not row["refused"]}
    rows |= {f"fairness: {row['row'].split(' beside ')[1]}": {"ratio": row["ratio"], "a_a_spread": 0.2, "better": "lower"}
             for row in out["fairness"] if not row["refused"]}
    # What is counted does not depend on how busy the machine is.
    rows |= {f"{row['path']}: {row['row']}: system calls": {"ratio": row["system_calls"], "a_a_spread": 0.02, "better": "lower"}
             for row in out.get("counts", ()) if not row["refused"] and row["system_calls"] and row["per"] != "GiB"}
    return {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit(), "machine": out["machine"],
            "rounds": out["rounds"], "seconds": out["seconds"], "rows": rows,
            "upgrades": [row for row in out.get("upgrades", ()) if not row["refused"]],
            "memory_kb": [m for m in out["memory_kb"] if not m["refused"]]}


def add(path, out):
    """Adds the run; returns a line for each figure that is worse than the middle of the earlier runs of the same kind
    by more than plain TCP differed from itself."""
    now, earlier = entry(out), []
    if os.path.exists(path):
        with open(path) as f:
            earlier = [json.loads(line) for line in f if line.endswith("\n")]
    with open(path, "a") as f:
        f.write(json.dumps(now) + "\n")
    same = [run for run in earlier
            if (run["machine"]["model"], run["machine"]["cpus"], run["rounds"], run["seconds"]) ==
            (now["machine"]["model"], now["machine"]["cpus"], now["rounds"], now["seconds"])]
    found = []
    for name, row in now["rows"].items():
        ratios = [run["rows"][name]["ratio"] for run in same if name in run["rows"]]
        if len(ratios) < LEAST:
            continue
        usual = median(ratios)
        change = row["ratio"] / usual if row["better"] == "lower" else usual / row["ratio"]
        if change > 1 + max(0.05, 2 * row["a_a_spread"]):
            unit = "" if name.endswith("system calls") else " x plain"
            found.append(f"{name}: {row['ratio']:.2f}{unit}, in {len(ratios)} runs before usually {usual:.2f}")
    return found
