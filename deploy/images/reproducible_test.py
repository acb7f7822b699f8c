#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A program with eBPF in it, built as a release in two folders of other names, is the same bytes and names
neither. It is a small one, made by the same CMake files and preset as ours and with our eBPF programs;
build.py refuses ours when they name a folder."""
import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
FILES = {
    "CMakeLists.txt": """
cmake_minimum_required(VERSION 3.25)
project(qanat VERSION 0.1.0 LANGUAGES C CXX)
set(CMAKE_CXX_STANDARD 20)
set(QANAT_SANITIZE "")
list(APPEND CMAKE_MODULE_PATH ${CMAKE_SOURCE_DIR}/tools/cmake)
include(Qanat)
include(BpfSkeleton)
find_package(PkgConfig REQUIRED)
pkg_check_modules(LIBBPF REQUIRED IMPORTED_TARGET libbpf)
bpf_skeleton(hooks bpf/connect4.bpf.c bpf/sockops.bpf.c)
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/made.h CONTENT "inline const char* Made() { return __FILE__; }")
qanat_library(part SRCS part/part.cc)
qanat_program(small SRCS main.cc DEPS part hooks_skel)
target_include_directories(small PRIVATE ${CMAKE_BINARY_DIR})
""",
    "part/part.h": "#pragma once\nconst char* Where();\ninline const char* Header() { return __FILE__; }\n",
    "part/part.cc": '#include "part/part.h"\nconst char* Where() { return __FILE__; }\n',
    "main.cc": """
#include <cstdio>
#include "bpf/include/abi.h"
#include "hooks.skel.h"
#include "made.h"
#include "part/part.h"
int main(int argc, char**) {
  size_t size = 0;
  const auto* elf = static_cast<const char*>(hooks__elf_bytes(&size));
  std::printf("%s %s %s %s %c\\n", __FILE__, Where(), Header(), Made(), elf[argc]);  // the E of ELF
}
""",
}


class Reproducible(unittest.TestCase):
    def build(self, folder, out):
        """The program's bytes as they are, and as they go into an image."""
        for part in ("tools/cmake", "bpf"):
            shutil.copytree(os.path.join(ROOT, part), os.path.join(folder, part))
        shutil.copy(os.path.join(ROOT, "CMakePresets.json"), folder)
        for name, text in FILES.items():
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        for command in (["cmake", "--preset", "release", "-B", out], ["ninja", "-C", out, "small"]):
            # A cache of compiled files could give the first folder's to the second.
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True,
                                  env={**os.environ, "CCACHE_DISABLE": "1"})
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        program = os.path.join(out, "bin", "small")
        subprocess.run(["strip", "--strip-all", "-o", program + ".stripped", program], check=True)
        said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
        with open(program, "rb") as whole, open(program + ".stripped", "rb") as stripped:
            return whole.read(), stripped.read(), said

    def test_the_same_bytes_from_two_folders(self):
        with tempfile.TemporaryDirectory(prefix="qanat-a-") as top:
            a, b = os.path.join(top, "a"), os.path.join(top, "another", "place")
            a_whole, a_stripped, a_said = self.build(a, os.path.join(a, "build", "release"))
            _, b_stripped, b_said = self.build(b, os.path.join(top, "out"))
            self.assertEqual(a_said, "main.cc part/part.cc part/part.h build/made.h E\n")
            self.assertEqual(a_said, b_said)
            self.assertNotIn(top.encode(), a_stripped)
            self.assertNotIn(top.encode(), a_whole, "debug information: the build id depends on it")
            self.assertTrue(a_stripped == b_stripped, "other bytes in another folder")


if __name__ == "__main__":
    unittest.main(verbosity=2)
