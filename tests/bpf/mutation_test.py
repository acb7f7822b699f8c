#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks the kernel programs one place at a time, and expects a test to notice each.

The per-pod programs and those at the node's ends of veths go to bpf_run_test as object files. Those of the node
(connect, bind, sockops) are put into a copy of the agent in place of its own, and bpf_capture_test or
bpf_direct_test runs with that one; `--quick` leaves these out. A mutant that no longer applies fails: whoever
changes that line says here how it could be broken.

Environment: QANAT_BUILD_DIR. Needs root. Nothing is written but in a folder below /tmp."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("QANAT_BUILD_DIR", os.path.join(ROOT, "build/asan"))
QUICK = "--quick" in sys.argv

# name, file below bpf/, what is there, what stands there instead
POD = [
    ("guard lets SYNs out", "guard.bpf.c", "  count(id, QANAT_CNT_GUARD_DROPPED);\n  return TCX_DROP;",
     "  count(id, QANAT_CNT_GUARD_DROPPED);\n  return TCX_NEXT;"),
    ("guard drops SYN-ACKs", "include/packet.bpf.h", "return (flags & (kFlagSyn | kFlagAck)) == kFlagSyn", "return (flags & kFlagSyn)"),
    ("guard takes a cut header for none", "include/packet.bpf.h", "if (bpf_skb_load_bytes(skb, offset, h, sizeof(h))) return -1;",
     "if (bpf_skb_load_bytes(skb, offset, h, sizeof(h))) return 0;"),
    ("guard reads no IP options", "include/packet.bpf.h", "(h[0] & 0x0f) * 4", "20"),
    ("guard takes the first fragment for a later one", "include/packet.bpf.h", "(h[6] & 0x1f)", "(h[6] & 0x3f)"),
    ("guard takes later fragments for SYNs", "include/packet.bpf.h", "if (h[2] || (h[3] & 0xf8)) return 0;", ""),
    ("guard gives up behind extension headers", "include/packet.bpf.h", "i < 6", "i < 1"),
    ("guard counts an extension header's words from one", "include/packet.bpf.h", "(h[1] + 1) * 8", "h[1] * 8 + 16"),
    ("guard looks at IPv4 only", "include/packet.bpf.h", "if (protocol != bpf_htons(ETH_P_IPV6)) return 0;", "return 0;"),
    ("guard lets a tagged frame out", "include/packet.bpf.h", "if (!protocol || is_tagged(protocol)) return -1;", "if (!protocol) return -1;"),
    ("guard takes a plain SYN for a later segment", "include/packet.bpf.h",
     "(d[ETH_HLEN + 20 + kFlagsOffset] & (kFlagSyn | kFlagAck)) != kFlagSyn", "1"),
    ("ingress asks nobody", "ingress.bpf.c", "return QANAT_FIELD(*answer) == id;", "return 1;"),
    ("ingress takes an old answer", "ingress.bpf.c", "  *answer = 0;\n", ""),
    ("ingress lets in what it cannot read", "ingress.bpf.c", "read_tuple(skb, offset, &t)) return 0;", "read_tuple(skb, offset, &t)) return 1;"),
    ("ingress closes a pod that leaves", "ingress.bpf.c", "mode == QANAT_MODE_OFF || mode == QANAT_MODE_DRAIN", "mode == QANAT_MODE_OFF"),
    ("lookup does not answer", "sk_lookup.bpf.c", "if (answer) *answer = id;", ""),
    ("lookup gives the wire to the application", "sk_lookup.bpf.c", "__u32 role = QANAT_ROLE_INBOUND;\n  if (", "__u32 role = QANAT_ROLE_INBOUND;\n  if (to_own) return SK_PASS;\n  if ("),
    ("lookup mixes up the listeners", "sk_lookup.bpf.c", "    role = QANAT_ROLE_HBONE;", "    role = QANAT_ROLE_INBOUND;"),
    ("lookup leaves 15008 to applications", "sk_lookup.bpf.c", "tuple.dport == QANAT_PORT_HBONE) {\n    role", "0) {\n    role"),
    ("lookup opens 15001 to the wire", "sk_lookup.bpf.c", "tuple.dport == QANAT_PORT_OUTBOUND || tuple.dport", "tuple.dport"),
    ("lookup takes a grant of any pod", "sk_lookup.bpf.c", "g->pod_id == lookup_pod_id && ", ""),
    ("lookup takes a grant of any generation", "sk_lookup.bpf.c", "g->generation == QANAT_FIELD(state->generation)", "1"),
    ("lookup takes an old grant", "sk_lookup.bpf.c", "bpf_ktime_get_ns() - g->time_ns <= QANAT_GRANT_LIFETIME_NS", "1"),
    ("lookup without a listener lets the application answer", "sk_lookup.bpf.c", "QANAT_CNT_DROP_NO_LISTENER);\n    return SK_DROP;",
     "QANAT_CNT_DROP_NO_LISTENER);\n    return SK_PASS;"),
    ("lookup looks into one slot only", "sk_lookup.bpf.c", "    if (sk) break; /*", "    break; /*"),
    ("lookup lets the wire in while cut off", "sk_lookup.bpf.c", "    count(id, QANAT_CNT_REFUSED_CUT);\n    return SK_DROP;",
     "    count(id, QANAT_CNT_REFUSED_CUT);\n    return SK_PASS;"),
    ("lookup takes what the pod says to itself", "sk_lookup.bpf.c", "(to_own && is_own(&tuple.src)) || ", ""),
    ("lookup hands a probe to the proxy", "sk_lookup.bpf.c", "(failed ? 0 : QANAT_SEEN_ASSIGN));\n    return SK_DROP;",
     "(failed ? 0 : QANAT_SEEN_ASSIGN));\n    return SK_PASS;"),
]
HOST = [
    ("host_in lets any source out", "host_in.bpf.c", "    count(id, QANAT_CNT_FOREIGN_SOURCE);\n    return TCX_DROP;",
     "    count(id, QANAT_CNT_FOREIGN_SOURCE);\n    return TCX_NEXT;"),
    ("host_in does not look at ARP", "host_in.bpf.c", "  if (type == bpf_htons(ETH_P_ARP)) return is_own_arp(skb, end);\n", ""),
    ("host_in believes advertisements", "host_in.bpf.c", "if (type != 136) return 1;", "return 1;"),
    ("host_in takes ARP of any sizes", "host_in.bpf.c", " || h[2] != bpf_htons(0x0604)", ""),
    ("host_in takes another pod's further address", "host_in.bpf.c", "{end->pod_id, *ip}", "{end->pod_id + 1, *ip}"),
    ("host_in lets nobody ask for an address", "host_in.bpf.c", "if (ip_is_any(ip)) return 1;", ""),
    ("host_in lets tags out", "host_in.bpf.c", "!type || is_tagged(type)) return 0;", "!type) return 0;"),
    ("host_in wants no sign", "host_in.bpf.c", "syn && !is_signed && (QANAT_FIELD(end->flags) & QANAT_END_SIGNED)", "0"),
    ("host_in wants a sign that may not cross", "host_in.bpf.c", "!is_signed && (QANAT_FIELD(end->flags) & QANAT_END_SIGNED)", "!is_signed"),
    ("host_in closes a pod that leaves", "host_in.bpf.c", "mode != QANAT_MODE_OFF && mode != QANAT_MODE_DRAIN", "mode != QANAT_MODE_OFF"),
    ("host_in opens an unknown interface", "host_in.bpf.c", "if (!end) return TCX_DROP;", "if (!end) return TCX_NEXT;"),
    ("host_in lets a spoofed probe go", "host_in.bpf.c", "if (!own || read_tuple", "if (read_tuple"),
    ("host_out honours a grant from anywhere", "host_out.bpf.c", "if (source && source->netns == grant->source) return", "return"),
    ("host_out honours it from any pod", "host_out.bpf.c", "source && source->netns == grant->source", "source"),
    ("host_out looks at the proxy's grants", "host_out.bpf.c", " || grant->kind != QANAT_GRANT_DIRECT", ""),
    ("host_out lets probes in", "host_out.bpf.c", "        __sync_fetch_and_or(&probe->seen, seen);\n        return TCX_DROP;",
     "        __sync_fetch_and_or(&probe->seen, seen);\n        return TCX_NEXT;"),
    ("host_out takes any way for the straight one", "host_out.bpf.c", "probe->slot == from ? QANAT_SEEN_HOST_OUT : QANAT_SEEN_OTHER_WAY", "QANAT_SEEN_HOST_OUT"),
]
# ... and the tests of bpf_capture_test that are asked
OUT = "*OutgoingIpv*"
NODE = [
    ("connect sets the proxy's mark", "include/connect.bpf.h", "if (set_mark(ctx, change->mark)) return", "if (set_mark(ctx, QANAT_MARK_PROXY)) return", OUT),
    ("connect lets everything go", "include/connect.bpf.h", "if (mode == QANAT_MODE_OFF && !probe) return connect_early(sk);", "if (!probe) return 1;", OUT),
    ("connect captures the proxy", "include/connect.bpf.h", "if (cgroup_kind() == CGROUP_PEER) return", "if (0) return", "*ProxysOwnConnections*"),
    ("connect believes an application's mark", "include/connect.bpf.h", "if (set_mark(ctx, change->mark)) return",
     "if (sk->mark != QANAT_MARK_PROXY && set_mark(ctx, change->mark)) return", "*MarkOfTheProxy*"),
    ("connect lets a bound device be", "include/connect.bpf.h", "if (QANAT_CTX(sk, bound_dev_if)) {", "if (0) {", "*DeviceBinding*"),
    ("connect lets link-local out", "include/connect.bpf.h", "if (ip_is_v6_link_local(dst)) return", "if (0) return", "*LinkLocalIpv6*"),
    ("connect forgets the leg to the application", "include/connect.bpf.h", "if (ip_is_pods(pod, dst) || is_other_own(pod->id, dst)) {", "if (0) {", "*LoLegReaches*"),
    ("connect takes pods' processes for the node's", "include/connect.bpf.h", "!cfg->pod_roots[0].id || cgroup_kind() != CGROUP_OTHER", "0",
     "*ProcessOfAPodInTheNodes*"),
    ("bind leaves the port to the kernel", "include/bind.bpf.h", "ctx->user_port = bpf_htons(low + bpf_get_prandom_u32() % (high - low + 1));", "",
     "*SpoofedBind*"),
    ("sockops grants without the mark", "sockops.bpf.c", "QANAT_CTX(sk, mark) != QANAT_MARK_ONE_PASS", "0", "*OnePassIsGranted*"),
    ("sockops grants nothing", "include/grants.bpf.h", "if (bpf_map_update_elem(&grants, tuple, grant, BPF_ANY)) {", "if (1) {", "*ProbesOfTheNode*"),
    ("sockops leaves used grants", "sockops.bpf.c", "    on_accepted(ctx);", "", "*GrantIsUsedUp*:*GrantsSurvive*"),
]
# ... and those of bpf_direct_test
VIPS = [
    ("vips draw unevenly", "include/vip.bpf.h", "which += beyond;", "which |= beyond;", "*Shares*:*EveryPlace*"),
    ("vips draw beside the weights", "include/vip.bpf.h", "bpf_get_prandom_u32() % total", "bpf_get_prandom_u32() % vip->count", "*Shares*"),
    ("vips are looked for without their pod", "include/vip.bpf.h", "{c->dst, c->src_serial, (__u16)c->port, 0}", "{c->dst, 0, (__u16)c->port, 0}", "*GoesStraight*"),
    ("vips are not asked for", "include/vip.bpf.h", "    direct_ask(&miss, c->src_id);", "", "*AskedOnce*"),
    ("vips pass a refused verdict by", "include/connect.bpf.h", "if (direct_decide(c) == DIRECT_YES && c->dst_serial == vip.dst_serial) {", "direct_decide(c); {",
     "*CannotGoStraight*"),
    ("vips believe a pod that is gone", "include/connect.bpf.h", " && c->dst_serial == vip.dst_serial) {", ") {", "*CannotGoStraight*"),
    ("vips do not tell the proxy", "include/connect.bpf.h", "if (vip.code) change->mark = ", "if (0) change->mark = ", "*CannotGoStraight*"),
    ("vips take no notice of a refusal", "include/connect.bpf.h", "if (vip_is_suspended(c->src_serial, vip.dst_serial, vip.port)) {", "if (0) {", "*ThatRefuses*"),
    ("vips suspend for what its application gave up", "sockops.bpf.c", "} else if (QANAT_CTX(ctx, segs_in) || QANAT_CTX(ctx, total_retrans)) {", "} else {",
     "*OnlyASilent*"),
    ("vips never forgive", "sockops.bpf.c", "if (bpf_map_lookup_elem(&suspended, &key)) bpf_map_delete_elem(&suspended, &key);", "", "*EndsWithAnAnswer*"),
    ("vips suspend without an end", "include/vip.bpf.h", "  if (time > QANAT_SUSPEND_MOST_NS)\n", "  if (0)\n", "*EndsWithAnAnswer*"),
    ("vips are not written, IPv4", "connect4.bpf.c", "    ctx->user_ip4 = change.dst.word[3];", "", "*GoesStraight*"),
    ("vips are not written, IPv6", "connect6.bpf.c", "    dns_write6(ctx, &change.dst);", "", "*GoesStraight*"),
    ("vips show the endpoint, IPv4", "getpeername4.bpf.c", "    ctx->user_ip4 = d->vip.word[3];", "", "*SeesTheService*"),
    ("vips show the endpoint's port", "getpeername6.bpf.c", "    ctx->user_port = bpf_htons((__u16)d->vip_port);", "", "*SeesTheService*"),
    ("vips of an earlier connect are shown", "include/connect.bpf.h", "  forget_vip(sk);", "", "*ConnectsAgain*"),
]


