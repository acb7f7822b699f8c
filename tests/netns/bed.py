# SPDX-License-Identifier: Apache-2.0
"""The bed of the end-to-end tests: a mesh on this machine, brought up by `qanatctl local`.

The programs come from $QANAT_BIN_DIR (default build/asan/bin). A test writes Kubernetes YAML into
a folder, brings it up, and acts inside pods: `mesh.call("shop/client", function, ...)` runs a Python
function in a child process that has entered the pod's network namespace and control group, which
is what an application in that pod can do and see. When the mesh goes down, a sanitizer's report in
a program's log or a restart that the test did not announce is a failure.
"""
import atexit
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("QANAT_BIN_DIR", os.path.join(ROOT, "build/asan/bin"))
APP = os.path.join(ROOT, "tests/netns/app.py")
sys.path.insert(0, os.path.join(ROOT, "tests/support"))
import reports
# Tests take all of it from here.
from kernel_objects import KernelObjects
from inside import LIBC, InPod, cgroup2, connect, echo_once, http_get, outcome, over, run_inside, setns

OURS = ("agent-", "ztunnel-", "controlplane", "waypoint-")


def own_name(prefix):
    """A mesh name (up to twelve letters and digits) that no other run on this machine has."""
    return f"{prefix}{os.getpid()}"


