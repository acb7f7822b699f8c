# SPDX-License-Identifier: Apache-2.0
"""A mesh of the local mode for tests: a folder of YAML, up, down, and looking at it."""
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../netns"))
from bed import Mesh, own_name, reports  # noqa: E402


class Local(Mesh):
    """The bed of tests/netns without what needs the mesh's programs; options as of `local up`.

    `name` (up to five letters) becomes one that no other run on this machine has.
    """

    def __init__(self, name, options=()):
        super().__init__(own_name(name), options=options)

    def up(self, *more, check=True, env=None):
        return self.ctl("local", "up", self.folder, "--name", self.name, *self.options, *more, check=check, env=env)

    def down(self, check=True):
        logs = reports.Logs(os.path.join(self.run, "logs"))
        done = self.ctl("local", "down", "--name", self.name, check=check)
        if problems := logs.problems():
            raise AssertionError("\n".join(problems))
        return done

    def close(self):
        try:
            self.down(check=False)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def pods(self):
        return {f"{p['namespace']}/{p['name']}": p for p in self.state()["pods"]}

    def program(self, name):
        return next(p for p in self.state()["programs"] if p["name"] == name)

    def exec(self, pod, *command, check=True):
        return self.ctl("local", "exec", pod, "--name", self.name, "--", *command, check=check)
