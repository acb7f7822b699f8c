#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the container images from built programs: one archive an image, `FROM scratch`.

An image holds its programs (stripped, build ids kept), the shared libraries that they load, and the
few files of /etc that libc reads. ./run images builds the programs first; by hand:
    deploy/images/build.py --bin-dir build/release/bin --out build/images
"""
import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile

import oci

LIMIT = 60 * 1000 * 1000  # bytes of an archive
ROOT = 0
NOBODY_OF_OURS = 65532  # what distroless images call nonroot
# image: programs (the first is the entry point), user
IMAGES = {
    "controlplane": (["qanat-controlplane"], NOBODY_OF_OURS),
    "agent": (["qanat-agent", "qanat-cni"], ROOT),
    "ztunnel": (["qanat-ztunnel"], ROOT),
    "waypoint": (["qanat-waypoint"], NOBODY_OF_OURS),
    "ctl": (["qanatctl"], NOBODY_OF_OURS),
}
BIN = "usr/local/bin"
BASE = {
    "etc/passwd": oci.File(b"root:x:0:0:root:/:/sbin/nologin\n"
                           b"qanat:x:65532:65532:qanat:/tmp:/sbin/nologin\n"
                           b"nobody:x:65534:65534:nobody:/:/sbin/nologin\n"),
    "etc/group": oci.File(b"root:x:0:\nqanat:x:65532:\nnogroup:x:65534:\n"),
    # libc resolves names by itself (files, dns); without this file it would ask for more modules.
    "etc/nsswitch.conf": oci.File(b"passwd: files\ngroup: files\nhosts: files dns\n"),
    "tmp": oci.File(mode=0o1777, directory=True),
}


SOURCE = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
CACHE = os.environ.get("QANAT_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "qanat")  # as tools/deps/lib.sh


class Problem(Exception):
    pass


def project_version():
    with open(os.path.join(SOURCE, "CMakeLists.txt")) as file:
        return re.search(r"project\(qanat VERSION ([0-9.]+)", file.read()).group(1)


def stripped(path):
    """The program without symbols and debug information. The build id is a note that is loaded, so
    it stays, and a debugger finds the symbols of the same build by it."""
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "out")
        subprocess.run(["strip", "--strip-all", "-o", out, path], check=True)
        with open(out, "rb") as file:
            return file.read()


def named(data, folders):
    """The first string in a program that begins with one of these folders, or "". With one in it another
    folder, machine or user gives other bytes, and an image another digest."""
    for folder in folders:
        found = re.search(rb"(?<![\w./-])" + re.escape(folder.encode()) + rb"/[\x20-\x7e]*", data)
        if found:
            return found[0].decode()
    return ""


def program(path, options):
    data = stripped(path)
    found = named(data, (SOURCE, CACHE, os.path.realpath(options.bin_dir)))
    if found:
        raise Problem(f"{path} names a path of this machine: {found}; a release has none "
                      "(qanat_map_paths in tools/cmake): ./run build --preset release")
    return data


def libraries(path):
    """soname -> file of every shared library that the program needs, the loader included."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    if "not a dynamic executable" in listed.stdout + listed.stderr or \
            "statically linked" in listed.stdout:
        return {}
    found = {}
    for line in listed.stdout.splitlines():
        name, _, rest = line.strip().partition(" => ")
        if "not found" in rest:
            raise Problem(f"{path} needs {name}, which is not installed: build and run ./run images "
                          "on one machine")
        target = (rest or name).split(" (")[0].strip()
        if target.startswith("/"):
            found[name.split(" (")[0]] = target
    if not found:
        raise Problem(f"ldd {path}: {listed.stderr.strip() or 'no answer'}")
    return found


def library_layer(programs):
    layer = dict(BASE)
    for program in programs:
        for name, source in libraries(program).items():
            # The loader has an absolute name; everything else goes where the loader looks first.
            place = name if name.startswith("/") else \
                f"/lib/{platform.machine()}-linux-gnu/{name}"
            if place.lstrip("/") in layer:
                continue
            with open(os.path.realpath(source), "rb") as file:
                layer[place.lstrip("/")] = oci.File(file.read(), 0o755)
    return layer


def build(image, options):
    programs, user = IMAGES[image]
    paths = [os.path.join(options.bin_dir, program) for program in programs]
    for path in paths:
        if not os.path.exists(path):
            raise Problem(f"{path} is missing: ./run build --preset release")
    name = f"{options.prefix}/{image}:{options.tag}"
    target = os.path.join(options.out, f"{image}.tar")
    # Libraries below, programs above: a new version of ours shares the lower layer with the last.
    layers = [library_layer(paths),
              {f"{BIN}/{os.path.basename(path)}": oci.File(program(path, options), 0o755)
               for path in paths}]
    annotations = {"org.opencontainers.image.title": f"qanat {image}",
                   "org.opencontainers.image.version": options.tag,
                   "org.opencontainers.image.licenses": "Apache-2.0"}
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(
        platform.machine(), platform.machine())
    digest, unpacked = oci.write(target, name, architecture, layers, {
        "Entrypoint": [f"/{BIN}/{programs[0]}"], "User": f"{user}:{user}", "WorkingDir": "/",
        "Env": [f"PATH=/{BIN}"]}, annotations)
    size = os.path.getsize(target)
    print(f"  {name:44} {size / 1e6:6.1f} MB {unpacked / 1e6:8.1f} MB  {digest}")
    if size > LIMIT:
        raise Problem(f"{target} has {size / 1e6:.1f} MB, more than the {LIMIT // 1000000} MB that "
                      "an image may have: see what its libraries bring (ldd)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bin-dir", required=True, help="where the built programs are")
    parser.add_argument("--out", required=True, help="where the archives go")
    parser.add_argument("--prefix", default="localhost/qanat", help="image names before /NAME:TAG")
    parser.add_argument("--tag", default=project_version(), help="default: the project's version")
    parser.add_argument("images", nargs="*", help=f"of {', '.join(IMAGES)} (default: all)")
    options = parser.parse_args()
    try:
        unknown = set(options.images) - set(IMAGES)
        if unknown:
            raise Problem(f"no image {', '.join(sorted(unknown))}: there are {', '.join(IMAGES)}")
        if options.tag == "latest":
            raise Problem("--tag latest: a cluster would try to pull it each time; give a version")
        os.makedirs(options.out, exist_ok=True)
        print(f"  {'image':44} {'archive':>9} {'unpacked':>11}  digest")
        for image in options.images or IMAGES:
            build(image, options)
    except Problem as problem:
        print(f"images: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
