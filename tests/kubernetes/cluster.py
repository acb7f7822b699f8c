#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes cluster on this machine: cluster.py build | up | down | status | ... (--help)."""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from testbed import build, capture, control, images, life, node  # noqa: E402
from testbed.names import TEST_PREFIX, Cluster, Failed, say  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description="A Kubernetes cluster on this machine, from packages. Needs root.")
    parser.add_argument("--name", default=os.environ.get("QANAT_CLUSTER", "lab"), help="which cluster (default %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, text, *more):
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--name", default=argparse.SUPPRESS, help="which cluster")
        for flags, options in more:
            sub.add_argument(*flags, **options)
    rest = (("args",), {"nargs": argparse.REMAINDER})
    which = (("index",), {"type": int, "help": "the node's number"})
    part = (("part",), {"help": "etcd, kube-apiserver, kube-controller-manager, kube-scheduler, entry"})
    command("build", "build the programs and images into the cache, if they are not there",
            (("--idle",), {"action": "store_true", "help": "compile only in what time all others leave"}))
    command("up", "start a cluster; returns when its nodes and its DNS are ready",
            (("--nodes",), {"type": int, "default": 2}), (("--no-dns",), {"action": "store_true"}),
            (("--no-gateway-api",), {"action": "store_true", "help": "without the Gateway API's kinds"}),
            (("images",), {"nargs": "*", "help": "image archives to load", "metavar": "IMAGE.tar"}))
    command("down", "end and remove a cluster, also one that was left behind",
            (("--all",), {"action": "store_true", "help": "every cluster of this machine"}),
            (("--tests",), {"action": "store_true", "help": "every cluster that a test has left behind"}))
    command("status", "what runs, and where its logs are")
    command("load", "load image archives on all nodes", (("images",), {"nargs": "+", "metavar": "IMAGE.tar"}))
    command("kubectl", "kubectl of this cluster", rest)
    command("cp", "run a command in the network namespace of the control plane", rest)
    command("node", "run a command on node I", which, rest)
    command("off", "cut the power of node I", which)
    command("on", "give it back", which)
    command("reboot", "off and on; returns when the node is ready", which)
    command("stop", "kill a part of the control plane", part)
    command("start", "start it again", part)
    command("capture", "record the packets between the nodes into a pcap file until Ctrl-C", (("file",), {}))
    return parser.parse_args()


def replace(command):
    os.execvp(command[0], command)


def main():
    asked = arguments()
    cluster = Cluster(asked.name)
    match asked.command:
        case "build":
            say(build.programs(asked.idle))
            build.gateway_api()
            images.standard()
        case "up":
            life.up(cluster, asked.nodes, asked.images, not asked.no_dns, not asked.no_gateway_api)
        case "down":
            several = [each for each in life.all_clusters() if asked.all or each.name.startswith(TEST_PREFIX)]
            for each in several if asked.all or asked.tests else [cluster]:
                life.down(each)
                if left := life.leftovers(each):
                    raise Failed(f"cluster {each.name!r} could not be removed, still there: {', '.join(left)}")
        case "status":
            life.status(cluster)
        case "load":
            node.load(cluster, asked.images)
        case "kubectl":
            replace([os.path.join(cluster.load()["bin"], "kubectl"), "--kubeconfig", cluster.kubeconfig, *asked.args])
        case "cp":
            cluster.load()
            replace(["nsenter", f"--net={cluster.netns_path('cp')}", *asked.args])
        case "node":
            replace(node.inside(cluster, asked.index, asked.args))
        case "off":
            node.power_off(cluster, asked.index)
        case "on":
            node.power_on(cluster, asked.index)
        case "reboot":
            life.reboot(cluster, asked.index)
        case "stop":
            control.stop(cluster, asked.part)
        case "start":
            control.start(cluster, asked.part)
        case "capture":
            replace(capture.command(cluster, asked.file))


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        say(f"cluster.py: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
