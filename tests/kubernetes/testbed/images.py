# SPDX-License-Identifier: Apache-2.0
"""Container images made of this machine's files, without a registry or an image builder: an archive as
`docker save` writes it, one layer. Used for the cluster's own images and those of tests."""
import glob
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import time

from . import build
from .names import CACHE, HERE

PYTHON_LEFT_OUT = re.compile(r"/(test|tests|idlelib|lib2to3|ensurepip|distutils|turtledemo|tkinter|pydoc_data|config-[^/]*)(/|$)")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"


class Image:
    """Collects files for one image; write() makes the archive."""

    def __init__(self, names, config):
        self.names, self.config = names, config
        self.files = {}   # path in the image -> file of the machine
        self.links = {}   # path in the image -> target
        self.texts = {"/etc/passwd": PASSWD, "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
                      "/etc/nsswitch.conf": "hosts: files dns\n"}
        self.folders = ["/tmp", "/run", "/proc", "/sys", "/dev", "/root", "/etc"]

    def add(self, source, path=None):
        """One file; programs bring their shared libraries when the image is written."""
        self.files[path or source] = os.path.realpath(source)
        return self

    def add_libraries(self):
        for library in shared_libraries(path for path in self.files.values() if is_program(path)):
            self.files.setdefault(library, os.path.realpath(library))
        return self

    def add_tree(self, source, left_out):
        for folder, _, files in os.walk(source):
            for name in files:
                path = os.path.join(folder, name)
                if not left_out.search(path) and os.path.exists(path):
                    self.add(path)
        return self

    def write(self, out):
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            def entry(path, kind, mode, size=0, mtime=0, target="", data=None):
                info = tarfile.TarInfo(path.lstrip("/"))
                info.type, info.mode, info.size, info.mtime, info.linkname = kind, mode, size, mtime, target
                tar.addfile(info, data)
            parents = set(self.folders)
            for path in [*self.files, *self.links, *self.texts]:
                while (path := os.path.dirname(path)) != "/":
                    parents.add(path)
            for path in sorted(parents):
                entry(path, tarfile.DIRTYPE, 0o1777 if path == "/tmp" else 0o755)
            for path, text in sorted(self.texts.items()):
                entry(path, tarfile.REGTYPE, 0o644, len(text), data=io.BytesIO(text.encode()))
            for path, source in sorted(self.files.items()):
                about = os.stat(source)
                with open(source, "rb") as data:  # the time stays: Python compares it with its .pyc files
                    entry(path, tarfile.REGTYPE, about.st_mode & 0o755, about.st_size, int(about.st_mtime), data=data)
            for path, target in sorted(self.links.items()):
                entry(path, tarfile.SYMTYPE, 0o777, target=target)
        data = layer.getvalue()
        config = json.dumps({
            "architecture": subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip(),
            "os": "linux", "created": "1970-01-01T00:00:00Z", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()]}}).encode()
        manifest = json.dumps([{"Config": "config.json", "RepoTags": self.names, "Layers": ["layer.tar"]}]).encode()
        with tarfile.open(out + ".new", "w") as tar:
            for name, content in (("manifest.json", manifest), ("config.json", config), ("layer.tar", data)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        os.rename(out + ".new", out)
        return out


def is_program(path):
    with open(path, "rb") as f:
        return f.read(4) == b"\x7fELF"


def shared_libraries(programs):
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True).stdout
    return set(re.findall(r"(/\S+) \(0x", said))


def busybox(image, applets=()):
    image.add("/bin/busybox")
    known = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True).stdout.split()
    image.links.update({f"/bin/{name}": "busybox" for name in known if name != "busybox" and (not applets or name in applets)})
    return image


def pause():
    """The container that holds a pod's namespaces."""
    return busybox(Image(["localhost/testbed/pause:1"], {"Entrypoint": ["/bin/sleep", "2147483647"]}), ("sleep",))


def tests():
    """What tests and samples run in pods: Python, busybox, tools to look around, the tests' application.

    It also stands in for python:3.12-slim, the image of the shop sample, which only wants a Python 3:
    without a registry there is no other way to have the very same YAML run here."""
    image = Image(["localhost/testbed/tests:1", "docker.io/library/python:3.12-slim"],
                  {"Cmd": ["/bin/sleep", "2147483647"],
                   "Env": ["PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin", "LANG=C.UTF-8"]})
    # Debian's own Python: another one on PATH may lie anywhere.
    stdlib = subprocess.run(["/usr/bin/python3", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"],
                            capture_output=True, text=True, check=True).stdout.strip()
    image.add(os.path.realpath("/usr/bin/python3"), "/usr/bin/python3").add_tree(stdlib, PYTHON_LEFT_OUT)
    for tool in ("/usr/bin/curl", "/usr/sbin/nft", "/usr/sbin/bpftool", "/usr/bin/tcpdump", "/usr/bin/ip", "/usr/bin/ss",
                 "/usr/bin/nsenter"):
        if os.path.exists(tool):
            image.add(tool)
    for name in ("ip", "ss"):  # iproute2 installs them in /bin on a machine with a split /usr
        if f"/usr/bin/{name}" not in image.files and os.path.exists(f"/bin/{name}"):
            image.add(f"/bin/{name}", f"/usr/bin/{name}")
    image.add(os.path.join(HERE, "..", "netns", "app.py"), "/app.py").add(os.path.join(HERE, "drain_app.py"), "/drain_app.py")
    taken = {os.path.basename(path) for path in image.files}
    busybox(image)
    image.links = {path: target for path, target in image.links.items() if os.path.basename(path) not in taken}
    return image


def standard():
    """The archives that every cluster starts with, made when their files have changed. Safe to call twice at once."""
    archives = []
    for make in (pause, tests):
        image = make()
        digest = hashlib.sha256(repr((image.names, image.config, sorted(image.links.items()))).encode())
        for path, source in sorted(image.files.items()):
            about = os.stat(source)
            digest.update(f"{path} {about.st_size} {about.st_mtime_ns}\n".encode())
        with open(__file__, "rb") as f:
            digest.update(f.read())
        folder = os.path.join(CACHE, "kubernetes-images")
        os.makedirs(folder, exist_ok=True)
        archive = os.path.join(folder, f"{make.__name__}-{digest.hexdigest()[:12]}.tar")
        with build.locked(os.path.join(folder, make.__name__)):
            if not os.path.exists(archive):
                for old in glob.glob(os.path.join(folder, f"{make.__name__}-*.tar")):
                    if os.path.getmtime(old) < time.time() - 86400:  # a newer one may be another checkout's
                        os.unlink(old)
                image.add_libraries().write(archive)
        archives.append(archive)
    return archives
