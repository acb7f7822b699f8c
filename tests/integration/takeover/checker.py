# SPDX-License-Identifier: Apache-2.0
"""Connections that live through upgrades and check every byte of theirs, and the server they talk to.

    rr     requests and answers of random sizes, all the time
    bulk   as many bytes as fit, both ways (or 64 KiB, and a pause)
    idle   one request at the beginning, one at the end
    half   the client has ended its direction, the server goes on until it is told to end, in order
    rest   the other way round: the server has ended its direction, the client goes on; what arrived is asked for
"""
import asyncio
import hashlib
import json
import os
import random
import time

KINDS = ("rr", "bulk", "idle", "half", "rest")
RECEIVED = {}  # the server's: what came over each connection of kind rest, once it has ended
ENDING = set()  # "   : connections of kind half that are to end


def stream(seed, at, size):
    """Bytes [at, at + size) of an endless stream that no two connections share."""
    out = bytearray()
    block = at // 32
    skip = at % 32
    while len(out) < size + skip:
        out += hashlib.sha256(f"{seed}/{block}".encode()).digest()
        block += 1
    return bytes(out[skip:skip + size])


class Pattern:
    """The same, quickly: a fixed piece of it, repeated with a counter."""

    def __init__(self, seed):
        self.piece = stream(seed, 0, 4096 - 8)

    def block(self, number):
        return number.to_bytes(8, "big") + self.piece


async def serve_one(reader, writer):
    try:
        first = json.loads(await reader.readline())
        if first["mode"] == "echo":
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        elif first["mode"] == "rest":
            writer.write(b"ready")
            writer.write_eof()
            digest = hashlib.sha256()
            while data := await reader.read(1 << 16):
                digest.update(data)
            RECEIVED[first["token"]] = digest.hexdigest()
        elif first["mode"] == "sum":
            while first["token"] not in RECEIVED:
                await asyncio.sleep(0.02)
            writer.write(RECEIVED.pop(first["token"]).encode())
        elif first["mode"] == "end":
            ENDING.add(first["token"])
        else:
            received = hashlib.sha256(await reader.read()).hexdigest()
            writer.write(received.encode())
            pattern = Pattern(first["seed"])
            number = 0
            while first["token"] not in ENDING:
                writer.write(pattern.block(number))
                await writer.drain()
                number += 1
                await asyncio.sleep(0.02)
            writer.write((2**64 - 1).to_bytes(8, "big"))
        writer.close()
        await writer.wait_closed()
    except OSError:
        pass


def server(host, port, ready):
    async def main():
        listening = await asyncio.start_server(serve_one, host, port, backlog=4096)
        ready.set()
        async with listening:
            await listening.serve_forever()
    asyncio.run(main())


class Failed(Exception):
    pass


