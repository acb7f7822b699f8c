# SPDX-License-Identifier: Apache-2.0
"""The bed of the end-to-end tests: a mesh on this machine, brought up by `qanatctl local`.

The programs come from $QANAT_BIN_DIR (default build/asan/bin). A test writes Kubernetes YAML into
a folder, brings it up, and acts inside pods: `mesh.call("shop/client", function, ...)` runs a Python
function in a child process that has entered the pod's network namespace and control group, which
is what an application in that pod can do and see.
"""
import ctypes
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("QANAT_BIN_DIR", os.path.join(ROOT, "build/asan/bin"))
APP = os.path.join(ROOT, "tests/netns/app.py")
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000


def cgroup2():
    for line in open("/proc/self/mountinfo"):
        left, right = line.split(" - ")
        if right.startswith("cgroup2 "):
            return left.split()[4]
    raise RuntimeError("no cgroup2 mount")


def setns(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if LIBC.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


def use_resolv_conf(path):
    """The pod's resolver configuration instead of the machine's, in a mount namespace of our own."""
    if LIBC.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    private, bind = (1 << 18) | (1 << 14), 1 << 12
    for source, target, flags in ((b"none", b"/", private), (path.encode(), b"/etc/resolv.conf", bind)):
        if LIBC.mount(source, target, None, flags, None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {path}")


def run_inside(netns, cgroup, function, args, timeout, resolv_conf=None):
    """Runs function(*args) in a forked child inside the namespace; its result or exception comes back."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            if cgroup:
                with open(os.path.join(cgroup, "cgroup.procs"), "w") as f:
                    f.write(str(os.getpid()))
            setns(netns)
            if resolv_conf:
                use_resolv_conf(resolv_conf)
            try:
                answer = (True, function(*args))
            except BaseException as error:  # goes to the parent whatever it is
                answer = (False, (type(error).__name__, str(error), traceback.format_exc(), error.errno if isinstance(error, OSError) else None))
            with os.fdopen(writer, "wb") as f:
                pickle.dump(answer, f)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    deadline = time.monotonic() + timeout
    data = b""
    with os.fdopen(reader, "rb", buffering=0) as f:
        os.set_blocking(f.fileno(), False)
        while True:
            chunk = f.read(1 << 20)
            if chunk == b"":
                break
            if chunk is None:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    raise TimeoutError(f"{function.__name__} did not end in {timeout} s")
                time.sleep(0.002)
                continue
            data += chunk
    os.waitpid(pid, 0)
    if not data:
        raise RuntimeError(f"{function.__name__} died in {netns}")
    ok, value = pickle.loads(data)
    if ok:
        return value
    raise InPod(*value)


class InPod(Exception):
    """An exception that was raised inside a pod."""

    def __init__(self, kind, text, trace, errno):
        super().__init__(f"{kind}: {text}\n{trace}")
        self.kind, self.text, self.errno = kind, text, errno


class Mesh:
    def __init__(self, name="e2e", nodes=2, options=(), environment=None):
        self.name, self.nodes, self.options = name, nodes, list(options)
        self.environment = {**os.environ, **(environment or {})}  # the programs of the mesh get it too
        self.folder = tempfile.mkdtemp(prefix="qanat-e2e-")
        self.run = f"/run/qanat/{name}"

    # -- life cycle ---------------------------------------------------------------------------
    def ctl(self, *args, check=True, timeout=240, **more):
        command = [os.path.join(BIN, "qanatctl"), *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=self.environment, **more)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}{done.stderr}\n{self.diagnose()}")
        return done

    def write(self, file, text):
        """Puts YAML into the folder, in one step, as an editor or GitOps agent would."""
        path = os.path.join(self.folder, file)
        with open(path + ".tmp", "w") as f:
            f.write(textwrap.dedent(text).replace("@APP@", APP))
        os.rename(path + ".tmp", path)

    def remove(self, file):
        os.unlink(os.path.join(self.folder, file))

    def up(self):
        self.ctl("local", "down", "--name", self.name, check=False)
        self.ctl("local", "up", self.folder, "--name", self.name, "--nodes", str(self.nodes), *self.options)
        return self

    def down(self):
        if os.environ.get("QANAT_KEEP"):
            return
        self.ctl("local", "down", "--name", self.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        try:
            return self.up()
        except BaseException:
            self.ctl("local", "down", "--name", self.name, check=False)
            raise

    def __exit__(self, *unused):
        self.down()

    def diagnose(self):
        """The end of every log, for the message of a failed test."""
        out = []
        logs = os.path.join(self.run, "logs")
        for file in sorted(os.listdir(logs)) if os.path.isdir(logs) else []:
            lines = open(os.path.join(logs, file), errors="replace").read().splitlines()[-15:]
            out.append(f"--- {file}\n" + "\n".join(lines))
        return "\n".join(out)

    # -- looking ------------------------------------------------------------------------------
    def state(self):
        return json.load(open(os.path.join(self.run, "mesh.json")))

    def program_pid(self, program):
        """The pid of "agent-node1", "ztunnel-node2", "controlplane", "waypoint-NS-NAME" as it is now."""
        for entry in self.state()["programs"]:
            if entry["name"] == program:
                return entry["pid"]
        raise KeyError(f"{program} is not among {[p['name'] for p in self.state()['programs']]}")

    def pod_netns(self, pod):
        namespace, name = pod.split("/")
        return f"/run/netns/qanat-{self.name}-pod-{namespace}-{name}"

    def node_netns(self, node):
        return f"/run/netns/qanat-{self.name}-node-{node}"

    def pod_files(self):
        found = {}
        for node in os.listdir(os.path.join(self.run, "nodes")):
            base = os.path.join(self.run, "nodes", node, "pods")
            for file in os.listdir(base) if os.path.isdir(base) else []:
                if not file.endswith(".json"):
                    continue
                try:
                    with open(os.path.join(base, file)) as f:
                        pod = json.load(f)
                except FileNotFoundError:
                    continue  # the pod went away while we looked
                pod["node"] = node
                found[f"{pod['namespace']}/{pod['name']}"] = pod
        return found

    def ip(self, pod, version=4):
        for ip in self.pod_files()[pod]["ips"]:
            if (":" in ip) == (version == 6):
                return ip
        raise KeyError(f"{pod} has no IPv{version} address")

    # -- acting -------------------------------------------------------------------------------
    def call(self, pod, function, *args, timeout=60):
        info = self.pod_files()[pod]
        cgroup = f"{cgroup2()}/qanat-{self.name}/{info['node']}/pods/{info['uid']}"
        resolv_conf = f"{self.run}/pods/{info['uid']}/resolv.conf"
        return run_inside(self.pod_netns(pod), cgroup, function, args, timeout, resolv_conf)

    def call_node(self, node, function, *args, timeout=60):
        return run_inside(self.node_netns(node), None, function, args, timeout)

    def admin(self, node, path, port=15000):
        """GET of a node proxy's (or with port 15030 the agent's) admin endpoint."""
        return self.call_node(node, http_get, "127.0.0.1", port, path)

    def wait(self, what, condition, seconds=20):
        """Waits until condition() is true; the last exception is part of the failure."""
        deadline, last = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
                last = None
            except Exception as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {seconds} s; last: {last}\n{self.diagnose()}")


# -- what runs inside pods ------------------------------------------------------------------------
def connect(host, port, timeout=10):
    sock = socket.create_connection((host, port), timeout=timeout)
    return sock


def http_get(host, port, path="/", headers=None, method="GET", body=None, timeout=15):
    import http.client
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        data = response.read()
        return response.status, dict((k.lower(), v) for k, v in response.getheaders()), data
    finally:
        connection.close()


def echo_once(host, port, payload=b"hello"):
    """One echo with half close; returns what came back."""
    with connect(host, port) as sock:
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while chunk := sock.recv(65536):
            got += chunk
        return got


def outcome(host, port, payload=b"hello", timeout=10):
    """"ok" when an echo works, else how it ended: what an application sees of a refusal."""
    try:
        with connect(host, port, timeout) as sock:
            sock.sendall(payload)
            got = b""
            while len(got) < len(payload):
                chunk = sock.recv(65536)
                if not chunk:
                    return "closed"
                got += chunk
            return "ok" if got == payload else "corrupt"
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    except OSError as error:
        return f"error {error.errno}"
