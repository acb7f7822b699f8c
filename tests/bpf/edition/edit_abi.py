#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bpf/include/abi.h as a later version might have it: the next number, and layouts that differ wherever a migration has
something to do. Usage: edit_abi.py FROM TO"""
import pathlib
import re
import sys

# In front, so that nothing of the struct stays where it was.
FIELDS = {"qanat_pod": "__u32", "qanat_pod_state": "__u32", "qanat_grant": "__u64", "qanat_flow": "__u64",
          "qanat_config": "__u64", "qanat_direct": "__u64"}


def once(pattern, by, text):
    text, found = re.subn(pattern, by, text)
    if found != 1:
        sys.exit(f"{sys.argv[1]}: {found} times {pattern}")
    return text


def main():
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    text = once(r"(#define QANAT_ABI_VERSION )(\d+)", lambda m: m[1] + str(int(m[2]) + 1), text)
    for name, kind in FIELDS.items():
        text = once(rf"(struct {name} \{{\n)", rf"\1  {kind} edition;\n", text)
    text = once(r"value\[QANAT_COUNTERS\];", "value[QANAT_COUNTERS + 1];", text)
    to = pathlib.Path(sys.argv[2])
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