class Client:
    def __init__(self, address, kind, seed, pace, stop):
        self.address, self.kind, self.seed, self.pace, self.stop = address, kind, seed, pace, stop
        self.longest, self.bytes, self.stage = 0.0, 0, "connect"
        self.token = os.urandom(8).hex()

    async def read(self, size):
        begin = time.monotonic()
        data = await self.reader.readexactly(size)
        self.longest = max(self.longest, time.monotonic() - begin)
        self.bytes += size
        return data

    async def run(self):
        try:
            self.reader, self.writer = await asyncio.open_connection(*self.address)
            mode = {"half": "drip", "rest": "rest"}.get(self.kind, "echo")
            self.writer.write(json.dumps({"mode": mode, "seed": self.seed, "token": self.token}).encode() + b"\n")
            self.stage = "talk"
            await getattr(self, self.kind)()
            self.stage = "end"
            self.writer.close()
            await self.writer.wait_closed()
            return None
        except (OSError, EOFError, Failed, asyncio.TimeoutError) as error:
            return f"{self.kind} at {self.stage} after {self.bytes} bytes: {error.__class__.__name__} {error}"

    async def exchange(self, number, size):
        data = stream(self.seed, number * 8192, size)
        self.writer.write(data)
        await self.writer.drain()
        if await self.read(size) != data:
            raise Failed("other bytes")

    async def ended(self):
        self.stage = "waiting for the end"
        self.writer.write_eof()
        if await self.reader.read(1):
            raise Failed("bytes behind the end")

    async def rr(self):
        chance = random.Random(self.seed)
        number = 0
        while not self.stop.is_set():
            await self.exchange(number, chance.randrange(1, 8000))
            number += 1
            await asyncio.sleep(chance.random() * 0.02)
        await self.ended()

    async def bulk(self):
        pattern = Pattern(self.seed)
        sent = 0

        async def send():
            nonlocal sent
            while not self.stop.is_set():
                self.writer.write(b"".join(pattern.block(sent + i) for i in range(16)))
                sent += 16
                await self.writer.drain()
                if self.pace:
                    await asyncio.sleep(self.pace)
            self.writer.write_eof()
        sending = asyncio.create_task(send())
        sending.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, also where reading failed first
        number = 0
        while True:
            try:
                block = await self.read(4096)
            except asyncio.IncompleteReadError as error:
                if error.partial or not sending.done():
                    raise
                break  # the end, after ours
            if block != pattern.block(number):
                raise Failed(f"other bytes in block {number}")
            number += 1
        await sending
        if number != sent:
            raise Failed(f"{sent - number} blocks are missing")

    async def idle(self):
        await self.exchange(0, 1000)
        while not self.stop.is_set():
            await asyncio.sleep(0.05)
        await self.exchange(1, 1000)
        await self.ended()

    async def half(self):
        data = stream(self.seed, 0, 100000)
        self.writer.write(data)
        self.writer.write_eof()
        if await self.read(64) != hashlib.sha256(data).hexdigest().encode():
            raise Failed("the server received other bytes")
        pattern = Pattern(self.seed)
        number, telling = 0, asyncio.create_task(self.tell_to_end())
        while True:
            mark = await self.read(8)
            if mark == (2**64 - 1).to_bytes(8, "big"):
                break
            if mark + await self.read(4088) != pattern.block(number):
                raise Failed(f"other bytes in block {number}")
            number += 1
        if await self.reader.read(1):
            raise Failed("bytes behind the end")
        await telling

    async def tell_to_end(self):
        await self.stop.wait()
        _, writer = await asyncio.open_connection(*self.address)
        writer.write(json.dumps({"mode": "end", "token": self.token}).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def rest(self):
        if await self.read(5) != b"ready":
            raise Failed("the server said something else")
        if await self.reader.read(1):
            raise Failed("bytes behind the end")
        pattern, digest, number = Pattern(self.seed), hashlib.sha256(), 0
        while not self.stop.is_set():
            block = pattern.block(number)
            digest.update(block)
            self.writer.write(block)
            await self.writer.drain()
            self.bytes += len(block)
            number += 1
            await asyncio.sleep(0.02)
        self.stage = "waiting for the sum"
        self.writer.write_eof()
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(json.dumps({"mode": "sum", "token": self.token}).encode() + b"\n")
        got = await asyncio.wait_for(reader.readexactly(64), 30)
        writer.close()
        if got != digest.hexdigest().encode():
            raise Failed("the server received other bytes")


async def watch_itself(seen):
    """How long this loop was busy at most: a silence of that length is nobody else's."""
    while True:
        begin = time.monotonic()
        await asyncio.sleep(0.01)
        seen[0] = max(seen[0], time.monotonic() - begin - 0.01)


def clients(address, count, pace, up, stop):
    """`count` connections of all kinds until `stop`; those of kind bulk pause that long each time.
    ({kind: (connections, bytes, longest silence)}, failures); `itself` is the checker's own."""
    async def main():
        ended = asyncio.Event()
        all_of_them = [Client(tuple(address), KINDS[i % len(KINDS)], i + 1, pace, ended) for i in range(count)]
        tasks = [asyncio.create_task(one.run()) for one in all_of_them]
        while any(one.stage == "connect" or one.bytes == 0 for one in all_of_them) and not all(t.done() for t in tasks):
            await asyncio.sleep(0.01)
        for one in all_of_them:  # hundreds of connects at once are not what is looked at
            one.longest = 0.0
        up.set()
        busy = [0.0]
        watching = asyncio.create_task(watch_itself(busy))
        while not stop.is_set():
            await asyncio.sleep(0.02)
        watching.cancel()
        for one in all_of_them:  # what ends takes its time
            one.until_then = one.longest
        ended.set()
        failures = [failed for failed in await asyncio.gather(*tasks) if failed]
        summary = {}
        for one in all_of_them:
            number, total, longest = summary.get(one.kind, (0, 0, 0.0))
            summary[one.kind] = (number + 1, total + one.bytes, max(longest, one.until_then))
        summary["itself"] = (1, 1, busy[0])
        return summary, failures
    return asyncio.run(main())
