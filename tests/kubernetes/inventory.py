#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What there is in a cluster, as lines of text, so that before and after can be compared
(`inventory.py NAME` prints those of a cluster that is up): files and mounts of the nodes, rules, routes and
tables of their and their pods' network namespaces, BPF programs
by what they are attached to, processes, and every object in the API.

Lines hold names, not contents, numbers or times: a thing that comes and goes by itself (a counter, a
lease's time, a pod's uid) is no difference."""
import json
import os
import re
import subprocess
import sys

from harness import Onlooker, cgroup2
from testbed.cgroups import members
from testbed.tools import read

# What the cluster itself writes all the time. A thing of ours would not be looked for there alone.
BUSY_FILES = re.compile(r"^(/var/lib/(containerd|kubelet|cni)|/var/log|/run/(containerd|netns|calico|systemd)|/testbed|/proc|/tmp"
                        r"|/var/tmp|/root/\.cache)(/|$)")
BUSY_KINDS = {"events", "endpointslices"}
OURS = re.compile(r"qanat|istio|ztunnel|waypoint", re.I)
# Whose status is ours to write, among others: what it says is looked at as well.
WITH_STATUS = re.compile(r"\.istio\.io/|gateway\.networking\.k8s\.io/|^/api/v1/services$")


def node_files(bench, index):
    """Everything that was written on the node's disk and in its /run, by path."""
    upper = bench.cluster.node_path(index, "disk/upper")
    found = set()
    for root, base in ((upper, ""), (bench.cluster.node_path(index, "disk/var"), "/var")):
        for folder, folders, files in os.walk(root):
            inside = base + folder[len(root):]
            folders[:] = [f for f in folders if not BUSY_FILES.match(f"{inside}/{f}")]
            found.update(f"{inside}/{name}" for name in files + folders if not BUSY_FILES.match(f"{inside}/{name}"))
    live = bench.on_node(index, "sh", "-c", "find /run /sys/fs/bpf -xdev 2>/dev/null; cat /etc/cni/net.d/* | tr -d ' \\n\\t'")
    found.update(line for line in live.splitlines() if not BUSY_FILES.match(line))
    return {f"node{index} file {path}" for path in found}


def network(bench, index):
    """Rules, routes, tables and devices of the node and of each of its pods."""
    found = set()
    # of routes those of tables that somebody made: the main one changes with every pod
    script = ("ip -4 rule; ip -6 rule; { ip -4 route show table all; ip -6 route show table all; } | grep ' table ' | "
              "grep -v ' table \\(local\\|main\\|default\\)'; nft list tables; "
              # kube-proxy names its chains after Services, which are looked for in the API, and removes them in its own time
              "nft list tables | grep -v kube-proxy | while read -r _ family name; do nft list table $family $name; done | grep -i "
              "'qanat\\|istio\\|0x539\\|1337\\|0x111' ; ip -o link show type dummy; ip -o link show type wireguard; tc filter show")
    places = {"node": []}
    for pod in bench.get("/api/v1/pods")["items"]:
        if pod["spec"].get("nodeName") == f"node{index}" and not pod["spec"].get("hostNetwork"):
            name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            try:
                places[name] = ["nsenter", f"--net=/proc/{bench.container(name)[0]}/ns/net"]
            except (RuntimeError, KeyError):
                continue  # it ends just now
    places["node"] = ["nsenter", f"--net={bench.cluster.netns_path(f'n{index}')}"]
    for name, enter in places.items():
        said = subprocess.run([*enter, "sh", "-c", script], capture_output=True, text=True).stdout
        for line in said.splitlines():
            line = re.sub(r"\b(expires|metric|handle) \S+", "", line).strip()
            if line and "kube-proxy" not in line:
                found.add(f"node{index} {name} network {line}")
    return found


def programs(bench, index):
    """BPF programs attached to control groups of the node, and the names of its processes."""
    found = set()
    group = os.path.join(cgroup2(), bench.cluster.netns(f"n{index}"))
    said = subprocess.run(["bpftool", "-j", "cgroup", "tree", group], capture_output=True, text=True).stdout
    for entry in json.loads(said or "[]"):
        for program in entry.get("programs", []):
            found.add(f"node{index} bpf {program.get('attach_type')} {program.get('name')}")
    own = members(lambda entry: entry == bench.cluster.netns(f"n{index}"))
    for pid in own:
        found.add(f"node{index} process {os.path.basename(read(f'/proc/{pid}/cmdline').split(chr(0))[0])}")
    return found


def said(status):
    """A status without its times and what is empty: as a text, "" if that is nothing."""
    def kept(value):
        if isinstance(value, dict):
            inside = {key: kept(each) for key, each in value.items() if not key.endswith("Time")}
            return {key: each for key, each in inside.items() if each not in ({}, [], None)}
        return [kept(each) for each in value] if isinstance(value, list) else value
    status = kept(status)
    return json.dumps(status, sort_keys=True) if status else ""


def objects(bench):
    """Every object in the API by kind, namespace and name, and what of ours it carries; of busy kinds those that
    carry our label or name."""
    found = set()
    groups = [("/api/v1", bench.get("/api/v1"))]
    for group in bench.get("/apis")["groups"]:
        path = f"/apis/{group['preferredVersion']['groupVersion']}"
        groups.append((path, bench.get(path)))
    for path, listed in groups:
        for resource in (listed or {}).get("resources", []):
            if "list" not in resource["verbs"] or "/" in resource["name"]:
                continue
            for item in (bench.get(f"{path}/{resource['name']}") or {}).get("items", []):
                meta = item["metadata"]
                line = f"object {path}/{resource['name']} {meta.get('namespace', '')}/{meta['name']}"
                ours = OURS.search(meta["name"]) or meta.get("labels", {}).get("app.kubernetes.io/part-of") == "qanat"
                if resource["name"] not in BUSY_KINDS or ours:
                    found.add(line)
                for key in [*meta.get("annotations", {}), *meta.get("labels", {}), *meta.get("finalizers", [])]:
                    if OURS.search(key):
                        found.add(f"{line} carries {key}")
                if WITH_STATUS.search(f"{path}/{resource['name']}") and (text := said(item.get("status") or {})):
                    found.add(f"{line} has the status {text}")
                for entry in meta.get("managedFields", []):
                    if OURS.search(entry["manager"]):
                        found.add(f"{line} has fields of {entry['manager']} in its {entry.get('subresource', 'self')}")
    return {line for line in found if not line.startswith("object /api/v1/events") and "events.k8s.io" not in line}


def take(bench):
    found = objects(bench)
    for index in bench.cluster.nodes():
        found |= node_files(bench, index) | network(bench, index) | programs(bench, index)
    return found


if __name__ == "__main__":
    print("\n".join(sorted(take(Onlooker(sys.argv[1])))))
