# SPDX-License-Identifier: Apache-2.0
"""HPACK (RFC 7541): a decoder with dynamic table and Huffman, and an encoder that can be told to use
either. Of this peer alone: it shares nothing with the code that it is held against."""

STATIC = [tuple(line.split("|")) for line in """:authority|
:method|GET
:method|POST
:path|/
:path|/index.html
:scheme|http
:scheme|https
:status|200
:status|204
:status|206
:status|304
:status|400
:status|404
:status|500
accept-charset|
accept-encoding|gzip, deflate
accept-language|
accept-ranges|
accept|
access-control-allow-origin|
age|
allow|
authorization|
cache-control|
content-disposition|
content-encoding|
content-language|
content-length|
content-location|
content-range|
content-type|
cookie|
date|
etag|
expect|
expires|
from|
host|
if-match|
if-modified-since|
if-none-match|
if-range|
if-unmodified-since|
last-modified|
link|
location|
max-forwards|
proxy-authenticate|
proxy-authorization|
range|
referer|
refresh|
retry-after|
server|
set-cookie|
strict-transport-security|
transfer-encoding|
user-agent|
vary|
via|
www-authenticate|""".split("\n")]

# The lengths of the codes of the symbols 0..255 and EOS (appendix B). The code is canonical: within
# a length the codes ascend with the symbols, so the lengths are the whole table.
LENGTHS = [int(n) for n in """13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28
6 10 10 12 13 6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10
13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 8 7 8 13 19 13 14 6
15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28
20 22 20 20 22 22 22 23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24
22 21 20 22 22 23 23 21 23 22 22 24 21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23
26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19 21 26 27 27 26 27 24 21 21 26 26 28 27 27 27
20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27 27 27 27 28 27 27 27 27 27 26 30""".split()]
EOS = 256


def _codes():
    codes, code, last = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(LENGTHS)):
        code <<= length - last
        codes[symbol], last = (code, length), length
        code += 1
    return codes


CODES = _codes()
SYMBOLS = {(code, length): symbol for symbol, (code, length) in CODES.items()}


class HpackError(Exception):
    pass


def huffman_encode(data):
    bits, count = 0, 0
    for byte in data:
        code, length = CODES[byte]
        bits, count = (bits << length) | code, count + length
    pad = -count % 8
    return ((bits << pad) | ((1 << pad) - 1)).to_bytes((count + pad) // 8, "big")


def huffman_decode(data):
    out, code, length = bytearray(), 0, 0
    for byte in data:
        for shift in range(7, -1, -1):
            code, length = (code << 1) | ((byte >> shift) & 1), length + 1
            symbol = SYMBOLS.get((code, length))
            if symbol == EOS:
                raise HpackError("EOS inside of a string")
            if symbol is not None:
                out.append(symbol)
                code, length = 0, 0
            elif length > 30:
                raise HpackError("no such code")
    if length > 7 or code != (1 << length) - 1:
        raise HpackError("padding is not the beginning of EOS")
    return bytes(out)


def encode_int(value, prefix, first=0):
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes([first | value])
    out, value = bytearray([first | limit]), value - limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Table:
    def __init__(self, limit=4096):
        self.limit, self.size, self.entries = limit, 0, []

    def resize(self, limit):
        self.limit = limit
        self._evict()

    def add(self, name, value):
        self.entries.insert(0, (name, value))
        self.size += len(name) + len(value) + 32
        self._evict()

    def _evict(self):
        while self.size > self.limit:
            name, value = self.entries.pop()
            self.size -= len(name) + len(value) + 32

    def at(self, index):
        if 1 <= index <= len(STATIC):
            return STATIC[index - 1]
        if 0 < index - len(STATIC) <= len(self.entries):
            return self.entries[index - len(STATIC) - 1]
        raise HpackError(f"index {index} of {len(STATIC)} + {len(self.entries)}")

    def find(self, name, value):
        """The index of the pair, or of the name alone, each 0 when there is none."""
        whole = of_name = 0
        for index, entry in enumerate(STATIC + self.entries, 1):
            if entry == (name, value):
                whole = whole or index
            if entry[0] == name:
                of_name = of_name or index
        return whole, of_name


class Decoder:
    def __init__(self, announced=4096):
        self.announced, self.table = announced, Table(min(announced, 4096))

    def decode(self, data):
        out, at, fields = [], 0, False
        while at < len(data):
            first = data[at]
            if first & 0x80:
                index, at = self._int(data, at, 7)
                out.append(self.table.at(index))
            elif first & 0xe0 == 0x20:
                if fields:
                    raise HpackError("change of the table's size after a field")
                size, at = self._int(data, at, 5)
                if size > self.announced:
                    raise HpackError(f"table of {size}, {self.announced} were announced")
                self.table.resize(size)
                continue
            else:
                index, at = self._int(data, at, 6 if first & 0x40 else 4)
                if index:
                    name = self.table.at(index)[0]
                else:
                    name, at = self._string(data, at)
                value, at = self._string(data, at)
                out.append((name, value))
                if first & 0x40:
                    self.table.add(name, value)
            fields = True
        return out

    @staticmethod
    def _int(data, at, prefix):
        limit = (1 << prefix) - 1
        value, at = data[at] & limit, at + 1
        if value < limit:
            return value, at
        for shift in range(0, 35, 7):
            if at >= len(data):
                raise HpackError("integer is cut")
            value, at = value + ((data[at] & 127) << shift), at + 1
            if data[at - 1] < 128:
                return value, at
        raise HpackError("integer is too long")

    def _string(self, data, at):
        if at >= len(data):
            raise HpackError("string is cut")
        packed = data[at] & 0x80
        length, at = self._int(data, at, 7)
        if at + length > len(data):
            raise HpackError("string is cut")
        raw = bytes(data[at:at + length])
        return (huffman_decode(raw) if packed else raw).decode("latin-1"), at + length


class Encoder:
    """plain: literals only. Else Huffman, and the dynamic table as far as the other side lets us."""

    def __init__(self, plain=True):
        self.plain, self.table, self.updates = plain, Table(), []

    def limit(self, size):
        """The other side's SETTINGS_HEADER_TABLE_SIZE. A smaller one must be confirmed (section 4.2)."""
        if size < self.table.limit:
            self.updates.append(size)
            self.table.resize(size)

    def encode(self, fields):
        out = b"".join(encode_int(size, 5, 0x20) for size in self.updates)
        self.updates = []
        for name, value in fields:
            whole, of_name = self.table.find(name, value)
            if whole and not self.plain:
                out += encode_int(whole, 7, 0x80)
                continue
            index = not self.plain and self.table.limit > 0
            out += encode_int(of_name, 6, 0x40) if index else encode_int(of_name, 4)
            out += (b"" if of_name else self._string(name)) + self._string(value)
            if index:
                self.table.add(name, value)
        return out

    def _string(self, text):
        raw = text.encode("latin-1")
        if self.plain:
            return encode_int(len(raw), 7) + raw
        packed = huffman_encode(raw)
        return encode_int(len(packed), 7, 0x80) + packed
