# SPDX-License-Identifier: Apache-2.0
"""The machine's root file system, as an initial RAM disk: the tests, this machine's own tools that they call,
and the libraries of both. A program is found inside where it is here."""
import json
import os
import re
import shutil
import stat
import subprocess
import sys

from kernels import Failed, run

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = ("sh", "bash", "cat", "cut", "env", "find", "grep", "head", "ls", "mkdir", "mount", "nsenter", "rm", "rmdir", "sed",
         "sleep", "sort", "stat", "tail", "test", "touch", "tr", "true", "umount", "wc", "ip", "tc", "ss", "nft",
         "sysctl", "bpftool", "python3")
# What tests' python3 lines and init.py import.
IMPORTS = "import ctypes, json, os, select, signal, socket, struct, subprocess, sys, threading, time"
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
FOLDERS = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def merged(path):
    """/lib/x is /usr/lib/x, here and inside."""
    path = os.path.normpath(path)
    return "/usr" + path if re.match(r"/(bin|sbin|lib|lib64)/", path) else path


def libraries(program):
    """What the dynamic linker would load for it; none for a static one."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True)
    return re.findall(r"(/\S+) \(0x", done.stdout) if done.returncode == 0 else []


class Root:
    def __init__(self):
        self.files = {}  # path inside: (mode, bytes, mtime)
        for name, target in LINKS.items():
            self.files["/" + name] = (stat.S_IFLNK | 0o777, target.encode(), 0)
        for folder in FOLDERS:
            self.folder("/" + folder)
        self.files["/dev/console"] = (stat.S_IFCHR | 0o600, b"", 0)

    def folder(self, path):
        while path != "/":
            self.files.setdefault(path, (stat.S_IFDIR | 0o755, b"", 0))
            path = os.path.dirname(path)

    def put(self, path, data, mode=0o644, mtime=0):
        path = merged(path)
        self.folder(os.path.dirname(path))
        self.files[path] = (stat.S_IFREG | mode, data, mtime)

    def copy(self, source, path=None):
        with open(source, "rb") as f:
            about = os.fstat(f.fileno())
            self.put(path or source, f.read(), about.st_mode & 0o777, int(about.st_mtime))

    def program(self, source, path=None):
        """With its libraries."""
        self.copy(source, path)
        for library in libraries(source):
            if merged(library) not in self.files:
                self.copy(library)

    def tool(self, name):
        found = shutil.which(name, path=PATH)
        if not found:
            raise Failed(f"{name} is missing here: ./run test installs the packages of tools/deps/packages.txt")
        self.program(os.path.realpath(found), found)

    def python(self):
        """What python3 has loaded after the imports, with compiled forms: compiling takes long in there."""
        code = IMPORTS + """
import encodings.idna, site
files = {getattr(m, '__file__', None) or '' for m in sys.modules.values()} | {
    getattr(m, '__cached__', None) or '' for m in sys.modules.values()}
print(json.dumps(sorted(f for f in files if f.startswith('/') and os.path.exists(f))))"""
        for file in json.loads(run(shutil.which("python3", path=PATH), "-c", code)):
            (self.program if ".so" in os.path.basename(file) else self.copy)(file)

    def stripped(self, source, temporary):
        """A program of ours without debugging information, where it is here."""
        smaller = os.path.join(temporary, os.path.basename(source))
        run("strip", "--strip-debug", "-o", smaller, source)
        self.program(smaller, source)

    def write(self, file):
        """As cpio's "newc", which the kernel unpacks."""
        with open(file, "wb") as out:
            for number, path in enumerate([*sorted(self.files), "/TRAILER!!!"], 1):
                mode, data, mtime = self.files.get(path, (0, b"", 0))
                name = path[1:].encode() + b"\0"
                device = (5, 1) if path == "/dev/console" else (0, 0)
                fields = (number, mode, 0, 0, 1, mtime, len(data), 0, 0, *device, len(name), 0)
                for part in (b"070701" + b"".join(b"%08X" % field for field in fields) + name, data):
                    out.write(part + b"\0" * (-len(part) % 4))


def build(file, temporary, kernel, programs, orders):
    """`orders`: what init.py is to do."""
    root = Root()
    for name in TOOLS:
        root.tool(name)
    root.python()
    for program in programs:
        root.stripped(program, temporary)
    for name in sorted(os.listdir(os.path.join(kernel, "modules"))):
        root.copy(os.path.join(kernel, "modules", name), "/modules/" + name)
    with open(os.path.join(HERE, "init.py"), "rb") as f:
        root.put("/init", f.read(), 0o755)
    root.put("/orders.json", json.dumps(orders).encode())
    root.put("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    root.put("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    root.write(file)
