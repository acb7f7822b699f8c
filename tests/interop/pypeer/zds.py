# SPDX-License-Identifier: Apache-2.0
"""The node agent's side of ZDS: the reference, section 2. Strictly one message, one ack."""
import array
import os
import socket
import time

import proto

ACK_DEADLINE = 30  # seconds; an agent waits 5, but not on a machine that stands still meanwhile
BUFFER = 1024


class Session:
    """A connection of a node proxy."""

    def __init__(self, sock):
        self.sock = sock

    def read(self, message, timeout=ACK_DEADLINE):
        self.sock.settimeout(timeout)
        # One byte more than what an agent reads: a longer datagram shows.
        data, ancillary, flags, _ = self.sock.recvmsg(BUFFER + 1, socket.CMSG_SPACE(64))
        if not data:
            raise EOFError("the node proxy closed its ZDS connection")
        if len(data) > BUFFER or ancillary or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise AssertionError(f"datagram of {len(data)} bytes, ancillary {ancillary}, flags {flags}")
        decoded = proto.decode(message, data)
        if unknown := proto.unknown_fields(decoded):
            raise AssertionError(f"{message} has unknown fields {unknown}")
        return decoded

    def hello(self):
        return self.read("ZdsHello")

    def send_raw(self, data, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.settimeout(ACK_DEADLINE)
        self.sock.sendmsg([data], rights)

    def send(self, request, fds=()):
        """The error of the ack: "" when the request was taken."""
        self.send_raw(proto.encode("WorkloadRequest", request), fds)
        return self.ack()

    def ack(self):
        response = self.read("WorkloadResponse")
        if set(response) != {"ack"}:
            raise AssertionError(f"instead of an ack: {response}")
        return response["ack"].get("error", "")

    def add(self, uid, name, namespace, account, netns=None, more=()):
        """netns: a name; None sends no fd."""
        fds = [os.open(f"/run/netns/{n}", os.O_RDONLY | os.O_CLOEXEC) for n in ([netns] if netns else []) + list(more)]
        try:
            info = {"name": name, "namespace": namespace, "service_account": account}
            return self.send({"add": {"uid": uid, "workload_info": info}}, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def keep(self, uid):
        return self.send({"keep": {"uid": uid}})

    def delete(self, uid):
        return self.send({"del": {"uid": uid}})

    def snapshot(self):
        return self.send({"snapshot_sent": {}})

    def quiet(self, seconds=1.0):
        """Nothing may come unasked: an agent takes it for a violation and disconnects."""
        try:
            raise AssertionError(f"unasked: {self.read('WorkloadResponse', seconds)}")
        except TimeoutError:
            pass

    def wait_closed(self, timeout=60):
        deadline = time.monotonic() + timeout
        self.sock.settimeout(timeout)
        while time.monotonic() < deadline:
            try:
                if not self.sock.recv(BUFFER):
                    return
            except ConnectionResetError:
                return
        raise TimeoutError("the ZDS connection is still open")

    def close(self):
        self.sock.close()


class Agent:
    def __init__(self, path):
        self.path, self.sessions = path, []
        self.listen()

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(16)

    def accept(self, timeout=60):
        self.listener.settimeout(timeout)
        sock, _ = self.listener.accept()
        self.sessions.append(Session(sock))
        return self.sessions[-1]

    def close(self):
        """As an agent that ends."""
        self.listener.close()
        for session in self.sessions:
            session.close()
