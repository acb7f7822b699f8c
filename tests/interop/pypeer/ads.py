# SPDX-License-Identifier: Apache-2.0
"""The control plane's side of delta xDS: the reference, section 3. With `auto` the first request of a
type on a stream is answered with all of it; otherwise the test answers."""
import socket
import threading
import time

import proto

PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"
MESSAGE = {ADDRESS: "Address", AUTHORIZATION: "Authorization"}


class Stream:
    def __init__(self, ads, call):
        self.ads, self.call, self.requests, self.ended = ads, call, [], None

    def first(self, url):
        return self.wait(lambda r: r.get("type_url") == url, f"a request for {url}")

    def wait(self, fits, what, timeout=60):
        """The first request on this stream that fits."""
        with self.ads.cond:
            def found():
                return next((r for r in self.requests if fits(r)), None)
            self.ads.cond.wait_for(lambda: found() or self.ended, timeout)
            if request := found():
                return request
            seen = [proto.show(r) for r in self.requests[-5:]]
            raise AssertionError(f"{what}: did not come ({self.ended or 'stream is open'}); last requests: {seen}")

    def wait_answer(self, nonce):
        return self.wait(lambda r: r.get("response_nonce") == nonce, f"the answer to {nonce}")

    def respond(self, url, resources=(), removed=()):
        """resources: (name, version, raw bytes or message). Returns the nonce."""
        out = []
        for name, version, body in resources:
            raw = body if isinstance(body, bytes) else proto.encode(MESSAGE[url], body)
            out.append({"name": name, "version": version, "resource": {"type_url": url, "value": raw}})
        nonce = self.ads.new_nonce()
        response = {"type_url": url, "nonce": nonce, "system_version_info": nonce, "resources": out, "removed_resources": list(removed)}
        raw = proto.encode("DeltaDiscoveryResponse", response)
        self.ads.bytes[url] = self.ads.bytes.get(url, 0) + len(raw)
        self.call.send(raw)
        return nonce


class Ads:
    def __init__(self, auto=True):
        self.auto, self.cond, self.streams, self.nonces, self.violations = auto, threading.Condition(), [], 0, []
        self.resources = {ADDRESS: {}, AUTHORIZATION: {}}  # name -> message
        self.bytes = {}  # of messages that were sent, by type
        self.settle = lambda: time.sleep(1)  # the bed knows better

    def new_nonce(self):
        with self.cond:
            self.nonces += 1
            return f"nonce-{self.nonces}"

    def serve(self, call):
        stream = Stream(self, call)
        with self.cond:
            self.streams.append(stream)
            self.cond.notify_all()
        call.begin()
        why, seen = "ended by the client", set()
        try:
            while (raw := call.receive(timeout=3600)) is not None:
                request = proto.decode("DeltaDiscoveryRequest", raw)
                if unknown := proto.unknown_fields(request):
                    self.violations.append(f"DeltaDiscoveryRequest has unknown fields {unknown}")
                url = request.get("type_url")
                with self.cond:
                    stream.requests.append(request)
                    self.cond.notify_all()
                if self.auto and url in self.resources and url not in seen:
                    stream.respond(url, self._all(url))
                seen.add(url)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        with self.cond:
            stream.ended = why
            self.cond.notify_all()

    def _all(self, url):
        return [(name, "1", body) for name, body in self.resources[url].items()]

    def stream(self, number=0, timeout=60):
        """The number-th stream since the start, when it is there."""
        with self.cond:
            if not self.cond.wait_for(lambda: len(self.streams) > number, timeout):
                raise TimeoutError(f"no xDS stream {number}: {len(self.streams)} so far")
            return self.streams[number]

    def push(self, url, changed=None, removed=()):
        """Changes what is served, tells the newest stream and waits until it is confirmed."""
        self.resources[url].update(changed or {})
        for name in removed:
            self.resources[url].pop(name, None)
        stream = self.streams[-1]
        nonce = stream.respond(url, [(name, self.new_nonce(), body) for name, body in (changed or {}).items()], removed)
        answer = stream.wait_answer(nonce)
        if "error_detail" in answer:
            raise AssertionError(f"refused: {answer['error_detail']}")
        self.settle()  # the ACK says that it was understood; the threads that carry connections follow
        return answer


def workload(name, namespace, account, pod, **more):
    """(xDS name, Address) of a pod that speaks HBONE."""
    uid = f"Kubernetes//Pod/{namespace}/{name}"
    addresses = [socket.inet_pton(socket.AF_INET, pod.ip), socket.inet_pton(socket.AF_INET6, pod.ip6)]
    return uid, {"workload": {"uid": uid, "name": name, "namespace": namespace, "addresses": addresses, "tunnel_protocol": 1,
                              "trust_domain": "cluster.local", "service_account": account, "node": "node-1",
                              "canonical_name": name, "canonical_revision": "v1", "workload_type": 2, "workload_name": name,
                              "cluster_id": "Kubernetes", **more}}


def service(name, namespace, vip, ports, **more):
    host = f"{name}.{namespace}.svc.cluster.local"
    pairs = [{"service_port": port, "target_port": target} for port, target in ports.items()]
    return f"{namespace}/{host}", {"service": {"name": name, "namespace": namespace, "hostname": host, "ports": pairs,
                                               "addresses": [{"network": "", "address": socket.inet_aton(vip), "length": 32}], **more}}


def policy(name, namespace, action, *matches, scope=1):
    """(xDS name, Authorization) with one rule of one clause; action 0 allows, 1 denies."""
    return f"{namespace}/{name}", {"name": name, "namespace": namespace, "scope": scope, "action": action,
                                   "rules": [{"clauses": [{"matches": list(matches)}]}]}
