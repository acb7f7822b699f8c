# SPDX-License-Identifier: Apache-2.0
"""What is in the memory of a process, and the keys that a TLS 1.3 secret makes."""
import array
import hashlib
import hmac
import mmap

# Larger ones are a sanitizer's own tables, which hold none of a program's bytes.
LARGEST = 64 << 30
THERE = 3 << 62  # of an entry in pagemap: the page is present, or swapped out
HASHES = {0x1301: ("sha256", 16), 0x1302: ("sha384", 32), 0x1303: ("sha256", 32)}  # its hash, its key's size


def record_key(cipher, secret):
    """RFC 8446, 7.1 and 7.3: HKDF-Expand-Label(secret, "key", "", size)."""
    name, size = HASHES[cipher]
    label = b"tls13 key"
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0" + b"\x01"
    return hmac.new(secret, info, getattr(hashlib, name)).digest()[:size]


def find(pid, wanted):
    """Which of these byte strings are somewhere in what the process could write to: {name: [address, ...]}."""
    found = {}
    for begin, data in runs(pid):
        for name, value in wanted.items():
            at = data.find(value)
            while at >= 0:
                found.setdefault(name, []).append(f"{begin + at:x}")
                at = data.find(value, at + 1)
    return found


def runs(pid):
    """(address, bytes) of pages that follow each other; those that were never touched are left out."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory, open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap:
        for line in maps:
            span, rights = line.split()[:2]
            begin, end = (int(part, 16) for part in span.split("-"))
            if not rights.startswith("rw") or end - begin > LARGEST:
                continue
            for first, count in present(pagemap, begin // mmap.PAGESIZE, end // mmap.PAGESIZE):
                try:
                    memory.seek(first * mmap.PAGESIZE)
                    yield first * mmap.PAGESIZE, memory.read(count * mmap.PAGESIZE)
                except OSError:
                    continue  # a device, or gone meanwhile


def present(pagemap, page, end, step=1 << 16):
    """Runs of pages that are there: (the first, how many)."""
    begun = None
    while page < end:
        pagemap.seek(page * 8)
        entries = array.array("Q", pagemap.read(min(step, end - page) * 8))
        if not entries:
            break
        if begun is None and not any(entries):
            page += len(entries)
            continue
        for entry in entries:
            if bool(entry & THERE) != (begun is not None):
                if begun is not None:
                    yield begun, page - begun
                begun = None if begun is not None else page
            page += 1
    if begun is not None:
        yield begun, page - begun
