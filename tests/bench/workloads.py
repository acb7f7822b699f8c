# SPDX-License-Identifier: Apache-2.0
"""How fast a node proxy is ready in a large mesh, and what it takes to know it: the real program, a control plane of the tests
(tests/interop/pypeer) that has the answer prepared, and a node agent with no pods. The time is from the program's start until
its readiness, so the peer's sending and the handshakes are in it."""
import json
import os
import subprocess
import sys
import time

from process import cpu_seconds, rss_kb, status_kb

NODES, A_SERVICE = 100, 10  # nodes; workloads of a service
# What a node proxy may have, as it is shipped: without a workload, and for each. Somewhat above what it has (DECISIONS.md).
NONE_KB, EACH_BYTES = 12 * 1024, 512


def address(number):
    return bytes((10, 128 + (number >> 16), number >> 8 & 255, number & 255))


def workload(proto, number):
    service = f"shop/app-{number // A_SERVICE}.shop.svc.cluster.local"
    name = f"app-{number // A_SERVICE}-5c8f7d9b4d-{number:06x}"
    uid = f"Kubernetes//Pod/shop/{name}"
    return uid, proto.encode("Address", {"workload": {
        "uid": uid, "name": name, "namespace": "shop", "addresses": [address(number)], "tunnel_protocol": 1,
        "trust_domain": "cluster.local", "service_account": f"app-{number // A_SERVICE}", "node": f"node-{number % NODES}",
        "canonical_name": f"app-{number // A_SERVICE}", "canonical_revision": "v1", "workload_type": 2,
        "workload_name": f"app-{number // A_SERVICE}", "cluster_id": "Kubernetes",
        "services": {service: {"ports": [{"service_port": 80, "target_port": 8080}]}}}})


def answer(proto, url, count):
    """A DeltaDiscoveryResponse with all of them, as bytes."""
    resources = []
    for number in range(count):
        name, raw = workload(proto, number)
        resources.append({"name": name, "version": "1", "resource": {"type_url": url, "value": raw}})
        if number % A_SERVICE == 0:
            host = f"app-{number // A_SERVICE}.shop.svc.cluster.local"
            vip = bytes((10, 96 + (number >> 20), number >> 12 & 255, number >> 4 & 255))
            raw = proto.encode("Address", {"service": {
                "name": host.split(".", 1)[0], "namespace": "shop", "hostname": host, "ports": [{"service_port": 80, "target_port": 8080}],
                "addresses": [{"network": "", "address": vip, "length": 32}]}})
            resources.append({"name": f"shop/{host}", "version": "1", "resource": {"type_url": url, "value": raw}})
    # Not encode() of the whole: its cost grows with the square of the size.
    number, _ = proto.SCHEMA["DeltaDiscoveryResponse"]["resources"]
    parts = [proto.encode("DeltaDiscoveryResponse", {"type_url": url, "nonce": "all", "system_version_info": "1"})]
    for resource in resources:
        raw = proto.encode("Resource", resource)
        parts.append(proto.varint(number << 3 | 2) + proto.varint(len(raw)) + raw)
    return b"".join(parts)


def one(count, timeout=120):
    import ads
    import proto
    from bed import Bed
    bed = Bed(pods=(), auto=False)
    try:
        raw = answer(proto, ads.ADDRESS, count)
        started = time.monotonic()
        bed.start()
        stream = bed.ads.stream()
        stream.first(ads.ADDRESS)
        sending = time.monotonic()
        stream.call.send(raw)
        sent = time.monotonic()
        stream.respond(ads.AUTHORIZATION)
        bed.enrol()
        while True:
            try:
                if bed.ready():
                    break
            except OSError:
                pass
            if time.monotonic() - started > timeout or bed.program.poll() is not None:
                raise RuntimeError(f"not ready with {count} workloads: {bed.logged()[-500:]}")
            time.sleep(0.005)
        ready = time.monotonic()
        stream.wait_answer("all")
        pid = bed.program.pid
        row = {"workloads": count, "message_bytes": len(raw), "ready_s": ready - started, "after_the_answer_began_s": ready - sending,
               "peer_sent_s": sent - sending, "cpu_s": cpu_seconds([pid]), "refused": None}
        time.sleep(1)
        row |= {"rss_kb": rss_kb(pid), "peak_kb": status_kb(pid, "VmHWM")}
        known = len(bed.dump()["workloads"]) if count <= 10000 else count
        if known != count:
            raise RuntimeError(f"it knows {known} of {count} workloads")
        return row
    finally:
        bed.down()


def measure(bench, sizes):
    """[{"workloads", "ready_s", "cpu_s", "rss_kb", "peak_kb", .., "refused"}]"""
    out = []
    for count in sizes:
        bench.say(f"{count} workloads over xDS")
        # The peers' modules have names that ours have too.
        done = subprocess.run([sys.executable, "-B", os.path.abspath(__file__), str(count)], capture_output=True, text=True, timeout=300)
        if done.returncode == 0:
            out.append(json.loads(done.stdout))
        else:
            out.append({"workloads": count})
            bench.refuse(out[-1], done.stderr.strip().rsplit("\n", 1)[-1])
    return out


def over(rows):
    """What is more than it may be; `rows` is what measure() returns."""
    out = []
    for row in rows:
        enough = NONE_KB + row["workloads"] * EACH_BYTES // 1024
        for name, kb in (("has", row.get("rss_kb")), ("had", row.get("peak_kb"))):
            if kb is not None and kb > enough:
                out.append(f"a node proxy {name} {kb} kB with {row['workloads']} workloads, {enough} are enough")
    return out


if __name__ == "__main__":
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../interop/pypeer"))
    print(json.dumps(one(int(sys.argv[1]))))
