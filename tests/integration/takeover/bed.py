# SPDX-License-Identifier: Apache-2.0
"""Three network namespaces as pods, the built proxy as real processes, a node agent and a supervisor.

`front` and `back` are enrolled, `out` is not. nft rules stand in for the capture: what leaves an
enrolled pod goes to 15001, what comes to its ports 7000-7999 goes to 15006. With `hbone` the enrolled
pods speak HBONE to each other, both ends in the same process, with certificates of a small authority.
"""
import array
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../netns"))
sys.path.insert(0, os.path.join(HERE, "../../support"))
import checker  # noqa: E402
import reports  # noqa: E402
from inside import setns  # noqa: E402

BIN = os.environ["QANAT_BIN_DIR"]
PODS = {"front": 1, "back": 2, "out": 3}
ENROLLED = ("front", "back")

RULES = """
table inet q {
  chain out { type route hook output priority -150;
    oifname lo accept
    meta mark { 0x539, 0x53c } accept
    ct direction reply accept
    meta l4proto tcp meta mark set 0x53a; }
  chain pre { type filter hook prerouting priority -150;
    iifname lo meta mark 0x53a meta l4proto tcp tproxy to :15001 accept; }
  chain in { type nat hook prerouting priority -100;
    iifname != lo tcp dport { 7000-7999 } redirect to :15006; }
}
"""


def run(command):
    subprocess.run(command, shell=True, check=True)


def ip(pod):
    return f"10.94.0.{PODS[pod]}"


# ---- ZDS by hand (common/proto/zds.proto)

def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


def add_message(uid, name):
    info = field(1, name.encode()) + field(2, b"shop") + field(3, name.encode())
    return field(1, field(1, uid.encode()) + field(2, info))


SNAPSHOT_SENT = field(3, b"")


