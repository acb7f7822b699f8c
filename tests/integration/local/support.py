# SPDX-License-Identifier: Apache-2.0
"""A mesh of the local mode for tests: a folder of YAML, up, down, and looking at it."""
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../netns"))
from bed import Mesh  # noqa: E402


class Local(Mesh):
    """The bed of tests/netns without what needs the mesh's programs; options as of `local up`."""

    def up(self, *more, check=True, env=None):
        return self.ctl("local", "up", self.folder, "--name", self.name, *self.options, *more, check=check, env=env)

    def down(self):
        return self.ctl("local", "down", "--name", self.name)

    def close(self):
        self.ctl("local", "down", "--name", self.name, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def pods(self):
        return {f"{p['namespace']}/{p['name']}": p for p in self.state()["pods"]}

    def program(self, name):
        return next(p for p in self.state()["programs"] if p["name"] == name)

    def exec(self, pod, *command, check=True):
        return self.ctl("local", "exec", pod, "--name", self.name, "--", *command, check=check)
