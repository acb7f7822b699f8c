#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tour of the shop sample on this machine: each claim is checked, and shown beside the command
# that shows it.
#   demo.sh [--keep]    --keep leaves the mesh up
# Called by ./run demo. Fails when a claim does not hold; takes everything down, also when interrupted.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
. tools/scripts/tour.sh

mesh='' up=no
exec_words() { echo "qanatctl local exec $1 --"; }
in_pod() { qanatctl local exec "$1" --name "$mesh" -- "${@:2}"; }
qanatctl() { "$bin/qanatctl" "$@"; }
access_log() { cat "/run/qanat/$mesh/logs/"ztunnel-*.log; }
state() { jq -r "$1" "/run/qanat/$mesh/mesh.json"; }
take_down() {
  if [ $up = yes ]; then qanatctl local down --name "$mesh"; fi
  up=no
}
diagnose() {
  local log
  for log in /run/qanat/local/logs/{controlplane,agent-*,ztunnel-*,waypoint-*,supervisor}.log; do
    [ -s "$log" ] && grep -iE 'error|warn|fatal|abort' "$log" | tail -n 4 | sed "s|^|    $(basename "$log"): |"
  done
}
bring_up() {  # options of local up...
  up=yes
  qanatctl local up "$shop" --name "$mesh" "$@" >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail "the shop did not come up"; }
}
# Every link between the nodes meets at the fabric's bridge. In immediate mode each packet takes as much of the
# buffer as the longest could.
capture_between_nodes() {
  start_capture ip netns exec "qanat-$mesh-fabric" tcpdump -i underlay --immediate-mode -U -w "$1" -s 65600 -B 131072 -Z root
}

begin_tour "$@"
if qanatctl local status >/dev/null 2>&1 || [ $? = 4 ]; then
  fail "a mesh is up already; take it down first: $bin/qanatctl local down"
fi

chapter "The shop without a mesh: plain Kubernetes YAML, two nodes"
show "qanatctl local up $shop --no-mesh"
mesh=plain
bring_up --no-mesh
result "$(grep -aoE 'up in [0-9.]+ s' "$work/up.log"): $(state '.pods | length') pods, each in a network namespace, on $(state '.nodes | length') nodes"
secret=$(new_secret)
capture_between_nodes "$work/plain.pcap"
both_nodes "$secret"
stop_capture
claim_in_the_clear "$work/plain.pcap" "$secret"
take_down >/dev/null

chapter "The same YAML with the mesh: one label on the namespace, no pod changed"
show "qanatctl local up $shop"
mesh=local
bring_up --bin-dir "$bin" --timeout 90
result "$(grep -aoE 'up in [0-9.]+ s' "$work/up.log"): control plane, an agent and a node proxy a node, two waypoints"
pods=$(state '[.pods[] | select(.mesh)] | length')
enrolled=$(state '[.pods[] | select(.mesh and .redirection == "enabled")] | length')
[ "$pods" -gt 0 ] && [ "$pods" = "$enrolled" ] || fail "only $enrolled of $pods pods are enrolled"
proved "$enrolled of $pods labelled pods enrolled: capture by eBPF, proved by the kernel for each hook"
secret=$(new_secret)
capture_between_nodes "$work/mesh.pcap"
both_nodes "$secret"
stop_capture
claim_encrypted "$work/mesh.pcap" "$secret" 'src net 10.91.0.0/16 and dst net 10.91.0.0/16'

chapter "Policy: the database takes payments and nobody else; the backend no path but /api"
claim_database_policy 'grep policy_no_allow /run/qanat/local/logs/ztunnel-*.log'
claim_path_policy

chapter "A canary: 90 of 100 to v1, 10 to v2 (VirtualService), counted"
claim_canary

chapter "Who talks to whom, with which identity"
claim_identities

if [ $keep = yes ]; then
  headline "The mesh stays up. What to try next"
else
  headline "Taking it down"
  show "qanatctl local down"
  result "$(qanatctl local down)"
  up=no
  left=$(ip netns list | grep '^qanat-local-' || true)
  [ -z "$left" ] || fail "namespaces were left behind: $left"
  [ ! -e /run/qanat/local ] || fail "/run/qanat/local was left behind"
  proved "no namespace, rule, pin or process left ($((SECONDS - started)) s in all)"
  headline "What to try next: ./run demo --keep, then"
fi
cat <<TXT
  export PATH=$bin:\$PATH
  qanatctl status                                      every part, and what is wrong with the YAML
  qanatctl why shop/deploy/loadgen backend.shop:80     why this is refused
  qanatctl local exec shop/deploy/frontend -- python3 - -d '{"item":"water"}' http://backend/api/orders <$shop/ask.py
  \$EDITOR $shop/61-shop-policies.yaml                  changes apply when you save
  kill -9 \$(pgrep -f qanat-ztunnel | head -1)          watch it come back: qanatctl local status
  qanatctl local down
TXT