class Agent:
    """Announces the enrolled pods to every proxy that connects."""

    def __init__(self, bed):
        self.bed = bed
        self.path = f"{bed.folder}/zds.sock"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.connections = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.tell, args=(connection,), daemon=True).start()

    def tell(self, connection):
        try:
            connection.recv(1024)  # hello
            for pod in ENROLLED:
                fd = os.open(self.bed.netns(pod), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                    connection.sendmsg([add_message("uid-" + pod, pod)], rights)
                finally:
                    os.close(fd)
                connection.recv(1024)  # acknowledged
            connection.send(SNAPSHOT_SENT)
            connection.recv(1024)
        except OSError:
            pass  # a proxy that was killed meanwhile

    def close(self):
        self.listener.close()
        for connection in self.connections:
            connection.close()


# ---- the proxy

# In the new process: the descriptors to where the protocol has them, and its pid, which nobody
# knows before.
LAUNCH = """
import os, sys
if group := os.environ.pop("CGROUP", ""):
    with open(f"{group}/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
high = [os.dup2(int(fd), 500 + i) for i, fd in enumerate(sys.argv[2:])]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
os.closerange(3 + len(high), 1000)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:2])
"""


class Proxy:
    """One process of it. `fds`: name -> descriptors, as a supervisor passes them; `more`: of its environment, and
    CGROUP for the one that it is to be in."""

    def __init__(self, bed, name, takeover=None, notify=None, fds=None, more=None):
        self.bed, self.name = bed, name
        self.log = f"{bed.folder}/{name}.log"
        environment = dict(os.environ)
        environment.update({
            "XDS_ADDRESS": "", "LOCAL_XDS_PATH": f"{bed.folder}/mesh.yaml", "INPOD_UDS": bed.agent.path,
            "NODE_NAME": "n1", "ZTUNNEL_WORKER_THREADS": "2", "ENABLE_ORIG_SRC": "false", "QANAT_ONE_PASS": "true" if bed.one_pass else "false",
            "ISTIO_META_DNS_CAPTURE": "true", "RUST_LOG": "info,access=off", "QANAT_ADMIN_ADDR": "127.0.0.1:0",
            "QANAT_METRICS_ADDR": "127.0.0.1:0", "QANAT_READINESS_ADDR": "127.0.0.1:0",
        })
        environment.update(bed.authority)
        environment.update(more or {})
        if takeover:
            environment["QANAT_TAKEOVER_SOCKET"] = takeover
        if notify:
            environment["NOTIFY_SOCKET"] = notify
        passed = [(key, fd) for key, kept in (fds or {}).items() for fd in kept]
        environment["LISTEN_FDS"] = str(len(passed))
        environment["LISTEN_FDNAMES"] = ":".join(key for key, _ in passed)

        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, f"{BIN}/qanat-ztunnel", *[str(fd) for _, fd in passed]],
                env=environment, stdout=log, stderr=log, pass_fds=[fd for _, fd in passed])
        self.pid = self.process.pid
        bed.proxies.append(self)

    def text(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def wait_for(self, what, condition, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.text()[-4000:]}")
            time.sleep(0.02)
        raise AssertionError(f"{self.name}: {what} did not come:\n{self.text()[-4000:]}")

    def wait_served(self):
        """Every enrolled pod is served (and the agent's snapshot is complete)."""
        self.wait_for("all pods", lambda: all(f"proxying pod shop/{pod} " in self.text() for pod in ENROLLED))

    def given(self):
        """(how much it has given to the process after it, how much that refused), once it says so."""
        said = []

        def look():
            said[:] = re.findall(r"given to the new process: (\d+) listeners and connections, (\d+) refused\n", self.text())
            return said
        self.wait_for("given to the new process", look)
        return int(said[0][0]), int(said[0][1])

    def wait_log(self, text, seconds=30):
        self.wait_for(text, lambda: text in self.text(), seconds)

    def descriptors(self):
        """Inodes of its sockets."""
        mine = set()
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                target = os.readlink(f"/proc/{self.pid}/fd/{fd}")
            except OSError:
                continue
            if target.startswith("socket:["):
                mine.add(target[8:-1])
        return mine

    def listening(self):
        """Inodes of its listening sockets inside the pods, by (pod, port)."""
        mine = self.descriptors()
        out = {}
        for pod in ENROLLED:
            for table in ("tcp", "tcp6"):
                rows = self.bed.inside(pod, read_file, f"/proc/thread-self/net/{table}")
                for row in rows.splitlines()[1:]:
                    columns = row.split()
                    if columns[3] == "0A" and columns[9] in mine:
                        out.setdefault((pod, int(columns[1].rpartition(":")[2], 16)), set()).add(columns[9])
        return out

    def pipes(self):
        """How many ends of pipes it has: splice() needs them, and nothing else of it does."""
        fds = f"/proc/{self.pid}/fd"
        return sum(os.readlink(f"{fds}/{fd}").startswith("pipe:") for fd in os.listdir(fds) if os.path.islink(f"{fds}/{fd}"))

    def metric(self, name, label):
        address = re.search(r"metrics (127\.0\.0\.1:\d+)", self.text())[1]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name) and label in line)

    def ready(self):
        """"" when it is, else what it waits for."""
        address = re.search(r"readiness (127\.0\.0\.1:\d+)", self.text())
        if not address:
            return "its start"
        try:
            with urllib.request.urlopen(f"http://{address[1]}/healthz/ready", timeout=10):
                return ""
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def established(self, port):
        """Inodes of its connections to or from that port inside the pods."""
        mine = self.descriptors()
        out = set()
        for pod in ENROLLED:
            for table in ("tcp", "tcp6"):
                for row in self.bed.inside(pod, read_file, f"/proc/thread-self/net/{table}").splitlines()[1:]:
                    columns = row.split()
                    ports = [int(columns[i].rpartition(":")[2], 16) for i in (1, 2)]
                    if columns[3] == "01" and port in ports and columns[9] in mine:
                        out.add(columns[9])
        return out

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, seconds=60):
        self.process.terminate()
        return self.process.wait(seconds)


class Supervisor:
    """Keeps what it is given over NOTIFY_SOCKET, as systemd's descriptor store does."""

    def __init__(self, folder):
        self.path = f"{folder}/notify.sock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.store, self.ready = {}, False
        self.lock = threading.Lock()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 4096, 253)
            except OSError:
                return
            lines = dict(line.partition("=")[::2] for line in data.decode().split("\n"))
            with self.lock:
                name = lines.get("FDNAME", "stored")
                if "FDSTORE" in lines:
                    kept = self.store.setdefault(name, [])
                    known = {os.fstat(fd).st_ino for fd in kept}
                    for fd in fds:
                        if os.fstat(fd).st_ino in known:
                            os.close(fd)
                        else:
                            kept.append(fd)
                if "FDSTOREREMOVE" in lines:
                    for fd in self.store.pop(name, []):
                        os.close(fd)
                if lines.get("READY") == "1":
                    self.ready = True
            if "FDSTORE" not in lines:  # systemd drops what it does not know (X_QANAT_FETCH), and what came along
                for fd in fds:
                    os.close(fd)

    def kept(self):
        with self.lock:
            return {name: list(fds) for name, fds in self.store.items()}

    def close(self):
        self.socket.close()
        for fds in self.store.values():
            for fd in fds:
                os.close(fd)


