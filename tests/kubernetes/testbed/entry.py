# SPDX-License-Identifier: Apache-2.0
"""entry.py PORT NETNS HOST TO_PORT: listens on 127.0.0.1:PORT of the namespace it is started in, and
connects from inside NETNS. Bytes pass as they are: TLS ends at the API server."""
import asyncio
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


async def serve(listener, host, port):
    async def connection(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()  # the caller sees what it would see without us: no API server
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        for each in (writer, far_writer):
            each.close()
    async with await asyncio.start_server(connection, sock=listener) as server:
        await server.serve_forever()


def main(port, netns, host, to_port):
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=128)
    # From here on this process's new sockets belong to the other namespace.
    with open(netns) as f:
        if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {netns}")
    asyncio.run(serve(listener, host, int(to_port)))


if __name__ == "__main__":
    os.chdir("/")
    main(*sys.argv[1:])
