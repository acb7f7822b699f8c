# SPDX-License-Identifier: Apache-2.0
"""A mesh of the local mode for tests: a folder of YAML, up, down, and looking at it."""
import json
import os
import shutil
import subprocess
import tempfile
import textwrap
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("QANAT_BIN_DIR", os.path.join(ROOT, "build/asan/bin"))
CTL = os.path.join(BIN, "qanatctl")


def cgroup2():
    for line in open("/proc/self/mountinfo"):
        left, right = line.split(" - ")
        if right.startswith("cgroup2 "):
            return left.split()[4]
    raise RuntimeError("no cgroup2 mount")


class Local:
    def __init__(self, name, options=()):
        self.name, self.options = name, list(options)
        self.folder = tempfile.mkdtemp(prefix="qanat-local-")
        self.run_dir = f"/run/qanat/{name}"

    def ctl(self, *args, check=True, timeout=120, env=None):
        done = subprocess.run([CTL, *args], capture_output=True, text=True, timeout=timeout, env=env)
        if check and done.returncode != 0:
            raise AssertionError(f"qanatctl {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.logs()}")
        return done

    def logs(self):
        out = ""
        folder = os.path.join(self.run_dir, "logs")
        for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            out += f"--- {file}\n" + "".join(open(os.path.join(folder, file), errors="replace").readlines()[-10:])
        return out

    def write(self, file, text):
        path = os.path.join(self.folder, file)
        with open(path + ".tmp", "w") as f:
            f.write(textwrap.dedent(text))
        os.rename(path + ".tmp", path)

    def remove(self, file):
        os.unlink(os.path.join(self.folder, file))

    def up(self, *more, check=True, env=None):
        return self.ctl("local", "up", self.folder, "--name", self.name, *self.options, *more, check=check, env=env)

    def down(self):
        return self.ctl("local", "down", "--name", self.name)

    def close(self):
        self.ctl("local", "down", "--name", self.name, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def state(self):
        return json.load(open(os.path.join(self.run_dir, "mesh.json")))

    def pods(self):
        return {f"{p['namespace']}/{p['name']}": p for p in self.state()["pods"]}

    def program(self, name):
        return next(p for p in self.state()["programs"] if p["name"] == name)

    def exec(self, pod, *command, check=True):
        return self.ctl("local", "exec", pod, "--name", self.name, "--", *command, check=check)

    def wait(self, what, condition, seconds=20):
        deadline, last = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
                last = None
            except Exception as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {seconds} s; last: {last}\n{self.logs()}")

    def leftovers(self):
        found = [n for n in os.listdir("/run/netns") if n.startswith(f"qanat-{self.name}-")] if os.path.isdir("/run/netns") else []
        found += [g for g in os.listdir(cgroup2()) if g == f"qanat-{self.name}"]
        found += [self.run_dir] if os.path.exists(self.run_dir) else []
        if os.path.isdir("/sys/fs/bpf/qanat"):
            found += [p for p in os.listdir("/sys/fs/bpf/qanat") if p.startswith(self.name + "-")]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline") as f:
                    command = f.read().replace("\0", " ")
            except OSError:
                continue
            if f"/run/qanat/{self.name}" in command or ("supervise" in command and f"--name {self.name} " in command):
                found.append(f"process {pid}: {command}")
        found += [m.split()[1] for m in open("/proc/mounts") if f"qanat-{self.name}-" in m or self.run_dir in m]
        return found
