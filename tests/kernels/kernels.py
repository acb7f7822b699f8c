# SPDX-License-Identifier: Apache-2.0
"""The kernels: Debian's, as packages that are unpacked and never installed. Each is pinned by version and
checksum; when the archive has replaced that version, the newest of its series serves, and says so."""
import contextlib
import fcntl
import glob
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile

CACHE = os.environ.get("QANAT_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "qanat")
PINS = {  # series: package, version, its sha256, the package that always depends on the newest
    "6.1": ("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2",
            "e7d02b943971edcb8790e256c02cfab3bca6c3d37c1bf25392a57c71300615ee", "linux-image-cloud-amd64"),
    "6.12": ("linux-image-6.12.117+deb12-cloud-amd64", "6.12.117-1~deb12u1",
             "5195b288dec79e2981d6b84457f38b7ce7310a2d702930ec7d07209c7f78ce37", "linux-image-6.12-cloud-amd64")}
# What the tests use, with what these depend on. Loaded at the start: nothing loads them on demand there.
MODULES = ("crc32c_generic", "veth", "bridge", "dummy", "macvlan", "tun", "af_packet", "nf_tables", "nft_chain_nat", "nft_masq",
           "nft_nat", "nft_ct", "nft_numgen", "sch_ingress", "cls_bpf", "sch_netem", "inet_diag", "tcp_diag",
           "udp_diag", "raw_diag", "unix_diag")


class Failed(Exception):
    pass


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def locked(target):
    """Only one makes a thing; who waited finds it there."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def known(package, version):
    done = subprocess.run(["apt-cache", "show", f"{package}={version}"], capture_output=True, text=True)
    return done.returncode == 0 and f"Version: {version}\n" in done.stdout


def download(series, folder):
    """The package's file. What is not the pinned one is vouched for by apt's signatures alone."""
    package, version, sha256, newest = PINS[series]
    if not known(package, version):
        run("apt-get", "update")
    pinned = known(package, version)
    if not pinned:
        found = re.search(r"^Depends: (linux-image-\S+)", run("apt-cache", "show", "--no-all-versions", newest), re.M)
        if not found:
            raise Failed(f"the archive has neither {package} {version} nor a {newest}")
        print(f"the archive has no {package} {version} any more: taking {found[1]}; pin it in tests/kernels/kernels.py",
              flush=True)
        package = found[1].rstrip(",")
    run("apt-get", "-o", "APT::Sandbox::User=root", "download", f"{package}={version}" if pinned else package, cwd=folder)
    file, = glob.glob(os.path.join(folder, "*.deb"))
    with open(file, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    if pinned and digest != sha256:
        raise Failed(f"{os.path.basename(file)} has sha256 {digest}, pinned is {sha256}")
    return file


def module_files(tree):
    """Names to files; a module's file and its name differ in - and _."""
    files = glob.glob(os.path.join(tree, "**", "*.ko*"), recursive=True)
    return {re.sub(r"\.ko.*", "", os.path.basename(file)).replace("-", "_"): file for file in files}


def module_bytes(file):
    with (lzma.open if file.endswith(".xz") else open)(file, "rb") as f:
        return f.read()


def collect_modules(tree, out):
    """The wanted modules, and what they depend on before them: in that order, numbered."""
    files, done = module_files(tree), []

    def add(name):
        if name in done or name not in files:  # not there: built into this kernel, or this kernel has none
            return
        data = module_bytes(files[name])
        found = re.search(rb"\0depends=([^\0]*)\0", b"\0" + data)
        for needed in (found[1].decode().split(",") if found and found[1] else []):
            add(needed.replace("-", "_"))
        done.append(name)
        with open(os.path.join(out, f"{len(done):03}-{name}.ko"), "wb") as f:
            f.write(data)

    for name in MODULES:
        add(name)


def kernel(series):
    """A folder with `vmlinuz`, `modules/` and `release`, from the cache or made now."""
    key = hashlib.sha256(repr((PINS[series], MODULES)).encode()).hexdigest()[:12]
    target = os.path.join(CACHE, f"kernel-{series}-{key}")
    with locked(target):
        if os.path.exists(target):
            return target
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            tree, made = os.path.join(temporary, "tree"), os.path.join(temporary, "made")
            os.makedirs(os.path.join(made, "modules"))
            run("dpkg-deb", "-x", download(series, temporary), tree)
            image, = glob.glob(os.path.join(tree, "boot", "vmlinuz-*"))
            shutil.copy(image, os.path.join(made, "vmlinuz"))
            collect_modules(tree, os.path.join(made, "modules"))
            with open(os.path.join(made, "release"), "w") as f:
                f.write(os.path.basename(image).removeprefix("vmlinuz-"))
            os.rename(made, target)
    return target
