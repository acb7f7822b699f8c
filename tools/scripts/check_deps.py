#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that every #include of ours follows the dependency rules of ARCHITECTURE.md.

A line of EDGES says which other folders a folder may include from; a folder may always include
itself. Test files (*_test.cc) and tests/ may include anything but a program's tests/support rules
below. Run from anywhere; exits 1 and names file, line and rule where an edge is not allowed.
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

BASE = {"common/base"}
EVENT = BASE | {"common/event", "common/netns"}
NET = EVENT | {"common/net"}
PURE = BASE | {"common/net"}  # of common/net only address.h: checked below
TLS = NET | {"common/tls", "common/takeover"}  # of takeover only fields.h
COMMON = {
    "base", "event", "netns", "net", "dns", "proto", "tls", "metrics", "http", "hbone", "admin",
    "grpc", "model", "policy", "lb", "state", "route", "xds", "identity", "kube", "yaml",
    "takeover", "sandbox", "telemetry",
}
ALL_COMMON = {f"common/{name}" for name in COMMON}
EDGES = {
    "common/base": set(),
    "common/event": BASE,
    "common/netns": BASE,
    "common/yaml": BASE,
    "common/net": EVENT,
    "common/dns": PURE,
    "common/proto": set(),
    "common/metrics": BASE,
    "common/model": PURE,
    "common/telemetry": PURE | {"common/model", "common/metrics"},
    "common/policy": PURE | {"common/model"},
    "common/lb": PURE | {"common/model"},
    "common/state": PURE | {"common/model", "common/policy", "common/lb", "common/proto"},
    # proto: for mesh_for_test.h
    "common/route": PURE | {"common/model", "common/lb", "common/state", "common/proto"},
    "common/tls": TLS | {"common/model"},
    "common/hbone": TLS | {"common/model"},
    "common/http": TLS,
    "common/admin": NET | {"common/http", "common/metrics"},
    "common/grpc": TLS | {"common/http"},
    "common/xds": TLS | {"common/grpc", "common/http", "common/proto"},
    "common/identity": TLS | {"common/grpc", "common/model", "common/proto"},
    "common/takeover": EVENT,
    "common/sandbox": BASE,
    "common/kube": TLS | {"common/http", "common/grpc"},  # of grpc: resolver and backoff
    "bpf/include": set(),
    "bpf": {"bpf/include"},
    "bpf/user": BASE | {"common/net", "common/netns", "bpf/include"},
    "agent": ALL_COMMON | {"bpf/user", "bpf/include"},
    "ztunnel": ALL_COMMON,
    "waypoint": ALL_COMMON,
    "controlplane": ALL_COMMON,
    "deploy": set(),
    "tools/qanatctl": ALL_COMMON | {"bpf/user", "deploy"},
    "tools/loadgen": NET,
}
PURE_FOLDERS = {"common/dns", "common/model", "common/policy", "common/lb", "common/state",
                "common/route"}
# BoringSSL's and gRPC's headers stay behind one target each.
PRIVATE_HEADERS = [
    (re.compile(r"^openssl/"), {"common/tls"}, "only common/tls sees BoringSSL"),
    (re.compile(r"^grpcpp/|\.grpc\.pb\.h$"), {"controlplane"}, "only the control plane links gRPC"),
    (re.compile(r"^(envoy|xds|udpa)/.*\.pb\.h$"), {"controlplane", "waypoint"},
     "only the waypoint's config and the control plane's translation read Envoy's API"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]')


def folder_of(path):
    """The longest key of EDGES that contains the path."""
    best = None
    for key in EDGES:
        if path.startswith(key + "/") and (best is None or len(key) > len(best)):
            best = key
    return best


def main():
    files = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"],
                           cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    problems = []
    checked = 0
    for path in files:
        if not path.endswith((".cc", ".h", ".c")) or not os.path.exists(os.path.join(ROOT, path)):
            continue
        mine = folder_of(path)
        test = path.startswith("tests/") or path.endswith("_test.cc")
        checked += 1
        for number, line in enumerate(open(os.path.join(ROOT, path), errors="replace"), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match.group(1)
            where = f"{path}:{number}: #include \"{target}\""
            if test:
                continue
            if target.startswith("tests/"):
                problems.append(f"{where}: product code may not include tests")
                continue
            for pattern, owners, rule in PRIVATE_HEADERS:
                if pattern.search(target) and not any(
                        path.startswith(owner + "/") for owner in owners):
                    problems.append(f"{where}: {rule}")
            theirs = folder_of(target)
            if mine is None or theirs is None or theirs == mine:
                continue
            if not os.path.exists(os.path.join(ROOT, target)) and not target.endswith(".pb.h"):
                continue  # <bpf/...> of libbpf: not a file of ours
            if theirs not in EDGES[mine]:
                problems.append(f"{where}: {mine} may not include {theirs}")
            elif mine in PURE_FOLDERS and theirs == "common/net" and target != "common/net/address.h":
                problems.append(f"{where}: {mine} is pure: of common/net only address.h")
    for problem in problems:
        print(problem)
    if problems:
        print(f"{len(problems)} include(s) against the rules (tools/scripts/check_deps.py)")
        return 1
    print(f"    include edges: {checked} files follow the rules")
    return 0


if __name__ == "__main__":
    sys.exit(main())
