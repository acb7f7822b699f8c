# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces, a stock Envoy as the waypoint in one, and in the other a second stock
Envoy that plays every ztunnel (HBONE client for each caller, HBONE server for each pod), with the
applications of the shop sample behind it. Everything is ended and removed by close()."""

import atexit
import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TREE = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.insert(0, os.path.join(TREE, "tests/support"))
import reports

SHOP = os.path.join(TREE, "deploy/samples/shop")
OVERLAY = os.path.join(TREE, "controlplane/envoy/testdata/shop.overlay.yaml")
TYPE = "type.googleapis.com/"
TLS = "envoy.extensions.transport_sockets.tls.v3."
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
WAYPOINT_IP = "10.91.1.20"

# What shop.overlay.yaml says: pod -> (Deployment, ServiceAccount, version, address).
PODS = {
    "backend-v1-a": ("backend-v1", "backend", "v1", "10.91.1.5"),
    "backend-v1-b": ("backend-v1", "backend", "v1", "10.91.2.5"),
    "backend-v2-a": ("backend-v2", "backend", "v2", "10.91.1.6"),
    "payments-v1-a": ("payments-v1", "payments", "v1", "10.91.1.7"),
    "payments-v2-a": ("payments-v2", "payments", "v2", "10.91.2.7"),
}
VIPS = {"backend": "10.96.0.11", "payments": "10.96.0.12"}


def envoy_binary():
    script = os.path.join(os.path.dirname(HERE), "envoy.sh")
    return subprocess.run(["bash", script], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def shop_files():
    return [os.path.join(SHOP, f) for f in sorted(os.listdir(SHOP)) if f.endswith(".yaml")]


def container_script(deployment):
    """The inline python of a Deployment of the sample, as a cluster would run it."""
    for path in shop_files():
        with open(path) as file:
            documents = file.read().split("\n---\n")
        for document in documents:
            if "kind: Deployment" in document and re.search(rf"^  name: {deployment}$", document, re.M):
                block = re.search(r"^( *)- \|\n((?:\1  .*\n|\n)*)", document, re.M)
                indent = len(block.group(1)) + 2
                return "\n".join(line[indent:] for line in block.group(2).split("\n"))
    raise AssertionError(f"no Deployment {deployment} in {SHOP}")


def any_of(type_name, **fields):
    return {"@type": TYPE + type_name, **fields}


def address(ip, port):
    return {"socket_address": {"address": ip, "port_value": port}}


class Authority:
    """Signs SPIFFE certificates with a given CA (or one of its own)."""

    def __init__(self, directory, root_cert=None, root_key=None):
        self.dir = directory
        os.makedirs(directory, exist_ok=True)
        if not root_cert:
            self.run("ecparam -name prime256v1 -genkey -noout -out ca.key")
            self.run("req -x509 -new -key ca.key -subj /O=cluster.local -days 10 -out ca.pem "
                     "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign")
        else:
            shutil.copy(root_cert, os.path.join(directory, "ca.pem"))
            shutil.copy(root_key, os.path.join(directory, "ca.key"))

    def run(self, arguments):
        subprocess.run(["openssl", *arguments.split()], cwd=self.dir, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def path(self, name):
        return os.path.join(self.dir, name)

    def issue(self, name, uri):
        with open(self.path(name + ".ext"), "w") as ext:
            ext.write(f"subjectAltName=critical,URI:{uri}\nkeyUsage=critical,digitalSignature\n"
                      "extendedKeyUsage=serverAuth,clientAuth\n")
        self.run(f"ecparam -name prime256v1 -genkey -noout -out {name}.ec")
        self.run(f"pkcs8 -topk8 -nocrypt -in {name}.ec -out {name}.key")
        self.run(f"req -new -key {name}.key -subj / -out {name}.csr")
        self.run(f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 5 "
                 f"-extfile {name}.ext -out {name}.pem")


def spiffe(account, namespace="shop", trust_domain="cluster.local"):
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"


def hbone_tls(secret, peer):
    return {
        "alpn_protocols": ["h2"],
        # As a client Envoy offers nothing above 1.2 unless told to.
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [{"name": secret}],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}]},
            "validation_context_sds_secret_config": {"name": "ROOTCA"}}}


class Bed:
    """`name` keeps the namespaces of tests apart; `gateway` is the waypoint that Envoy stands for."""

    def __init__(self, name, gateway):
        self.gateway = gateway
        self.directory = tempfile.mkdtemp(prefix="qanat-interop-")
        self.pods_ns, self.way_ns = f"qENVOY-{os.getpid()}-{name}-pods", f"qENVOY-{os.getpid()}-{name}-way"
        self.processes = []
        self.envoy = envoy_binary()
        self.pods = PODS
        self.clients = []  # (port, secret, source, authority)
        self.servers = []  # (ip, secret)
        self.authority = None
        atexit.register(self.close)
        # ctest ends a test that takes too long with SIGTERM: leave nothing behind then either.
        signal.signal(signal.SIGTERM, lambda *_: exit(1))
        self.make_namespaces()

    # --- namespaces ------------------------------------------------------------------------------

    def ip(self, arguments, check=True):
        subprocess.run(["ip", *arguments.split()], check=check, stderr=None if check else subprocess.DEVNULL)

    def make_namespaces(self):
        for ns in (self.pods_ns, self.way_ns):
            self.ip(f"netns del {ns}", check=False)
            self.ip(f"netns add {ns}")
            self.ip(f"-n {ns} link set lo up")
        self.ip(f"-n {self.pods_ns} link add e type veth peer name e netns {self.way_ns}")
        for ns in (self.pods_ns, self.way_ns):
            self.ip(f"-n {ns} link set e up")
        self.ip(f"-n {self.way_ns} addr add {WAYPOINT_IP}/32 dev e")
        self.ip(f"-n {self.pods_ns} route add {WAYPOINT_IP}/32 dev e")
        self.ip(f"-n {self.way_ns} route add 10.0.0.0/8 dev e")

    def run_in(self, ns, command, **kwargs):
        return subprocess.run(["ip", "netns", "exec", ns, *command], check=True, **kwargs)

    def start(self, ns, command, name, env=None):
        with open(os.path.join(self.directory, name + ".log"), "ab") as log:
            process = subprocess.Popen(["ip", "netns", "exec", ns, *command], stdout=log, stderr=log,
                                       env={**os.environ, **(env or {})}, cwd=self.directory)
        self.processes.append((name, process))
        return process

    def log(self, name):
        with open(os.path.join(self.directory, name + ".log"), errors="replace") as file:
            return file.read()

    def enter(self, ns):
        """This process moves; sockets made from now on are in `ns`."""
        with open("/run/netns/" + ns) as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns " + ns)

    def end_ours(self, seconds=60):
        """Our program among them must still run, end in order, and have printed no report."""
        problems = []
        for name, process in self.processes:
            if name != "controlplane":
                continue
            if process.poll() is None:
                process.terminate()
                try:
                    if process.wait(seconds) != 0:
                        problems.append(f"{name} ended with {process.returncode}")
                except subprocess.TimeoutExpired:
                    problems.append(f"{name} did not end within {seconds} s of SIGTERM")
            else:
                problems.append(f"{name} had ended with {process.returncode}")
        if os.path.exists(os.path.join(self.directory, "controlplane.log")):
            log = self.log("controlplane")
            if report := reports.find(log):
                problems.append(report)
            elif problems:
                problems.append(log[-3000:])
        return problems

    def close(self):
        problems = self.end_ours()
        for _, process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
        for _, process in self.processes:
            process.wait()
        self.processes = []
        for ns in (self.pods_ns, self.way_ns):
            if os.path.exists("/run/netns/" + ns):
                self.ip(f"netns del {ns}", check=False)
        if os.environ.get("QANAT_KEEP"):
            print("kept:", self.directory)
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
        if problems:
            raise AssertionError("our programs broke:\n" + "\n".join(problems))

    # --- the parts -------------------------------------------------------------------------------

    def certificates(self, root_cert=None, root_key=None):
        self.authority = Authority(os.path.join(self.directory, "certs"), root_cert, root_key)
        self.authority.issue("waypoint", spiffe(self.gateway))
        for account in ("frontend", "loadgen", "backend", "payments"):
            self.authority.issue(account, spiffe(account))
        self.authority.issue("scraper", spiffe("scraper", "monitoring"))

    def client(self, port, account, authority, source="10.90.0.1"):
        """127.0.0.1:`port` becomes a tunnel to the waypoint in the name of `account`."""
        self.clients.append((port, account, authority, source))

    def start_peers(self, wrong_identity=()):
        """The applications and their ztunnels. `wrong_identity`: pods whose ztunnel shows the
        certificate of somebody else."""
        for pod, (deployment, account, version, ip) in self.pods.items():
            self.ip(f"-n {self.pods_ns} addr add {ip}/32 dev lo")
            # All pods share a namespace here, so that each needs its own address to listen on.
            script = re.sub(r'\("", (8080|5432)\)', f'("::ffff:{ip}", 8080)', container_script(deployment))
            self.start(self.pods_ns, ["python3", "-u", "-c", script], pod,
                       {"VERSION": version, "POD_NAME": pod, "NODE_NAME": "node",
                        "PAYMENTS_URL": "http://127.0.0.1:1", "DATABASE_HOST": "127.0.0.1"})
            self.servers.append((pod, ip, "loadgen" if pod in wrong_identity else account))
        for source in {client[3] for client in self.clients}:
            self.ip(f"-n {self.pods_ns} addr replace {source}/32 dev lo")
        path = os.path.join(self.directory, "peers.json")
        with open(path, "w") as file:
            json.dump(self.peers_config(), file)
        self.start(self.pods_ns, [self.envoy, "-c", path, "--base-id", str(os.getpid() % 4000 + 1),
                                  "--concurrency", "1", "-l", "error"], "peers")

    def start_waypoint(self, path):
        self.start(self.way_ns, [self.envoy, "-c", path, "--base-id", str(os.getpid() % 4000 + 4001),
                                 "--concurrency", "1", "-l", "warning"], "waypoint")

    def admin(self, path, timeout=20):
        """GET of the waypoint's admin interface, which listens on its loopback."""
        out = self.run_in(self.way_ns, ["curl", "-s", "-m", str(timeout), "http://127.0.0.1:15000" + path],
                          stdout=subprocess.PIPE, text=True)
        return out.stdout

    def stats(self, pattern):
        text = self.admin("/stats?filter=" + pattern)
        return {line.rsplit(": ", 1)[0]: line.rsplit(": ", 1)[1]
                for line in text.splitlines() if ": " in line}

    def wait_ready(self, seconds=90):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if self.admin("/ready").strip() == "LIVE":
                    break
            except subprocess.CalledProcessError:
                pass
            for name, process in self.processes:
                if process.poll() is not None:
                    raise AssertionError(f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}")
            time.sleep(0.1)
        else:
            raise AssertionError("Envoy did not become ready:\n" + self.log("waypoint")[-3000:])
        # The applications and the other Envoy may be a moment later.
        self.enter(self.pods_ns)
        for pod, (_, _, _, ip) in self.pods.items():
            self.wait_port(ip, 8080, until)
            self.wait_port(ip, 15008, until)
        for port, *_ in self.clients:
            self.wait_port("127.0.0.1", port, until)

    @staticmethod
    def wait_port(ip, port, until):
        while True:
            try:
                socket.create_connection((ip, port), 1).close()
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    # --- Envoy as every ztunnel ------------------------------------------------------------------

    def peers_config(self):
        waypoint = spiffe(self.gateway)
        listeners, clusters = [], []
        http2 = {HTTP_OPTIONS: any_of(HTTP_OPTIONS, explicit_http_config={
            "http2_protocol_options": {"allow_connect": True}})}

        def cluster(name, ip, port, **more):
            clusters.append({"name": name, "type": "STATIC", "connect_timeout": "20s", "load_assignment": {
                "cluster_name": name, "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": address(ip, port)}}]}]}, **more})

        for port, account, authority, source in self.clients:
            name = f"client-{port}"
            listeners.append({"name": name, "address": address("127.0.0.1", port), "filter_chains": [
                {"filters": [{"name": "tcp", "typed_config": any_of(
                    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=name,
                    cluster=name, tunneling_config={"hostname": authority})}]}]})
            cluster(name, WAYPOINT_IP, 15008, typed_extension_protocol_options=http2,
                    upstream_bind_config={"source_address": {"address": source, "port_value": 0}},
                    transport_socket={"name": "tls", "typed_config": any_of(
                        TLS + "UpstreamTlsContext", common_tls_context=hbone_tls(account, waypoint))})
        for pod, ip, account in self.servers:
            cluster(pod, ip, 8080)
            listeners.append({"name": pod, "address": address(ip, 15008), "filter_chains": [{
                "transport_socket": {"name": "tls", "typed_config": any_of(
                    TLS + "DownstreamTlsContext", require_client_certificate=True,
                    common_tls_context=hbone_tls(account, waypoint))},
                "filters": [{"name": "hcm", "typed_config": any_of(
                    HCM, stat_prefix=pod, codec_type="HTTP2",
                    http2_protocol_options={"allow_connect": True},
                    upgrade_configs=[{"upgrade_type": "CONNECT"}],
                    access_log=[{"name": "log", "typed_config": any_of(
                        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
                        path=os.path.join(self.directory, "tunnels.log"),
                        log_format={"text_format_source": {"inline_string":
                            f"{pod} %REQ(:METHOD)% %REQ(:AUTHORITY)% %DOWNSTREAM_PEER_URI_SAN%\n"}})}],
                    http_filters=[{"name": "router", "typed_config": any_of(
                        "envoy.extensions.filters.http.router.v3.Router")}],
                    route_config={"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{
                        "match": {"connect_matcher": {}},
                        "route": {"cluster": pod, "timeout": "0s", "upgrade_configs": [
                            {"upgrade_type": "CONNECT", "connect_config": {}}]}}]}]})}]}]})
        secrets = [{"name": "ROOTCA", "validation_context": {
            "trusted_ca": {"filename": self.authority.path("ca.pem")}}}]
        for name in sorted({c[1] for c in self.clients} | {s[2] for s in self.servers}):
            secrets.append({"name": name, "tls_certificate": {
                "certificate_chain": {"filename": self.authority.path(name + ".pem")},
                "private_key": {"filename": self.authority.path(name + ".key")}}})
        return {"node": {"id": "peers", "cluster": "peers"},
                "static_resources": {"secrets": secrets, "listeners": listeners, "clusters": clusters}}


class Caller:
    """Requests over one kept connection through one of the client tunnels."""

    def __init__(self, port, host):
        self.port, self.host = port, host
        self.connection = None

    def __call__(self, path="/api/orders", method="GET", headers=None, body=None):
        """(status, body as JSON or text, headers); status 0 when the connection was closed."""
        for attempt in (0, 1):
            fresh = self.connection is None
            if fresh:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                self.connection.putrequest(method, path, skip_host=True)
                self.connection.putheader("Host", self.host)
                for key, value in (headers or {}).items():
                    self.connection.putheader(key, value)
                if body is not None:
                    self.connection.putheader("Content-Length", str(len(body)))
                self.connection.endheaders(body)
                response = self.connection.getresponse()
                text = response.read().decode()
            except (OSError, http.client.HTTPException):
                self.connection.close()
                self.connection = None
                # A kept connection may have been closed by the other end in the meantime.
                if fresh or attempt:
                    return 0, "", {}
                continue
            result = {key.lower(): value for key, value in response.getheaders()}
            if response.will_close:
                self.connection = None
            try:
                return response.status, json.loads(text), result
            except ValueError:
                return response.status, text, result
