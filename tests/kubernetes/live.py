# SPDX-License-Identifier: Apache-2.0
"""Long-lived connections between pods, of which every byte is compared (tests/integration/takeover/checker.py):
requests and answers all the time, bulk both ways, idle, half closed on either side."""
import concurrent.futures
import multiprocessing
import os
import sys
import threading

from harness import ROOT

sys.path.append(os.path.join(ROOT, "tests", "integration", "takeover"))  # last: other modules there have our names

import checker  # noqa: E402

PORT = 7100
PACE = 0.05  # seconds between two blocks of 64 KiB of a bulk connection, each way
MOST = 300   # seconds that all of it may take


def serve(ready, stop):
    threading.Thread(target=checker.server, args=(None, PORT, ready), daemon=True).start()
    stop.wait(MOST)


class Live:
    """with Live(bench, [("mesh/client", "mesh/far", 4), ...], each=10) as live: ...; then live.failures, live.silences."""

    def __init__(self, bench, ways, each):
        self.bench, self.each, self.failures, self.silences = bench, each, [], {}
        self.ways = list(ways)
        self.count = each * len(self.ways)
        self.pool = concurrent.futures.ThreadPoolExecutor(32)

    def call(self, pod, function, *args):
        return self.pool.submit(self.bench.call_at, self.bench.container(pod), function, *args, timeout=MOST + 30)

    def __enter__(self):
        self.stop, self.end = multiprocessing.Event(), multiprocessing.Event()
        self.servers, self.clients = [], {}
        try:
            for target in sorted({target for _, target, _ in self.ways}):
                ready = multiprocessing.Event()
                self.servers.append(self.call(target, serve, ready, self.end))
                self.until(ready, f"the server in {target}", self.servers)
            for way in self.ways:
                source, target, version = way
                up = multiprocessing.Event()
                self.clients[way] = self.call(
                    source, checker.clients, (self.bench.ip(target, version), PORT), self.each, PACE, up, self.stop)
                self.until(up, f"connections {source} -> {target}", [self.clients[way]])
        except BaseException:
            self.finish()
            raise
        return self

    def until(self, event, what, jobs):
        """Waits for what a process inside of a pod says, or for its death."""
        for _ in range(600):
            if event.wait(0.1):
                return
            for job in jobs:
                if job.done():
                    raise AssertionError(f"{what}: {job.result()}")
        raise AssertionError(f"{what}: not there in a minute")

    def are_up(self):
        """Whether nobody has ended before the time."""
        return not any(job.done() for job in [*self.clients.values(), *self.servers])

    def __exit__(self, *unused):
        self.finish()

    def finish(self):
        self.stop.set()
        for (source, target, version), job in self.clients.items():
            summary, failures = job.result()
            name = f"{source.partition('/')[2]} -> {target.partition('/')[2]}, IPv{version}"
            self.failures += [f"{name}: {failed}" for failed in failures]
            self.silences[name] = {kind: round(longest * 1000) for kind, (_, _, longest) in summary.items()}
        self.end.set()
        for job in self.servers:
            job.result()
        self.pool.shutdown()
