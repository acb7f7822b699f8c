# SPDX-License-Identifier: Apache-2.0
"""What an upgrade of the node proxy costs connections that live through it: the checker of tests/integration/takeover (every
byte of every connection is compared; half of them come from a pod, half from outside) with the bench's binaries. The longest
time that a request waited for its answer, or a receiver of a steady stream for more, across all upgrades; and the same of
connections as many, over the last process, for as long a time without an upgrade: what this machine and the checker do by
themselves. A program of its own for each row, as modules there have names that ours have too."""
import json
import os
import signal
import subprocess
import sys
import time

LIMIT_MS = 100  # of the longest stall
SECONDS = 900  # that a row may take
# What the connections of pods go through (those from outside are in plain text): arguments of Bed.
WAYS = {"tunnels, both ends": (True, False), "same node, no TLS": (True, True)}
KINDS = ("rr", "half")  # of checker.py: the others wait for nobody, or for their own pace


def size(quick):
    """(connections, upgrades)"""
    return (40, 2) if quick else (500, 20)


def names(options):
    """{row: way} of the rows that are asked for."""
    connections, upgrades = size(options.quick)
    rows = {f"upgrade: {connections} connections, {upgrades} upgrades, {way}": way for way in WAYS}
    if options.no_upgrades or (options.path and "cross-node" not in options.path):
        return {}
    return {row: way for row, way in rows.items() if options.only.lower() in row.lower()}


def one(way, connections, upgrades):
    from bed import Bed
    from case import across, first_proxy
    bed = Bed(*WAYS[way])
    try:
        began = time.monotonic()
        found = across(bed, first_proxy(bed), connections, upgrades, 0.5, 0.2)
        took = time.monotonic() - began
        # The bed's last process goes on.
        alone = across(bed, bed.proxies[-1], connections, 0, 0, 0.2, took)
    finally:
        bed.close()

    def longest(of, kinds=KINDS):
        return max(of.silences[kind] for kind in kinds) * 1000
    return {"connections": connections, "upgrades": upgrades, "moved": found.moved, "not_taken": found.refused,
            "lost_or_altered": len(found.failures), "first_loss": found.failures[0] if found.failures else None,
            "stall_ms": longest(found), "without_ms": longest(alone), "checker_ms": longest(found, ("itself",)),
            "by_kind_ms": {kind: round(seconds * 1000, 1) for kind, seconds in found.silences.items()},
            "seconds": round(took, 1), "refused": None}


def why_not(row):
    """Why a measured row is none, or None."""
    if row["lost_or_altered"]:
        return f"{row['lost_or_altered']} of {row['connections']} connections were lost or had other bytes, the first: {row['first_loss']}"
    if row["not_taken"]:
        return f"{row['not_taken']} of what was to be moved were refused by the new process"
    # Of a tunnel all streams are one; those from outside are one by one, and half of all.
    if row["moved"] < row["upgrades"] * row["connections"] * 0.45:
        return f"only {row['moved']} moves in {row['upgrades']} upgrades"
    return None


def measure(bench, wanted):
    """[{"row", "stall_ms", "without_ms", "checker_ms", "lost_or_altered", "moved", .., "refused"}]"""
    out = []
    for name, way in wanted.items():
        bench.say(name)
        out.append({"row": name})
        try:
            out[-1] |= run(way, *size(bench.options.quick))
        except RuntimeError as wrong:
            bench.refuse(out[-1], wrong)
            continue
        if wrong := why_not(out[-1]):
            bench.refuse(out[-1], wrong)
    return out


def run(way, connections, upgrades):
    """What `one` gives, of a process of its own, which takes its pods down also when we are to end."""
    process = subprocess.Popen([sys.executable, "-B", os.path.abspath(__file__), way, str(connections), str(upgrades)], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not over in {SECONDS} s") from None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
    if process.returncode != 0:
        raise RuntimeError(err.strip().rsplit("\n", 1)[-1])
    return json.loads(out)


def over(rows):
    """A line for each row whose stall is longer than it may be."""
    out = []
    for row in rows:
        if row["refused"] or row["stall_ms"] <= LIMIT_MS:
            continue
        line = f"{row['row']}: {row['stall_ms']:.0f} ms, may be {LIMIT_MS}"
        if row["without_ms"] > LIMIT_MS:
            line += f" (but {row['without_ms']:.0f} ms without an upgrade: this machine cannot tell)"
        out.append(line)
    return out


if __name__ == "__main__":
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration/takeover"))
    print(json.dumps(one(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
