#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ctest for tests that must not meet each other: several at once all the same, each in namespaces of its own
(apart.sh). Takes ctest's arguments, and LANES from the environment.

They wait more than they work, so two of them on two processors take little more than half the time."""
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET

APART = os.path.join(os.path.dirname(os.path.abspath(__file__)), "apart.sh")


def take(arguments, name):
    """The value of an option that is ours and not to be given to each ctest."""
    at = arguments.index(name)
    value = arguments[at + 1]
    del arguments[at:at + 2]
    return value


def selected(arguments):
    """[(name, seconds that it may take)], the long ones first: what begins last should be short."""
    shown = subprocess.run(["ctest", *arguments, "--show-only=json-v1"], capture_output=True, text=True, check=True).stdout
    tests = []
    for test in json.loads(shown[shown.index("{"):])["tests"]:
        limits = [p["value"] for p in test.get("properties", ()) if p["name"] == "TIMEOUT"]
        tests.append((test["name"], limits[0] if limits else 0))
    return sorted(tests, key=lambda test: -test[1])


def without_selection(arguments):
    out, skip = [], False
    for argument in arguments:
        if skip or argument in ("-L", "-R"):
            skip = not skip
        else:
            out.append(argument)
    return out


class Lanes:
    def __init__(self, arguments, tests, folder):
        self.arguments, self.folder, self.total = without_selection(arguments), folder, len(tests)
        self.todo, self.lock, self.done, self.failed, self.cases = queue.SimpleQueue(), threading.Lock(), 0, [], []
        for test in tests:
            self.todo.put(test[0])

    def run(self, lanes):
        threads = [threading.Thread(target=self.lane) for _ in range(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def lane(self):
        while True:
            try:
                name = self.todo.get_nowait()
            except queue.Empty:
                return
            self.one(name)

    def one(self, name):
        results = os.path.join(self.folder, name + ".xml")
        began = time.monotonic()
        done = subprocess.run(["bash", APART, "ctest", *self.arguments, "--output-junit", results, "-R", f"^{re.escape(name)}$"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", stdin=subprocess.DEVNULL)
        took = time.monotonic() - began
        cases = list(ET.parse(results).iter("testcase")) if os.path.exists(results) else []
        if not cases:  # it did not come to run the test
            case = ET.Element("testcase", name=name, time=f"{took:.3f}", status="fail")
            ET.SubElement(case, "failure", message="ctest did not end by itself")
            ET.SubElement(case, "system-out").text = done.stdout
            cases = [case]
        passed = done.returncode == 0 and all(case.find("failure") is None for case in cases)
        with self.lock:
            self.done += 1
            self.cases += cases
            print(f"{self.done:3}/{self.total} {name} {'.' * max(3, 44 - len(name))} "
                  f"{'Passed' if passed else '***Failed'} {took:8.2f} sec", flush=True)
            if not passed:
                self.failed.append(name)
                print(done.stdout, flush=True)

    def write(self, path):
        suite = ET.Element("testsuite", name="lanes", tests=str(len(self.cases)), failures=str(len(self.failed)))
        suite.extend(self.cases)
        ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def main():
    arguments = sys.argv[1:]
    results = take(arguments, "--output-junit")
    tests = selected(arguments)
    if not tests:
        sys.exit("lanes: no tests were found")
    # Not in /tmp, which a test has for itself.
    with tempfile.TemporaryDirectory(prefix="lanes-", dir=os.path.dirname(results) or ".") as folder:
        lanes = Lanes(arguments, tests, folder)
        lanes.run(int(os.environ.get("LANES", "2")))
    lanes.write(results)
    print(f"{lanes.total - len(lanes.failed)} of {lanes.total} tests passed"
          + (f"; failed: {', '.join(lanes.failed)}" if lanes.failed else ""), flush=True)
    return 1 if lanes.failed else 0


if __name__ == "__main__":
    sys.exit(main())
