#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the slowest tests of a ctest JUnit file."""
import sys
import xml.etree.ElementTree as ET

cases = [(float(c.get("time", 0)), c.get("name")) for c in ET.parse(sys.argv[1]).iter("testcase")]
cases.sort(reverse=True)
total = sum(t for t, _ in cases)
slow = ", ".join(f"{name} {t:.1f} s" for t, name in cases[:6] if t >= 1)
print(f"    {len(cases)} tests, {total:.0f} s in all" + (f"; slowest: {slow}" if slow else ""))
