#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each claim of a tour (tools/scripts/tour.sh) ends it with a failure, after taking everything down, when what it
claims is not so. Pods, qanatctl and tcpdump are functions here that answer as in a tour that goes well; then one
of them answers otherwise."""
import os
import subprocess
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
WELL = r"""
set -euo pipefail
. tools/scripts/tour.sh
exec_words() { echo in; }
access_log() { echo 'error="policy_no_allow" src.workload="loadgen-1" to 10.0.0.1:5432 '; }
diagnose() { :; }
take_down() { echo down >"$WORK/down"; }
qanatctl() {
  case $* in
    *connections*) printf '%s\n' "ns/shop/sa/loadgen a ns/shop/sa/frontend b mutual_tls" "ns/shop/sa/payments ns/shop-data/sa/database ";;
    *) echo 'REFUSED policy_no_allow'; return 3 ;;
  esac
}
order() { echo "200 {\"version\": \"$1\", \"node\": \"$2\"}"; }
in_pod() {
  case $* in
    *loadgen*5432) echo 'no answer'; return 1 ;;
    *payments*5432) echo '220 shopdb' ;;
    */admin) echo '403 no' ;;
    *jason*) for _ in {1..20}; do order v2 node1; done ;;
    *1000*) for _ in {1..900}; do order v1 node1; done; for _ in {1..100}; do order v2 node2; done ;;
    *) order v1 node1; order v1 node2 ;;
  esac
}
tcpdump() {
  case $* in
    *0x1703*) echo record ;;
    *'not dst port 15008'*) ;;
  esac
}
sleep() { SECONDS=$((SECONDS + 60)); }
begin_tour
echo '0 packets dropped by kernel' >"$work/tcpdump.log"
echo 'GET /api/orders?token=secret HTTP/1.1' >"$WORK/plain"
echo nothing >"$WORK/mesh"
"""
# A claim, and what makes it untrue.
CLAIMS = {
    "both_nodes secret": ["in_pod() { order v1 node1; }", "in_pod() { return 1; }"],
    'claim_in_the_clear "$WORK/plain" secret': ['echo nothing >"$WORK/plain"', 'rm "$WORK/plain"'],
    'claim_encrypted "$WORK/mesh" secret hosts': [
        'echo secret >"$WORK/mesh"', "tcpdump() { :; }", "tcpdump() { echo packet; }", "tcpdump() { return 1; }",
        'echo "7 packets dropped by kernel" >"$work/tcpdump.log"'],
    "claim_database_policy log": [
        "in_pod() { return 1; }", "in_pod() { echo 220 shopdb; }", "qanatctl() { echo policy_no_allow; }",
        "qanatctl() { echo another; return 3; }", "access_log() { :; }",
        "in_pod() { case $* in *payments*) echo other ;; *) echo no answer; return 1 ;; esac; }",
        "in_pod() { case $* in *payments*) echo 220 shopdb ;; *) echo no such pod; return 1 ;; esac; }"],
    "claim_path_policy": ["in_pod() { echo 200 {}; }", "in_pod() { return 1; }", "qanatctl() { return 0; }"],
    "claim_canary": [
        "in_pod() { for _ in {1..1000}; do order v1 node1; done; }", "in_pod() { return 1; }",
        "in_pod() { for _ in {1..450}; do order v1 node1; order v2 node1; done; for _ in {1..100}; do echo 503; done; }",
        "order() { echo \"200 {\\\"version\\\": \\\"v1\\\"}\"; }"],
    "claim_identities": ["qanatctl() { echo none; }", "qanatctl() { return 1; }"],
}


class Tour(unittest.TestCase):
    def run_claim(self, claim, change=":"):
        """(exit status, whether everything was taken down, output)"""
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(["bash", "-c", f"{WELL}\n{change}\n{claim}\necho end of the tour"], cwd=ROOT, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
                                  env={**os.environ, "WORK": folder})
            return done.returncode, os.path.exists(os.path.join(folder, "down")), done.stdout

    def test_claims(self):
        for claim, changes in CLAIMS.items():
            with self.subTest(claim):
                status, down, output = self.run_claim(claim)
                self.assertEqual(status, 0, output)
                self.assertIn("end of the tour", output)
                self.assertFalse(down, output)
            for change in changes:
                with self.subTest(claim, untrue=change):
                    status, down, output = self.run_claim(claim, change)
                    self.assertEqual(status, 1, output)
                    self.assertNotIn("end of the tour", output)
                    self.assertTrue(down, output)


if __name__ == "__main__":
    unittest.main(verbosity=2)
