#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Asks a server from inside a pod that has python3 and no curl. The pod reads it from standard input:

    kubectl exec -i -n shop deploy/frontend -- python3 - http://backend/api/orders <ask.py

A line for each answer: the status and the body, or what a server says that speaks first (HOST:PORT).
Every request is a connection of its own. Exit code 1 when one got no answer."""
import argparse
import socket
import sys
import urllib.error
import urllib.request


def first_words(host, port, timeout):
    with socket.create_connection((host, port), timeout) as connection:
        said = connection.recv(1000)
    if not said:
        raise OSError("closed without a byte")
    return said.decode().strip()


def http(url, data, headers, timeout):
    request = urllib.request.Request(url, data and data.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return f"{response.status} {response.read().decode().strip()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode().strip()}"


def main():
    parser = argparse.ArgumentParser(prog="ask.py", description="Asks a server, once or several times.")
    parser.add_argument("where", help="a URL, or HOST:PORT of a server that speaks first")
    parser.add_argument("-n", dest="times", type=int, default=1, metavar="TIMES")
    parser.add_argument("-H", dest="headers", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument("-d", dest="data", metavar="BODY", help="POST this")
    parser.add_argument("-t", dest="timeout", type=float, default=10, metavar="SECONDS")
    asked = parser.parse_args()
    headers = {name.strip(): value.strip() for name, _, value in (each.partition(":") for each in asked.headers)}
    unanswered = 0
    for _ in range(asked.times):
        try:
            if "://" in asked.where:
                print(http(asked.where, asked.data, headers, asked.timeout))
            else:
                host, _, port = asked.where.rpartition(":")
                print(first_words(host, int(port), asked.timeout))
        except OSError as error:
            print(f"no answer: {error}")
            unanswered += 1
    sys.exit(1 if unanswered else 0)


main()
