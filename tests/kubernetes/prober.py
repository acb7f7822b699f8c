# SPDX-License-Identifier: Apache-2.0
"""How soon a change takes hold: a process that runs in the pod before the change is made, tries every
20 ms and notes when. What it takes to start such a process is then not counted, and nothing is hidden
between two looks."""
import collections
import json
import os
import tempfile
import threading
import time

EVERY = 0.02
LATE = 10.0  # seconds between the last attempt and the end that are a machine's fault and not the prober's


def keep_trying(path, stop, seconds, every, attempt, args):
    """Appends [begin, end, outcome] to the file, until a file `stop` is there."""
    out = os.open(path, os.O_WRONLY | os.O_APPEND)
    last = time.monotonic() + seconds
    while time.monotonic() < last and not os.path.exists(stop):
        begin = time.monotonic()
        try:
            seen = attempt(*args)
        except OSError as error:
            seen = type(error).__name__
        end = time.monotonic()
        os.write(out, json.dumps([begin, end, seen]).encode() + b"\n")
        time.sleep(max(0.0, every - (end - begin)))


class Prober:
    """with Prober(bench, "mesh/near", outcome, address, 9000, b"x", 3) as prober: ...
    A prober that dies, or whose `seconds` are over, before the block ends is an error for everybody who asks it, and at
    the end for the block: what nobody tried any more must not read as "did not come through"."""

    def __init__(self, bench, pod, attempt, *args, seconds=90, every=EVERY):
        self.file = tempfile.NamedTemporaryFile("r", dir=bench.folder)
        self.stop, self.error, self.all = self.file.name + ".stop", None, None
        self.what = f"the prober in {pod} ({getattr(attempt, '__name__', type(attempt).__name__)})"
        self.thread = threading.Thread(target=self.run, daemon=True, args=(
            bench, bench.container(pod), (self.file.name, self.stop, seconds, every, attempt, args), seconds + 30))

    def run(self, bench, container, args, timeout):
        try:
            bench.call_at(container, keep_trying, *args, timeout=timeout)
        except Exception as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        try:
            self.wait(lambda seen: len(seen) >= 3, "it does not try")
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind=None, *unused):
        asked, ended = time.monotonic(), not self.thread.is_alive()
        with open(self.stop, "w"):
            pass
        self.thread.join()
        os.unlink(self.stop)
        self.all = self.read()
        self.file.close()
        if kind is not None:
            return  # that exception says more
        if ended or self.error:
            self.ended_early()
        # who lives tries until the end: the attempt that was on its way then has been waited for
        if (idle := asked - self.all[-1][1]) > LATE:
            raise AssertionError(f"{self.what} had not tried for {idle:.1f} s when it was to end")

    def ended_early(self):
        raise AssertionError(f"{self.what} ended before its time: {self.error or 'its seconds were over'}")

    def seen(self):
        if self.all is None and not self.thread.is_alive():
            self.ended_early()
        return self.read() if self.all is None else self.all

    def read(self):
        self.file.seek(0)
        return [json.loads(line) for line in self.file if line.endswith("\n")]

    def wait(self, condition, problem, seconds=60):
        last = time.monotonic() + seconds
        while not condition(seen := self.seen()):
            if time.monotonic() > last:
                raise AssertionError(f"{problem}; last: {seen[-3:]}")
            time.sleep(0.01)

    def counts(self):
        return collections.Counter(how for _, _, how in self.seen())

    def longest_gap(self):
        """The longest time without an "ok", to the end of the last attempt: who never comes through again counts too."""
        seen = self.seen()
        moments = [seen[0][0], *(end for _, end, how in seen if how == "ok"), seen[-1][1]]
        return max(late - early for early, late in zip(moments, moments[1:]))

    def takes_hold(self, what, wanted, since, stays=0.5):
        """Seconds from `since` to the end of the first attempt with the wanted outcome; every later one must have it."""
        self.wait(lambda seen: any(end >= since and wanted(o) for _, end, o in seen), f"{what}: not seen")
        time.sleep(stays)
        began, ended, _ = next(each for each in self.seen() if each[1] >= since and wanted(each[2]))
        back = [each for each in self.seen() if each[0] > began and not wanted(each[2])]
        if back:
            raise AssertionError(f"{what}: it came and went: {back[:3]}")
        return ended - since


def after(bench, change, pod, what, wanted, attempt, *args):
    """Makes the change while the pod tries; seconds from the change's end (`kubectl apply` is back) to the new outcome."""
    with Prober(bench, pod, attempt, *args) as prober:
        if any(wanted(outcome) for _, _, outcome in prober.seen()):
            raise AssertionError(f"{what}: so it is before the change already: {prober.seen()[-3:]}")
        change()
        took = prober.takes_hold(what, wanted, time.monotonic())
    print(f"{what}: {took * 1000:.0f} ms after the change", flush=True)
    return took