def wait_listening(path, seconds=30):
    """Somebody listens at that path: a process that has taken over does so some time after. Each is born under
    another name, PATH.xxxxxxxx, which the kernel goes on to call it by when it has the path."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for row in read_file("/proc/net/unix").splitlines()[1:]:
            columns = row.split()
            name = columns[7] if len(columns) > 7 else ""
            if name.rpartition(".")[0] == path and int(columns[3], 16) & 0x10000 and not os.path.exists(name):  # __SO_ACCEPTCON
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at {path}")


# ---- what runs inside pods

def read_file(path):
    with open(path) as file:
        return file.read()


def write_file(path, text):
    with open(path, "w") as file:
        file.write(text)


def in_pod(netns, function, arguments, pipe):
    setns(netns)
    try:
        pipe.send(("ok", function(*arguments)))
    except BaseException as error:  # noqa: BLE001: it is told to the test
        pipe.send(("error", repr(error)))
    finally:
        os._exit(0)


def echo_server(host, port, ready):
    """Echoes every connection until it is killed; one thread each."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(4096)
    ready.set()

    def serve(connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def talk(address, payload, timeout):
    """One connection: how it went, and how long it took."""
    begin = time.monotonic()
    step = "connect"
    try:
        with socket.create_connection(address, timeout) as connection:
            step = "talk"
            if payload:
                connection.sendall(payload)
                got = b""
                while len(got) < len(payload):
                    data = connection.recv(65536)
                    if not data:
                        return "talk: end", time.monotonic() - begin
                    got += data
                if got != payload:
                    return "talk: other bytes", time.monotonic() - begin
            return "ok", time.monotonic() - begin
    except OSError as error:
        return f"{step}: {error.__class__.__name__} {error}", time.monotonic() - begin


def load(targets, stop, threads, timeout):
    """New connections all the time: {outcome: count}, the longest ok one, when others happened."""
    counts, others, longest = {}, [], [0.0]
    lock = threading.Lock()

    def work(number):
        address, payload = targets[number % len(targets)]
        while not stop.is_set():
            how, seconds = talk(tuple(address), payload, timeout)
            with lock:
                counts[how] = counts.get(how, 0) + 1
                if how == "ok":
                    longest[0] = max(longest[0], seconds)
                else:
                    others.append((time.monotonic(), how))
            time.sleep(0.002)
    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return counts, longest[0], others


class Job:
    """A function in a process inside a pod."""

    def __init__(self, netns, function, arguments):
        self.pipe, child = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=in_pod, args=(netns, function, arguments, child), daemon=True)
        self.process.start()
        child.close()

    def result(self, seconds=60):
        if not self.pipe.poll(seconds):
            raise AssertionError("no result in time")
        kind, value = self.pipe.recv()
        self.pipe.close()
        self.process.join()
        if kind != "ok":
            raise AssertionError(value)
        return value


