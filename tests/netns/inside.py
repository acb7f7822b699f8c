# SPDX-License-Identifier: Apache-2.0
"""A Python function run inside a pod (its network namespace, control group and resolver), and the
functions that most tests run there."""
import ctypes
import os
import pickle
import signal
import socket
import struct
import time
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000


def cgroup2():
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            left, right = line.split(" - ")
            if right.startswith("cgroup2 "):
                return left.split()[4]
    raise RuntimeError("no cgroup2 mount")


def setns(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if LIBC.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


def use_resolv_conf(path):
    """The pod's resolver configuration instead of the machine's, in a mount namespace of our own."""
    if LIBC.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    private, bind = (1 << 18) | (1 << 14), 1 << 12
    for source, target, flags in ((b"none", b"/", private), (path.encode(), b"/etc/resolv.conf", bind)):
        if LIBC.mount(source, target, None, flags, None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {path}")


def answer_of(pid, pipe, deadline):
    """What the child wrote behind its length; b"": it died before that; None: not in time. Not until the pipe's end: a child
    that another thread forked meanwhile holds the pipe open for as long as it lives."""
    os.set_blocking(pipe.fileno(), False)
    data = b""
    while time.monotonic() < deadline:
        dead = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        while chunk := pipe.read(1 << 20):
            data += chunk
        if len(data) >= 8 and len(data) - 8 == struct.unpack_from("<Q", data)[0]:
            return data[8:]
        if dead or chunk == b"":
            return b""
        time.sleep(0.002)
    return None


def run_inside(netns, cgroup, function, args, timeout, resolv_conf=None):
    """Runs function(*args) in a forked child inside the namespace; its result or exception comes back."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            if cgroup:
                with open(os.path.join(cgroup, "cgroup.procs"), "w") as f:
                    f.write(str(os.getpid()))
            setns(netns)
            if resolv_conf:
                use_resolv_conf(resolv_conf)
            try:
                answer = (True, function(*args))
            except BaseException as error:  # goes to the parent whatever it is
                answer = (False, (type(error).__name__, str(error), traceback.format_exc(), error.errno if isinstance(error, OSError) else None))
            answer = pickle.dumps(answer)
            with os.fdopen(writer, "wb") as f:
                f.write(struct.pack("<Q", len(answer)) + answer)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as f:
        data = answer_of(pid, f, time.monotonic() + timeout)
    if data is None:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if data is None:
        raise TimeoutError(f"{function.__name__} did not end in {timeout} s")
    if not data:
        raise RuntimeError(f"{function.__name__} died in {netns}")
    ok, value = pickle.loads(data)
    if ok:
        return value
    raise InPod(*value)


class InPod(Exception):
    """An exception that was raised inside a pod."""

    def __init__(self, kind, text, trace, errno):
        super().__init__(f"{kind}: {text}\n{trace}")
        self.kind, self.text, self.errno = kind, text, errno


# -- what runs inside pods ------------------------------------------------------------------------
def over(began, seconds, flag, most=150):
    """Whether a load may end: after so many seconds, and not before `flag` is there when there is one."""
    passed = time.monotonic() - began
    return passed >= most or passed >= seconds and (flag is None or os.path.exists(flag))


def connect(host, port, timeout=10):
    sock = socket.create_connection((host, port), timeout=timeout)
    return sock


def http_get(host, port, path="/", headers=None, method="GET", body=None, timeout=15):
    import http.client
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        data = response.read()
        return response.status, dict((k.lower(), v) for k, v in response.getheaders()), data
    finally:
        connection.close()


def echo_once(host, port, payload=b"hello"):
    """One echo with half close; returns what came back."""
    with connect(host, port) as sock:
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while chunk := sock.recv(65536):
            got += chunk
        return got


def outcome(host, port, payload=b"hello", timeout=10):
    """"ok" when an echo works, else how it ended: what an application sees of a refusal."""
    try:
        with connect(host, port, timeout) as sock:
            sock.sendall(payload)
            got = b""
            while len(got) < len(payload):
                chunk = sock.recv(65536)
                if not chunk:
                    return "closed"
                got += chunk
            return "ok" if got == payload else "corrupt"
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    except OSError as error:
        return f"error {error.errno}"