class Mesh:
    def __init__(self, name=None, nodes=2, options=(), environment=None):
        self.name, self.nodes, self.options = name or own_name("e2e"), nodes, list(options)
        self.deaths = {}  # program -> how often the test has made it end
        # The programs of the mesh get it too. Most tests look at what the proxy does, also between pods of one node.
        self.environment = {"QANAT_SAME_NODE": "proxy", **os.environ, **(environment or {})}
        self.folder, self.flags = tempfile.mkdtemp(prefix="qanat-e2e-"), tempfile.mkdtemp(prefix="qanat-flags-")
        self.run = f"/run/qanat/{self.name}"
        self.kernel = KernelObjects()
        atexit.register(self.discard)

    # -- life cycle ---------------------------------------------------------------------------
    def ctl(self, *args, check=True, timeout=240, env=None):
        command = [os.path.join(BIN, "qanatctl"), *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env or self.environment)
        if report := reports.find(done.stderr):
            raise AssertionError(f"{' '.join(command)}:\n{report}")
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
        for name in os.listdir("/run/qanat") if os.path.isdir("/run/qanat") else []:
            # of a run that was killed
            if (old := re.fullmatch(r"(?:e2e|clear|gone)(\d+)", name)) and not os.path.exists(f"/proc/{old[1]}"):
                self.ctl("local", "down", "--name", name, check=False)
        self.ctl("local", "down", "--name", self.name, check=False)
        self.ctl("local", "up", self.folder, "--name", self.name, "--nodes", str(self.nodes), *self.options)
        return self

    def down(self, in_order=True):
        """Removes the mesh; fails when a program broke. in_order: programs end before, in their own time."""
        logs, problems = reports.Logs(os.path.join(self.run, "logs")), self.unannounced_deaths()
        if in_order and not os.environ.get("QANAT_KEEP"):
            problems += self.end_programs()
        if not os.environ.get("QANAT_KEEP"):
            self.ctl("local", "down", "--name", self.name)
        self.discard()
        problems += logs.problems()
        if problems:
            raise AssertionError("programs of the mesh broke:\n" + "\n".join(problems))

    def discard(self):
        """For a test that failed before it could take its mesh down."""
        if not os.environ.get("QANAT_KEEP"):
            if os.path.exists(self.run):
                self.ctl("local", "down", "--name", self.name, check=False)
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.flags, ignore_errors=True)

    def kill(self, program, how=signal.SIGKILL):
        """Ends a program; that it is started again is then no failure. Returns its pid."""
        pid = self.program_pid(program)
        self.deaths[program] = self.deaths.get(program, 0) + 1
        os.kill(pid, how)
        return pid

    @contextlib.contextmanager
    def supervisor_stopped(self):
        """Meanwhile nothing that ends is started again, and what is kept for it stays kept."""
        with open(f"{self.run}/supervisor.pid") as f:
            supervisor = int(f.read())
        os.kill(supervisor, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(supervisor, signal.SIGCONT)

    @contextlib.contextmanager
    def flag(self):
        """A path that comes to be when the block ends, however it does: what runs inside pods sees it."""
        path = os.path.join(self.flags, str(time.monotonic_ns()))
        try:
            yield path
        finally:
            with open(path, "w"):
                pass

    def unannounced_deaths(self):
        found = []
        try:
            programs = self.state()["programs"]
        except FileNotFoundError:
            return []  # it did not come up, which says more
        for entry in programs:
            if entry["restarts"] > self.deaths.get(entry["name"], 0):
                found.append(f"{entry['name']} was started again {entry['restarts']} times (announced: "
                             f"{self.deaths.get(entry['name'], 0)}), last end: {entry['lastEnd']}\n{self.last_lines(entry['name'] + '.log')}")
        return found

    def end_programs(self, seconds=60):
        """The end of a program is where leaks show; `local down` would not wait for it."""
        pids = {}
        try:
            with open(f"{self.run}/supervisor.pid") as f:
                supervisor = int(f.read())
            programs = self.state()["programs"]
        except FileNotFoundError:
            return []
        if self.is_alive(supervisor, "qanatctl"):
            os.kill(supervisor, signal.SIGTERM)
            self.wait("the supervisor ends", lambda: not self.is_alive(supervisor, "qanatctl"))
        for entry in programs:
            if entry["name"].startswith(OURS) and self.is_alive(entry["pid"], "qanat-"):
                os.kill(entry["pid"], signal.SIGTERM)
                pids[entry["name"]] = entry["pid"]
        deadline = time.monotonic() + seconds
        while pids and time.monotonic() < deadline:
            time.sleep(0.02)
            pids = {name: pid for name, pid in pids.items() if self.is_alive(pid, "qanat-")}
        return [f"{name} did not end within {seconds} s of SIGTERM\n{self.last_lines(name + '.log')}" for name in pids]

    @staticmethod
    def is_alive(pid, program):
        try:
            with open(f"/proc/{pid}/stat") as f:
                name, state = f.read().split("(", 1)[1].rsplit(")", 1)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return name.startswith(program) and state.split()[0] not in "ZX"

    def __enter__(self):
        try:
            return self.up()
        except BaseException:
            self.ctl("local", "down", "--name", self.name, check=False)
            raise

    def __exit__(self, *unused):
        self.down()

    def last_lines(self, file):
        """The end of a log: of what the program says of itself, and of what it says of connections."""
        try:
            with open(os.path.join(self.run, "logs", file), errors="replace") as f:
                lines = f.read().splitlines()
        except FileNotFoundError:
            return f"--- {file}: none"
        of_connections = [i for i, line in enumerate(lines) if "\taccess\t" in line]
        of_itself = sorted(set(range(len(lines))) - set(of_connections))
        return f"--- {file}\n" + "\n".join(lines[i] for i in sorted(of_itself[-25:] + of_connections[-8:]))

    def diagnose(self):
        """The end of every log, for the message of a failed test; a report of a sanitizer whole."""
        logs = os.path.join(self.run, "logs")
        names = sorted(os.listdir(logs)) if os.path.isdir(logs) else []
        return "\n".join([self.last_lines(file) for file in names] + reports.Logs(logs).problems())

    # -- looking ------------------------------------------------------------------------------
    def state(self):
        with open(os.path.join(self.run, "mesh.json")) as f:
            return json.load(f)

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

    def leftovers(self):
        """Everything on this machine that carries the mesh's name, and what an earlier call saw of it in the kernel."""
        def names(folder, start):
            return [n for n in os.listdir(folder) if n.startswith(start)] if os.path.isdir(folder) else []
        found = names("/run/netns", f"qanat-{self.name}-") + names("/sys/fs/bpf/qanat", self.name + "-")
        found += [g for g in os.listdir(cgroup2()) if g == f"qanat-{self.name}"]
        found += [self.run] if os.path.exists(self.run) else []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline") as f:
                    command = f.read().replace("\0", " ")
            except OSError:
                continue
            if self.run in command or (f"--name {self.name} " in command and "qanatctl" in command):
                found.append(f"process {pid}: {command}")
        links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True).stdout
        found += [line for line in links.splitlines() if "qanat" in line]
        with open("/proc/mounts") as mounts:
            found += [m.split()[1] for m in mounts if f"qanat-{self.name}-" in m or self.run in m]
        for pins in names("/sys/fs/bpf/qanat", self.name + "-"):
            self.kernel.note(f"/sys/fs/bpf/qanat/{pins}")
        return found + self.kernel.left()

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

    def until(self, what, look, wanted, seconds=60):
        """Waits until look() gives what is wanted: a value, or a function that tells. A failure says what it gave.
        The last look begins after the deadline: a machine that stood still for so long costs no test."""
        fits = wanted if callable(wanted) else lambda seen: seen == wanted
        deadline, seen, over = time.monotonic() + seconds, None, False
        while not over:
            over = time.monotonic() >= deadline
            try:
                seen = look()
                if fits(seen):
                    return seen
            except Exception as error:
                seen = error
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {seconds} s; last seen: {seen!r}\n{self.diagnose()}")

    def wait(self, what, condition, seconds=60):
        """For conditions with nothing to show but whether they hold, and the last exception."""
        self.until(what, condition, bool, seconds)

    def marks(self):
        logs = os.path.join(self.run, "logs")
        return {file: os.path.getsize(os.path.join(logs, file)) for file in os.listdir(logs)} if os.path.isdir(logs) else {}

    def complaints_since(self, marks):
        """Warnings and errors of the programs since then: why a connection was refused stands there."""
        out = []
        for file, size in self.marks().items():
            with open(os.path.join(self.run, "logs", file), errors="replace") as f:
                f.seek(marks.get(file, 0) if marks.get(file, 0) <= size else 0)
                lines = [line.rstrip("\n") for line in f if re.search(r"\t(warn|error)\t", line)]
            if lines:
                out.append(f"--- {file}: the last of {len(lines)} complaints\n" + "\n".join(lines[-10:]))
        return "\n".join(out)