class Bed:
    def __init__(self, hbone=False, one_pass=False):
        self.id = f"qto-{os.getpid()}"
        self.one_pass = one_pass
        self.folder = tempfile.mkdtemp(prefix="qto-")
        self.proxies, self.jobs = [], []
        self.hbone, self.authority, self.ca = hbone, {}, None
        if hbone:
            self.start_authority()
        hub = f"{self.id}-hub"
        run(f"ip netns add {hub} && ip -n {hub} link add br0 type bridge && ip -n {hub} link set br0 up")
        for pod, index in PODS.items():
            name = f"{self.id}-{pod}"
            run(f"ip netns add {name} && ip -n {name} link set lo up && "
                f"ip link add e0 netns {name} type veth peer name v{index} netns {hub} && "
                f"ip -n {hub} link set v{index} master br0 up && ip -n {name} link set e0 up && "
                f"ip -n {name} addr add 10.94.0.{index}/24 dev e0 && "
                f"ip -n {name} rule add fwmark 0x53a lookup 101 && "
                f"ip -n {name} route add local default dev lo src 10.94.0.{index} table 101")
            if pod in ENROLLED:
                rules = RULES
                if one_pass:  # in place of the agent's grants: who comes from `front` was let in there
                    rules = RULES.replace("chain in { type nat hook prerouting priority -100;",
                                          f"chain in {{ type nat hook prerouting priority -100; ip saddr {ip('front')} accept")
                subprocess.run(["ip", "netns", "exec", name, "nft", "-f", "-"], input=rules, text=True, check=True)
        with open(f"{self.folder}/mesh.yaml", "w") as file:
            file.write("workloads:\n" + "".join(
                f"- {{uid: Kubernetes//Pod/shop/{pod}, name: {pod}, namespace: shop, protocol: {'HBONE' if hbone else 'TCP'},\n"
                f"   serviceAccount: {pod}, node: n1, workloadIps: [{ip(pod)}]}}\n" for pod in ENROLLED)
                + "services: []\npolicies: []\n")
        self.agent = Agent(self)
        self.takeover = f"{self.folder}/takeover.sock"
        for pod in ENROLLED:
            for serve, port in ((echo_server, 7000), (checker.server, 7001)):
                ready = multiprocessing.Event()
                self.jobs.append(Job(self.netns(pod), serve, ("0.0.0.0", port, ready)))
                if not ready.wait(60):
                    raise AssertionError("the application did not start")

    def start_authority(self):
        self.ca = subprocess.Popen([sys.executable, "-B", f"{HERE}/authority.py", self.folder], text=True, stdout=subprocess.PIPE)
        port = int(self.ca.stdout.readline())
        self.authority = {"CA_ADDRESS": f"https://localhost:{port}", "CA_ROOT_CA": f"{self.folder}/root.pem",
                          "AUTH_TOKEN": f"{self.folder}/token"}

    def netns(self, pod):
        return f"/run/netns/{self.id}-{pod}"

    def inside(self, pod, function, *arguments, seconds=60):
        return Job(self.netns(pod), function, arguments).result(seconds)

    def start_load(self, threads=6, timeout=20):
        """From an enrolled pod outwards, and from outside to plain and tunnel ports."""
        stop = multiprocessing.Event()
        out = [((ip("back"), 7000), b"x" * 2000)]
        inwards = [((ip("back"), 7000), b"y" * 2000), ((ip("front"), 15008), b""), ((ip("back"), 15008), b"")]
        jobs = [Job(self.netns("front"), load, (out, stop, threads, timeout)),
                Job(self.netns("out"), load, (inwards, stop, threads, timeout))]

        def finish():
            stop.set()
            return [job.result(120) for job in jobs]
        return finish

    def start_clients(self, count, pace=0):
        """Connections that stay (checker.py): half from an enrolled pod, half from outside."""
        stop = multiprocessing.Event()
        jobs = []
        for pod in ("front", "out"):
            up = multiprocessing.Event()
            jobs.append(Job(self.netns(pod), checker.clients, ((ip("back"), 7001), count // 2, pace, up, stop)))
            if not up.wait(120):
                raise AssertionError("not all connections came up")

        def finish():
            stop.set()
            return [job.result(120) for job in jobs]
        return finish

    def close(self):
        logs = {proxy.name: proxy for proxy in self.proxies}
        for proxy in self.proxies:
            if proxy.process.poll() is None:
                proxy.process.terminate()
        for proxy in self.proxies:
            try:
                proxy.process.wait(20)
            except subprocess.TimeoutExpired:
                proxy.kill()
        self.agent.close()
        if self.ca:
            self.ca.terminate()
            self.ca.wait(20)
            self.ca.stdout.close()
        for job in self.jobs:
            job.process.kill()
        found = [f"{name}: {excerpt}" for name, proxy in logs.items() if (excerpt := reports.find(proxy.text()))]
        for pod in PODS:
            subprocess.run(f"ip -n {self.id}-{pod} link del e0; ip netns del {self.id}-{pod}", shell=True)
        subprocess.run(f"ip netns del {self.id}-hub", shell=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        if found:
            raise AssertionError("\n".join(found))
