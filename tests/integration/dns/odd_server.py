#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A name server that says odd things, written without any DNS library and without our code.

odd_server.py ADDRESS PORT: UDP and TCP. What it does depends on the name asked for (below .test).
Prints "ready" once it listens and a line per question: "udp|tcp NAME TYPE".
"""
import selectors
import socket
import struct
import sys

SOA = b"\2ns\4test\0\5admin\4test\0" + struct.pack(">5I", 1, 2, 3, 4, 60)
A_RDATA = bytes([192, 0, 2, 1])
POINTER = b"\xc0\x0c"
counts = {}


def rr(name, kind, ttl, data, klass=1):
    return name + struct.pack(">HHIH", kind, klass, ttl, len(data)) + data


def read_question(query):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1").lower())
        at += 1 + query[at]
    kind, = struct.unpack(">H", query[at + 1:at + 3])
    return ".".join(labels), kind, at + 5


def reply(query, end, flags=0x8180, answers=(), authorities=(), additionals=()):
    head = query[:2] + struct.pack(">5H", flags, 1, len(answers), len(authorities),
                                   len(additionals))
    return head + query[12:end] + b"".join(answers) + b"".join(authorities) + b"".join(additionals)


def text(data):
    return bytes([len(data)]) + data


def answers(query, tcp, extra_socket, peer):
    """The packets to send, in order."""
    name, kind, end = read_question(query)
    print("tcp" if tcp else "udp", name, kind, flush=True)
    counts[name] = counts.get(name, 0) + 1
    first = name.split(".")[0]
    if not name.endswith(".test"):
        return [reply(query, end, 0x8183, authorities=[rr(b"\0", 6, 60, SOA)])]
    if first == "silent":
        return []
    if first == "nx":
        return [reply(query, end, 0x8183, authorities=[rr(b"\4test\0", 6, 300, SOA)])]
    if first == "servfail":
        return [reply(query, end, 0x8182)]
    if first == "bare":  # as servers do that do not understand a question
        return [query[:2] + struct.pack(">5H", 0x8181, 0, 0, 0, 0)]
    if first == "svcb":
        # priority 1, target ".", alpn, an unknown key with every byte value
        data = b"\0\1\0" + struct.pack(">HH", 1, 3) + b"\2h2" + struct.pack(">HH", 65280, 256) + \
            bytes(range(256))
        return [reply(query, end, answers=[rr(POINTER, 64, 60, data)])]
    if first == "naptr":
        data = struct.pack(">HH", 100, 10) + text(b"u") + text(b"E2U+sip") + \
            text(b"!^.*$!sip:a@b!") + b"\0"
        return [reply(query, end, answers=[rr(POINTER, 35, 60, data)])]
    if first == "unknown":
        return [reply(query, end, answers=[rr(POINTER, 65280, 60, bytes(range(256)))])]
    if first == "sections":  # every section, classes and TTLs that nobody expects, options
        option = struct.pack(">HH", 65001, 5) + b"\0\xff\1\2\3"
        return [reply(query, end, 0x85b0,
                      answers=[rr(POINTER, 16, 0x80000001, text(b"a")),
                               rr(POINTER, 16, 60, text(b"b"), klass=3)],
                      authorities=[rr(b"\4test\0", 2, 60, b"\2ns" + b"\xc0\x0c")],
                      additionals=[rr(b"\2ns\4test\0", 1, 60, A_RDATA),
                                   b"\0" + struct.pack(">HHIH", 41, 4096, 0x8000, len(option)) +
                                   option, rr(POINTER, 250, 0, b"\1\2\3")])]
    if first == "broken":  # says two records, has half of one
        return [reply(query, end, answers=[POINTER + b"\0\1\0"])[:7] + b"\2" +
                reply(query, end, answers=[POINTER + b"\0\1\0"])[8:]]
    if first == "big":
        if not tcp:
            return [reply(query, end, 0x8380, answers=[rr(POINTER, 16, 60, text(b"cut"))])]
        return [reply(query, end, answers=[rr(POINTER, 16, 60, text(b"x" * 200))] * 40)]
    if first == "huge":  # takes no notice of what the client can take
        return [reply(query, end, answers=[rr(POINTER, 16, 60, text(b"x" * 200))] * 10)]
    if first == "soon":
        return [reply(query, end, answers=[rr(POINTER, 1, 1, A_RDATA)])]
    if first == "count":
        return [reply(query, end, answers=[rr(POINTER, 16, 60, text(b"%d" % counts[name]))])]
    if first == "alias":
        return [reply(query, end, answers=[rr(POINTER, 5, 60, b"\5plain\4test\0"),
                                           rr(b"\5plain\4test\0", kind, 60, A_RDATA)]
                      if kind == 1 else ())]
    if first == "sixonly":
        return [reply(query, end, answers=[rr(POINTER, 28, 60, bytes(15) + b"\x09")])
                if kind == 28 else
                reply(query, end, authorities=[rr(b"\4test\0", 6, 60, SOA)])]
    if first.startswith("at-"):  # at-10-93-0-2.test: that address
        data = socket.inet_aton(first[3:].replace("-", "."))
        return [reply(query, end, answers=[rr(POINTER, 1, 60, data)] if kind == 1 else ())]
    good = reply(query, end, answers=[rr(POINTER, 1, 60, A_RDATA)])
    if first == "forged":
        bad = good[:-4] + bytes([6, 6, 6, 6])
        wrong_id = bytes([bad[0] ^ 0x55]) + bad[1:]
        other = query[:12] + b"\5other\4test\0" + query[end - 4:end]
        wrong_question = reply(other, len(other), answers=[rr(POINTER, 1, 60, bytes([6] * 4))])
        extra_socket.sendto(bad, peer)  # all right but for the port that it comes from
        return [wrong_id, wrong_question, b"", b"\0", bad[:2] + b"\1" + bad[3:], good]
    return [good]


def main():
    address, port = sys.argv[1], int(sys.argv[2])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind((address, port))
    extra = socket.socket(family, socket.SOCK_DGRAM)
    extra.bind((address, 0))
    tcp = socket.socket(family, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, port))
    tcp.listen(100)
    selector = selectors.DefaultSelector()
    selector.register(udp, selectors.EVENT_READ)
    selector.register(tcp, selectors.EVENT_READ)
    pending = {}
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            source = key.fileobj
            if source is udp:
                query, peer = udp.recvfrom(65535)
                for packet in answers(query, False, extra, peer):
                    udp.sendto(packet, peer)
            elif source is tcp:
                connection, _ = tcp.accept()
                pending[connection] = b""
                selector.register(connection, selectors.EVENT_READ)
            else:
                data = source.recv(65535)
                pending[source] += data
                while len(pending[source]) >= 2:
                    size, = struct.unpack(">H", pending[source][:2])
                    if len(pending[source]) < 2 + size:
                        break
                    query, pending[source] = pending[source][2:2 + size], pending[source][2 + size:]
                    for packet in answers(query, True, extra, None):
                        source.sendall(struct.pack(">H", len(packet)) + packet)
                if not data:
                    selector.unregister(source)
                    del pending[source]
                    source.close()


main()