class MeshCase(unittest.TestCase):
    """Tests that share one mesh, brought up from `files`, taken down whatever happens. What fails is
    told together with what the programs complained of meanwhile."""

    mesh, files, environment = None, {}, None

    @classmethod
    def setUpClass(cls):
        cls.mesh = Mesh(environment=cls.environment)
        for file, text in cls.files.items():
            cls.mesh.write(file, text)
        cls.enterClassContext(cls.mesh)

    mesh = None

    def __init_subclass__(cls, **more):
        super().__init_subclass__(**more)
        for name, test in list(vars(cls).items()):
            if name.startswith("test"):
                setattr(cls, name, cls.with_complaints(test))

    @staticmethod
    def with_complaints(test):
        @functools.wraps(test)
        def run(self):
            marks = self.mesh.marks() if self.mesh else {}
            try:
                test(self)
            except Exception as error:
                if self.mesh and (complaints := self.mesh.complaints_since(marks)):
                    error.add_note(complaints)
                raise
        return run

    def assertSameBytes(self, got, want, what=""):
        if got != want:
            at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            self.fail(f"{what}: {len(got)} bytes instead of {len(want)}, the first difference at {at}: "
                      f"{bytes(got[at:at + 16])!r} instead of {bytes(want[at:at + 16])!r}")
