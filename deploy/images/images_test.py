#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What an image archive must be: the same bytes twice, consistent digests, a name, nothing of the
machine. Uses programs that every machine has in place of ours."""
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import build as build_images  # noqa: E402


def build(programs, out, *more):
    return subprocess.run(
        [sys.executable, os.path.join(HERE, "build.py"), "--bin-dir", programs, "--out", out,
         "--tag", "1.2.3", *more], capture_output=True, text=True)


class Images(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.bin = self.path("bin")
        os.mkdir(self.bin)
        for name in ("qanat-agent", "qanat-cni", "qanatctl"):
            shutil.copyfile("/bin/ls", os.path.join(self.bin, name))

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def test_twice_the_same(self):
        self.assertEqual(build(self.bin, self.path("a"), "agent").returncode, 0)
        for name in os.listdir(self.bin):  # another day, another umask
            os.utime(os.path.join(self.bin, name), (12345, 12345))
            os.chmod(os.path.join(self.bin, name), 0o711)
        self.assertEqual(build(self.bin, self.path("b"), "agent").returncode, 0)
        with open(self.path("a/agent.tar"), "rb") as a, open(self.path("b/agent.tar"), "rb") as b:
            self.assertEqual(a.read(), b.read())

    def test_layout(self):
        done = build(self.bin, self.path("out"), "agent")
        self.assertEqual(done.returncode, 0, done.stderr)
        with tarfile.open(self.path("out/agent.tar")) as tar:
            blobs = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
            self.assertEqual({(m.mtime, m.uid, m.gid, m.uname) for m in tar}, {(0, 0, 0, "")})

        def blob(descriptor):
            data = blobs["blobs/" + descriptor["digest"].replace(":", "/")]
            self.assertEqual(descriptor["digest"], "sha256:" + hashlib.sha256(data).hexdigest())
            self.assertEqual(descriptor["size"], len(data))
            return data

        top = json.loads(blobs["index.json"])["manifests"][0]
        self.assertEqual(top["annotations"]["io.containerd.image.name"],
                         "localhost/qanat/agent:1.2.3")
        self.assertIn(top["digest"], done.stdout)
        manifest = json.loads(blob(top))
        config = json.loads(blob(manifest["config"]))
        self.assertEqual(config["config"]["Entrypoint"], ["/usr/local/bin/qanat-agent"])
        files = {}
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"]):
            data = gzip.decompress(blob(layer))
            self.assertEqual(diff_id, "sha256:" + hashlib.sha256(data).hexdigest())
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    self.assertEqual((member.mtime, member.uid), (0, 0))
                    files[member.name] = member
        for name in ("usr/local/bin/qanat-agent", "usr/local/bin/qanat-cni", "etc/passwd"):
            self.assertIn(name, files)
        self.assertTrue(any("ld-linux" in name for name in files), files.keys())
        self.assertEqual(files["tmp"].mode, 0o1777)
        self.assertFalse([name for name in files if name.endswith("/sh")])

    def test_the_program_runs_from_its_files_alone(self):
        self.assertEqual(build(self.bin, self.path("out"), "ctl").returncode, 0)
        root = self.path("root")
        with tarfile.open(self.path("out/ctl.tar")) as tar:
            manifest = json.loads(tar.extractfile("manifest.json").read())[0]
            for layer in manifest["Layers"]:
                data = gzip.decompress(tar.extractfile(layer).read())
                with tarfile.open(fileobj=io.BytesIO(data)) as files:
                    files.extractall(root)
        done = subprocess.run(["chroot", root, "/usr/local/bin/qanatctl", "/etc"],
                              capture_output=True, text=True)
        self.assertEqual(done.stdout.split(), ["group", "nsswitch.conf", "passwd"], done.stderr)

    def test_refuses_a_program_that_names_where_it_was_built(self):
        for folder, refused in ((build_images.SOURCE, True), (build_images.CACHE, True), (self.bin, True),
                                (build_images.SOURCE + "-else", False), ("/x" + build_images.SOURCE, False)):
            code = f'#include <stdio.h>\nint main(void) {{ return puts("{folder}/a.cc"); }}\n'
            subprocess.run(["clang-19", "-x", "c", "-", "-o", os.path.join(self.bin, "qanatctl")], input=code,
                           text=True, check=True)
            done = build(self.bin, self.path("out"), "ctl")
            self.assertEqual(done.returncode, 1 if refused else 0, folder + done.stderr)
            if refused:
                self.assertIn(f"names a path of this machine: {folder}/a.cc", done.stderr)

    def test_refuses_an_image_that_is_too_large(self):
        with open(self.path("data"), "wb") as file:
            file.write(os.urandom(60 * 1000 * 1000))  # as much when it is compressed
        code = f'__asm__(".data\\n.incbin \\"{self.path("data")}\\"\\n");\nint main(void) {{ return 0; }}\n'
        subprocess.run(["clang-19", "-x", "c", "-", "-o", os.path.join(self.bin, "qanatctl")], input=code,
                       text=True, check=True)
        done = build(self.bin, self.path("out"), "ctl")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertRegex(done.stderr, r"ctl\.tar has 6\d\.\d MB, more than the 60 MB that an image may have")

    def test_says_what_is_missing(self):
        done = build(self.bin, self.path("out"), "waypoint")
        self.assertEqual(done.returncode, 1)
        self.assertIn("qanat-waypoint is missing: ./run build --preset release", done.stderr)
        self.assertIn("no image proxy", build(self.bin, self.path("out"), "proxy").stderr)
        self.assertIn("latest", build(self.bin, self.path("out"), "--tag", "latest").stderr)


if __name__ == "__main__":
    unittest.main()
