#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a person wants of ctest's JUnit files: the slow tests, and why the failed ones failed.

test_report.py slow FILE         one line, after a stage
test_report.py cluster FILE      one line, after the tests on clusters: how long a cluster took to be up
test_report.py again FILE        which tests may be run once more, as a regular expression; ends with 1 if
                                 one has a sanitizer's report, which is never an accident, or too many failed
test_report.py failures FILE...  at the end: for each failed test the lines that say why
"""
import os
import re
import sys
import xml.etree.ElementTree as ET

REPORT = re.compile(r"(Address|Leak|Thread|Memory|UndefinedBehavior)Sanitizer[: ]|runtime error: |libFuzzer")

# A line that begins an explanation, and how many lines of it are worth reading.
BEGINS = [
    (re.compile(r": Failure$"), 14),  # GoogleTest
    (re.compile(r"^(FAIL|ERROR): "), 40),  # unittest
    (REPORT, 25),
    (re.compile(r"^Traceback "), 25),
]
LINES_A_TEST = 80
MOST_AGAIN = 3
AGAIN = "-again.xml"


def explain(text):
    """The telling lines of one test's output; its end, when nothing in it is known to tell."""
    lines = text.splitlines()
    told, until = [], 0
    for i, line in enumerate(lines):
        for begin, size in BEGINS:
            if begin.search(line):
                if i >= until and told:
                    told.append("...")
                until = max(until, i + size)
        if i < until:
            told.append(line)
    return (told or lines[-30:])[:LINES_A_TEST]


def slow(path):
    cases = [(float(c.get("time", 0)), c.get("name")) for c in ET.parse(path).iter("testcase")]
    cases.sort(reverse=True)
    total = sum(t for t, _ in cases)
    named = ", ".join(f"{name} {t:.1f} s" for t, name in cases[:6] if t >= 1)
    print(f"    {len(cases)} tests, {total:.0f} s in all" + (f"; slowest: {named}" if named else ""))


def cluster(path):
    """Each test has a cluster of its own; the seconds are from nothing to a name server that answers."""
    times, sources = [], set()
    for case in ET.parse(path).iter("testcase"):
        text = case.findtext("system-out") or ""
        sources.update(re.findall(r"^ *[\d.]+ s  (Kubernetes \S+, .*)$", text, re.M))
        times += [float(time) for time in re.findall(r"^ *([\d.]+) s  cluster DNS ready$", text, re.M)]
    if times:
        print(f"    {len(times)} clusters, up in {min(times):.0f} to {max(times):.0f} s; {'; '.join(sorted(sources))}")


def failed(path):
    """The test cases that failed; none where the file was not written."""
    if not os.path.exists(path):
        return []
    return [c for c in ET.parse(path).iter("testcase") if c.find("failure") is not None]


def again(path):
    cases = failed(path)
    if not 0 < len(cases) <= MOST_AGAIN:
        return False
    if any(REPORT.search(case.findtext("system-out") or "") for case in cases):
        return False
    print("|".join(re.escape(case.get("name")) for case in cases))
    return True


def failures(paths):
    for path in paths:
        if path.endswith(AGAIN):
            continue
        if not os.path.exists(path):
            print(f"---- {path}: not written, ctest did not end by itself")
            continue
        second = path.removesuffix(".xml") + AGAIN
        still = {case.get("name") for case in failed(second)}
        for case in failed(path):
            name, message = case.get("name"), case.find("failure").get("message") or "failed"
            if os.path.exists(second) and name not in still:
                message += ", then passed alone"
            print(f"---- {name}: {message}")
            for line in explain(case.findtext("system-out") or ""):
                print("  " + line[:300])


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("slow", "cluster", "again", "failures"):
        sys.exit(__doc__)
    if sys.argv[1] == "slow":
        slow(sys.argv[2])
    elif sys.argv[1] == "cluster":
        cluster(sys.argv[2])
    elif sys.argv[1] == "again":
        sys.exit(0 if again(sys.argv[2]) else 1)
    else:
        failures(sys.argv[2:])
