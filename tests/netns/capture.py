# SPDX-License-Identifier: Apache-2.0
"""Captures on every interface of every namespace of a mesh, from the moment each namespace exists.

start() forks a watcher that looks for new namespaces of the mesh every few milliseconds and forks
one recorder for each: an AF_PACKET socket that sees all interfaces, also those made later. Files:
for each packet a record (float64 time, interface name padded to 16 bytes, uint32 length, bytes).
"""
import errno
import json
import os
import signal
import socket
import struct
import time

from bed import setns

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33
HEADER = struct.Struct("!d16sI")


def record(netns, path):
    setns(netns)
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
    sock.settimeout(0.2)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    packets = dropped = 0
    with open(path, "wb", buffering=1 << 20) as f, open(path + ".started", "w") as started:
        started.write(str(time.time()))
        started.flush()
        while True:
            try:
                data, address = sock.recvfrom(262144)
            except TimeoutError:
                if stop:
                    break
                continue
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                continue  # an interface went down: said once, and no end
            f.write(HEADER.pack(time.time(), address[0].encode(), len(data)))
            f.write(data)
            packets += 1
        seen, lost = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)[:8])
        dropped = lost
    json.dump({"packets": packets, "dropped": dropped}, open(path + ".stats", "w"))


def watch(name, folder):
    # Ahead of everything else that runs: a namespace must not see its first packet before we do.
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    known, children, stop = set(), [], []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    while not stop:
        present = {n for n in os.listdir("/run/netns") if n.startswith(f"qanat-{name}-")} if os.path.isdir("/run/netns") else set()
        for netns in present - known:
            path = f"/run/netns/{netns}"
            try:
                # `ip netns add` makes the file first and mounts the namespace on it afterwards
                if os.stat(path).st_ino < 4026531840:
                    continue
            except OSError:
                continue
            known.add(netns)
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                try:
                    record(path, os.path.join(folder, netns))
                finally:
                    os._exit(0)
            children.append(pid)
        time.sleep(0.001)
    for pid in children:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    for pid in children:
        os.waitpid(pid, 0)


def start(name, folder):
    pid = os.fork()
    if pid == 0:
        try:
            watch(name, folder)
        finally:
            os._exit(0)
    return pid


def stop(pid):
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)


class Packet:
    __slots__ = ("time", "interface", "netns", "src", "dst", "sport", "dport", "syn", "seq", "payload", "raw")


def packets(folder):
    """Every recorded frame; TCP ones are taken apart."""
    for file in sorted(os.listdir(folder)):
        if "." in file:
            continue
        with open(os.path.join(folder, file), "rb") as f:
            while head := f.read(HEADER.size):
                when, interface, length = HEADER.unpack(head)
                raw = f.read(length)
                packet = Packet()
                packet.time, packet.netns, packet.raw = when, file, raw
                packet.interface = interface.rstrip(b"\0").decode()
                packet.src = packet.dst = packet.payload = None
                packet.sport = packet.dport = packet.seq = 0
                packet.syn = False
                if length >= 34:
                    kind = struct.unpack_from("!H", raw, 12)[0]
                    tcp = None
                    if kind == 0x0800 and raw[23] == 6:
                        packet.src, packet.dst = socket.inet_ntop(socket.AF_INET, raw[26:30]), socket.inet_ntop(socket.AF_INET, raw[30:34])
                        tcp = 14 + (raw[14] & 15) * 4
                    elif kind == 0x86DD and length >= 54 and raw[20] == 6:
                        packet.src, packet.dst = socket.inet_ntop(socket.AF_INET6, raw[22:38]), socket.inet_ntop(socket.AF_INET6, raw[38:54])
                        tcp = 54
                    if tcp is not None and length >= tcp + 20:
                        packet.sport, packet.dport, packet.seq = struct.unpack_from("!HHI", raw, tcp)
                        packet.syn = raw[tcp + 13] & 0x12 == 0x02
                        packet.payload = raw[tcp + (raw[tcp + 12] >> 4) * 4:]
                yield packet
