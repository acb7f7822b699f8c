# SPDX-License-Identifier: Apache-2.0
"""Names for addresses: of a process by the ELF symbol tables of what it has mapped, of the kernel by /proc/kallsyms."""
import bisect
import ctypes
import ctypes.util
import struct

FUNCTION = 2  # STT_FUNC
EXECUTABLE = 1


class Table:
    """Sorted starts and what begins there."""

    def __init__(self, entries):  # (start, size or 0, name)
        entries = sorted(set(entries))
        self.starts = [entry[0] for entry in entries]
        self.entries = entries

    def find(self, address):
        at = bisect.bisect_right(self.starts, address) - 1
        if at < 0:
            return None
        start, size, name = self.entries[at]
        return name if size == 0 or address < start + size else None


def elf_functions(path):
    """(Table by virtual address, [(file offset, size, virtual address)] of what may be executed)"""
    with open(path, "rb") as f:
        data = f.read()
    if data[:5] != b"\x7fELF\x02":
        return Table([]), []
    program_at, section_at = struct.unpack_from("<QQ", data, 32)
    program_size, programs, section_size, sections = struct.unpack_from("<HHHH", data, 54)
    loads = []
    for i in range(programs):
        kind, flags, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, program_at + i * program_size)
        if kind == 1 and flags & EXECUTABLE:
            loads.append((offset, size, address))
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, section_at + i * section_size) for i in range(sections)]
    functions = []
    for wanted in (2, 11):  # .symtab; else what .dynsym has
        for _, kind, _, _, offset, size, link, *_ in headers:
            if kind != wanted:
                continue
            names = headers[link][4]
            for name, info, _, _, value, length in struct.iter_unpack("<IBBHQQ", data[offset:offset + size - size % 24]):
                if info & 15 == FUNCTION and value:
                    end = data.index(b"\0", names + name)
                    functions.append((value, length, data[names + name:end].decode(errors="replace")))
        if functions:
            break
    return Table(functions), loads


def kernel_functions():
    entries = []
    with open("/proc/kallsyms") as f:
        for line in f:
            address, kind, name = line.split()[:3]
            if kind in "tTwW" and int(address, 16):
                entries.append((int(address, 16), 0, name))
    return Table(entries)


def demangler():
    try:
        library = ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return lambda name: name
    function = library.__cxa_demangle
    function.restype = ctypes.c_void_p
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]

    def demangle(name):
        if not name.startswith("_Z"):
            return name
        status = ctypes.c_int()
        pointer = function(name.encode(), None, None, ctypes.byref(status))
        if not pointer:
            return name
        text = ctypes.cast(pointer, ctypes.c_char_p).value.decode(errors="replace")
        free(pointer)
        return text
    return demangle


class Symbols:
    def __init__(self):
        self.files, self.maps, self.kernel, self.demangle = {}, {}, None, demangler()

    def read_maps(self, pid):
        """While the process is there."""
        self.maps[pid] = []
        with open(f"/proc/{pid}/maps") as f:
            for line in f:
                where, flags, offset, _, _, *path = line.split(maxsplit=5)
                if "x" in flags and path:
                    start, end = (int(part, 16) for part in where.split("-"))
                    self.maps[pid].append((start, end, int(offset, 16), path[0].strip()))

    def name(self, pid, address):
        """(function, where: kernel, or the file's name)"""
        if address >> 63:
            self.kernel = self.kernel or kernel_functions()
            return self.kernel.find(address) or "?", "kernel"
        for start, end, offset, path in self.maps.get(pid, ()):
            if not start <= address < end:
                continue
            file = path.rsplit("/", 1)[-1]
            if path.startswith("["):
                return path, path
            if path not in self.files:
                try:
                    # As the process sees it: a program may have been built again since.
                    self.files[path] = elf_functions(f"/proc/{pid}/root{path}" if not path.endswith(" (deleted)") else f"/proc/{pid}/exe")
                except OSError:
                    self.files[path] = Table([]), []
            table, loads = self.files[path]
            in_file = address - start + offset
            for load_offset, size, virtual in loads:
                if load_offset <= in_file < load_offset + size:
                    found = table.find(in_file - load_offset + virtual)
                    return (self.demangle(found) if found else "?"), file
            return "?", file
        return "?", "?"