def read(path, mode="r"):
    with open(path, mode) as file:
        return file.read()


def command(file):
    """The compiler's command of a build tree, and the sources of an object, as the build has them."""
    text = read(os.path.join(BUILD, "build.ninja"))
    line = re.search(rf"COMMAND = cd \S+ && (\S*clang\S* [^\n]*-target bpf[^\n]*/{re.escape(file)} -o )\S+", text)
    return line.group(1)


def sources(skeleton):
    text = read(os.path.join(ROOT, "bpf/CMakeLists.txt"))
    return re.search(rf"bpf_skeleton\({skeleton}\s+([^)]*)\)", text).group(1).split()


class Mutants(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="qanat-mutants-")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def built(self, skeleton, changes):
        """The linked object of a skeleton with these changes (file, old, new) in the sources."""
        tree = os.path.join(self.dir, "tree")
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(os.path.join(ROOT, "bpf"), os.path.join(tree, "bpf"))
        for folder, _, files in os.walk(os.path.join(tree, "bpf")):
            for file in files:
                # Without its lines as texts, so that an object is never larger than the one that it replaces.
                path = os.path.join(folder, file)
                text = read(path)
                with open(path, "w") as out:
                    out.write('#line 1 "none"\n' + text)
        for file, old, new in changes:
            path = os.path.join(tree, "bpf", file)
            text = read(path)
            self.assertEqual(text.count(old), 1, f"{file} has not (once) what is to be broken: {old!r}")
            with open(path, "w") as out:
                out.write(text.replace(old, new))
        objects = []
        for source in sources(skeleton):
            objects.append(os.path.join(self.dir, source + ".o"))
            compile_one = command(source).replace(f"-I{ROOT}", f"-I{tree}").replace(f"{ROOT}/bpf/{source}", f"{tree}/bpf/{source}")
            # What a break leaves unused is no error here.
            compile_one = re.sub(r"-Werror|-MMD -MF \S+ -MT \S+", "", compile_one)
            done = subprocess.run(compile_one + objects[-1], shell=True, cwd=tree, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
        linked = os.path.join(self.dir, skeleton + ".o")
        subprocess.run(["bpftool", "gen", "object", linked, *objects], check=True, capture_output=True)
        return linked

    def passes(self, test, environment, only="*"):
        try:
            done = subprocess.run([os.path.join(BUILD, "tests/bpf", test), f"--gtest_filter={only}", "--gtest_brief=1"],
                                  env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            return False  # a connection that goes round for ever: ctest would end it as well
        said = done.stdout + done.stderr
        # At least one test ran, on a program that the kernel took: else nobody noticed anything.
        self.assertRegex(said, r"\[==========\] [1-9]\d* test")
        self.assertNotRegex(said, r"load /|does not become ready")
        return done.returncode == 0

    def test_pod_programs(self):
        self.assertTrue(self.passes("bpf_run_test", {"QANAT_POD_HOOKS": self.built("pod_hooks", [])}), "unbroken")
        for name, file, old, new in POD:
            with self.subTest(name):
                self.assertFalse(self.passes("bpf_run_test", {"QANAT_POD_HOOKS": self.built("pod_hooks", [(file, old, new)])}),
                                 "no test noticed")

    def test_host_programs(self):
        self.assertTrue(self.passes("bpf_run_test", {"QANAT_HOST_HOOKS": self.built("host_hooks", [])}, "HostTest*"), "unbroken")
        for name, file, old, new in HOST:
            with self.subTest(name):
                self.assertFalse(self.passes("bpf_run_test", {"QANAT_HOST_HOOKS": self.built("host_hooks", [(file, old, new)])}, "HostTest*"),
                                 "no test noticed")

    def agent_with(self, linked):
        """A copy of the agent that carries this object for the node."""
        agent = read(os.path.join(BUILD, "bin/qanat-agent"), "rb")
        own = read(os.path.join(BUILD, "bpf/node_hooks.bpf.o"), "rb")
        other = read(linked, "rb")
        self.assertEqual(agent.count(own), 1)
        self.assertLessEqual(len(other), len(own), "the broken object does not fit")
        path = os.path.join(self.dir, "agent")
        with open(path, "wb") as out:
            out.write(agent.replace(own, other + bytes(len(own) - len(other))))
        os.chmod(path, 0o755)
        return path

    @unittest.skipIf(QUICK, "--quick")
    def test_node_programs(self):
        every = ":".join(dict.fromkeys(only for *_, only in NODE))
        unbroken = self.agent_with(self.built("node_hooks", []))
        self.assertTrue(self.passes("bpf_capture_test", {"QANAT_AGENT": unbroken}, every), "unbroken")
        for name, file, old, new, only in NODE:
            with self.subTest(name):
                agent = self.agent_with(self.built("node_hooks", [(file, old, new)]))
                self.assertFalse(self.passes("bpf_capture_test", {"QANAT_AGENT": agent}, only), "no test noticed")

    @unittest.skipIf(QUICK, "--quick")
    def test_vips(self):
        unbroken = self.agent_with(self.built("node_hooks", []))
        self.assertTrue(self.passes("bpf_direct_test", {"QANAT_AGENT": unbroken}, "DirectVipTest.*"), "unbroken")
        for name, file, old, new, only in VIPS:
            with self.subTest(name):
                agent = self.agent_with(self.built("node_hooks", [(file, old, new)]))
                only = ":".join("DirectVipTest." + one for one in only.split(":"))
                self.assertFalse(self.passes("bpf_direct_test", {"QANAT_AGENT": agent}, only), "no test noticed")


if __name__ == "__main__":
    unittest.main(argv=[argument for argument in sys.argv if argument != "--quick"], verbosity=2)
