# SPDX-License-Identifier: Apache-2.0
"""What is measured: the loads, and the rows that come of each."""
from collections import namedtuple

from pods import ECHO, HTTP, SINK

# figures: (row, key in the load's report, unit); higher says which way is better.
Load = namedtuple("Load", "name mode port connections flags figures")

PROXIED = ("same node", "cross node", "waypoint")
DIRECT = ("same node direct", "same node direct by Service")  # the kernel alone
PATHS = DIRECT + PROXIED
LOADS = (
    Load("bulk, 1 connection", "bulk", SINK, 1, (),
         (("bulk, 1 connection", "gbit_s", "Gbit/s"),)),
    Load("bulk, 16 connections", "bulk", SINK, 16, (),
         (("bulk, 16 connections", "gbit_s", "Gbit/s"),)),
    Load("1-byte round trip", "rr", ECHO, 1, (),
         (("1-byte round trip, p50", "p50_us", "us"), ("1-byte round trip, p99", "p99_us", "us"))),
    Load("round trips/s, 64 connections", "rr", ECHO, 64, (),
         (("round trips/s, 64 connections", "per_second", "/s"),)),
    Load("new connections/s, 1 client", "connect", ECHO, 1, (),
         (("new connections/s, 1 client", "per_second", "/s"),)),
    Load("new connections/s, 32 clients", "connect", ECHO, 32, (),
         (("new connections/s, 32 clients", "per_second", "/s"),)),
    Load("HTTP/1.1 at 1000/s", "http", HTTP, 64, ("--rate", "1000"),
         (("HTTP/1.1 at 1000/s, p50", "p50_us", "us"), ("HTTP/1.1 at 1000/s, p99", "p99_us", "us"))),
    Load("HTTP/1.1 requests/s, maximum", "http", HTTP, 64, (),
         (("HTTP/1.1 requests/s, maximum", "per_second", "/s"),)),
)


def cpu_unit(load):
    return {"bulk": "s/GiB", "rr+bulk": "s/GiB", "connect": "s/1000 connections"}.get(load.mode, "s/1000 requests")


def cpu_per_unit(load, result, seconds):
    """CPU seconds for a GiB, or for 1000 requests or connections. They worked
    during the warm-up too, so what was done then counts as well."""
    done = result["all_bytes"] / (1 << 30) if load.mode == "bulk" else result["all_samples"] / 1000
    return seconds / done if done else 0.0
