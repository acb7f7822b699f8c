#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tour of the shop sample: each claim is checked, and shown beside the command that shows it.
#   demo.sh [--keep]    --keep leaves the mesh up
# Called by ./run demo. Fails when a claim does not hold; takes everything down, also when interrupted.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."

keep=no
for argument in "$@"; do
  case $argument in
    --keep) keep=yes ;;
    *) echo "usage: demo.sh [--keep]" >&2; exit 2 ;;
  esac
done
bin=${QANAT_BIN_DIR:-$PWD/build/release/bin}
shop=deploy/samples/shop
work=$(mktemp -d /tmp/qanat-demo.XXXXXX)
started=$SECONDS

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' blue=$'\e[36m' plain=$'\e[0m'
else
  bold='' dim='' red='' green='' blue='' plain=''
fi

qanatctl() { "$bin/qanatctl" "$@"; }
chapter() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { printf '  %s$ %s%s\n' "$blue" "$*" "$plain"; }
result() { sed "s/^/    /" <<<"$1"; }
proved() { printf '  %s✓ %s%s\n' "$green" "$*" "$plain"; }
note() { printf '  %s%s%s\n' "$dim" "$*" "$plain"; }
fail() {
  printf '  %s✗ %s%s\n' "$red" "$*" "$plain" >&2
  exit 1
}

capture=''
up=()
finish() {
  local status=$?
  trap - EXIT INT TERM
  set +e
  [ -n "$capture" ] && kill "$capture" 2>/dev/null
  if [ $keep = yes ] && [ $status = 0 ]; then
    up=("${up[@]/local/}")
  elif [ $status != 0 ] && [ $status != 130 ] && [ ${#up[@]} -gt 0 ]; then
    for log in /run/qanat/local/logs/{controlplane,agent-*,ztunnel-*,waypoint-*,supervisor}.log; do
      [ -s "$log" ] && grep -iE 'error|warn|fatal|abort' "$log" | tail -n 4 | sed "s|^|    $(basename "$log"): |" >&2
    done
  fi
  for mesh in "${up[@]}"; do
    [ -n "$mesh" ] && qanatctl local down --name "$mesh" >/dev/null
  done
  rm -rf "$work"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- helpers that look -------------------------------------------------------------------------
in_pod() {  # mesh pod command...
  local mesh=$1 pod=$2
  shift 2
  qanatctl local exec "$pod" --name "$mesh" -- "$@"
}
start_capture() {  # mesh file: every link between the nodes meets at the fabric's bridge
  ip netns exec "qanat-$1-fabric" tcpdump -i underlay --immediate-mode -U -w "$2" -s 0 -Z root 2>"$work/tcpdump.log" &
  capture=$!
  for _ in $(seq 100); do
    grep -q 'listening on' "$work/tcpdump.log" && return
    sleep 0.05
  done
  fail "tcpdump did not start: $(cat "$work/tcpdump.log")"
}
stop_capture() {
  sleep 0.3
  kill -TERM "$capture"
  wait "$capture" 2>/dev/null || true
  capture=''
}
packets() { tcpdump -nn -r "$1" "${@:2}" 2>/dev/null | wc -l; }
# Calls the backend from a frontend until pods of both nodes have answered.
both_nodes() {  # mesh token
  local node answer near='' far='' home
  home=$(pod_node "$1" frontend)
  for _ in $(seq 60); do
    answer=$(in_pod "$1" shop/deploy/frontend curl -sS -m 5 "http://backend/api/orders?token=$2") || fail "frontend -> backend failed: $answer"
    node=$(jq -r .node <<<"$answer") || fail "the backend did not answer: $answer"
    if [ "$node" = "$home" ]; then near=$answer; else far=$answer; fi
    [ -n "$near" ] && [ -n "$far" ] && break
  done
  [ -n "$near" ] && [ -n "$far" ] || fail "the backend's pods of both nodes should have answered"
  result "$(jq -c '{service, version, pod, node}' <<<"$near")   same node
$(jq -c '{service, version, pod, node}' <<<"$far")   other node"
}
pod_node() { jq -r --arg w "Deployment/$2" 'first(.pods[] | select(.workload == $w and .ready)) | .node' "/run/qanat/$1/mesh.json"; }
pod_name() { jq -r --arg w "Deployment/$2" 'first(.pods[] | select(.workload == $w and .ready)) | .namespace + "/" + .name' "/run/qanat/$1/mesh.json"; }

# --- before ------------------------------------------------------------------------------------
[ "$(id -u)" = 0 ] || fail "the demo makes network namespaces and loads eBPF: run it as root"
for tool in tcpdump jq curl ip; do command -v $tool >/dev/null || fail "$tool is missing (./run demo installs it)"; done
if qanatctl local status >/dev/null 2>&1 || [ $? = 4 ]; then
  fail "a mesh is up already; take it down first: $bin/qanatctl local down"
fi

chapter "1. The shop without a mesh: plain Kubernetes YAML, two nodes"
show "qanatctl local up $shop --no-mesh"
up+=(plain)
qanatctl local up $shop --name plain --no-mesh >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail "the shop did not come up"; }
result "$(grep -aoE 'up in [0-9.]+ s' "$work/up.log"): $(jq '.pods | length' /run/qanat/plain/mesh.json) pods, each in a network namespace, on $(jq '.nodes | length' /run/qanat/plain/mesh.json) nodes"
secret=token$(od -An -tx1 -N8 /dev/urandom | tr -d ' \n')
start_capture plain "$work/plain.pcap"
show "qanatctl local exec shop/deploy/frontend -- curl http://backend/api/orders?token=$secret"
both_nodes plain "$secret"
stop_capture
show "tcpdump between the nodes | grep $secret"
seen=$(tcpdump -nn -A -r "$work/plain.pcap" 2>/dev/null | grep -c "$secret" || true)
[ "$seen" -gt 0 ] || fail "the control run must find the token in the clear"
result "$(tcpdump -nn -A -r "$work/plain.pcap" 2>/dev/null | grep -aoE "GET /api/orders.token=$secret HTTP/1.1" | head -n 1)"
proved "in the clear: whoever can listen between the nodes reads $seen copies of the secret"
qanatctl local down --name plain >/dev/null
up=()

chapter "2. The same YAML with the mesh: one label on the namespace, no pod changed"
show "qanatctl local up $shop"
up+=(local)
qanatctl local up $shop --bin-dir "$bin" --timeout 90 >"$work/up.log" 2>&1 || { cat "$work/up.log"; fail "the mesh did not come up"; }
result "$(grep -aoE 'up in [0-9.]+ s' "$work/up.log"): control plane, an agent and a node proxy a node, two waypoints"
pods=$(jq '[.pods[] | select(.mesh)] | length' /run/qanat/local/mesh.json)
enrolled=$(jq '[.pods[] | select(.mesh and .redirection == "enabled")] | length' /run/qanat/local/mesh.json)
[ "$pods" -gt 0 ] && [ "$pods" = "$enrolled" ] || fail "only $enrolled of $pods pods are enrolled"
proved "$enrolled of $pods labelled pods enrolled: capture by eBPF, proved by the kernel for each hook"
start_capture local "$work/mesh.pcap"
secret=token$(od -An -tx1 -N8 /dev/urandom | tr -d ' \n')
show "qanatctl local exec shop/deploy/frontend -- curl http://backend/api/orders?token=$secret"
both_nodes local "$secret"
stop_capture
show "tcpdump between the nodes | grep $secret"
seen=$(tcpdump -nn -A -r "$work/mesh.pcap" 2>/dev/null | grep -c "$secret" || true)
[ "$seen" = 0 ] || fail "the token was seen $seen times between the nodes"
syns='tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn'
pod_nets='src net 10.91.0.0/16 and dst net 10.91.0.0/16'
stray=$(packets "$work/mesh.pcap" "$pod_nets and $syns and not dst port 15008")
[ "$stray" = 0 ] || fail "$stray connections between pods of the two nodes did not go to 15008"
records=$(packets "$work/mesh.pcap" "tcp port 15008 and tcp[((tcp[12] & 0xf0) >> 2):2] = 0x1703")
[ "$records" -gt 0 ] || fail "no TLS records on port 15008"
result "$(tcpdump -nn -x -c 1 -r "$work/mesh.pcap" "tcp port 15008 and tcp[((tcp[12] & 0xf0) >> 2):2] = 0x1703" 2>/dev/null | sed -n '1p;5,7p' | cut -c1-100)"
proved "0 copies of the secret; $records packets begin with a TLS record (17 03 03); nothing between pods but port 15008"

chapter "3. Policy: the database takes payments and nobody else"
database=$(jq -r '.pods[] | select(.workload == "Deployment/database") | .ips[0]' /run/qanat/local/mesh.json)
greet='import socket,sys
s = socket.create_connection(("database.shop-data", 5432), timeout=5)
print(s.recv(100).decode().strip() or "closed without a byte")'
show "qanatctl local exec shop/deploy/payments-v1 -- (connect to database.shop-data:5432)"
said=$(in_pod local shop/deploy/payments-v1 python3 -c "$greet" 2>&1) || fail "payments cannot reach the database: $said"
grep -q '220 shopdb' <<<"$said" || fail "the database did not greet payments: $said"
result "$said"
show "qanatctl local exec shop/deploy/loadgen -- (the same)"
said=$(in_pod local shop/deploy/loadgen python3 -c "$greet" 2>&1 | tail -n 1 || true)
! grep -q '220 shopdb' <<<"$said" || fail "loadgen was let in"
result "$said"
show "qanatctl why shop/deploy/loadgen database.shop-data:5432"
status=0
text=$(qanatctl why shop/deploy/loadgen database.shop-data:5432) || status=$?
[ $status = 3 ] || { result "$text"; fail "why should say that this is refused (exit code 3, not $status)"; }
grep -q 'policy_no_allow' <<<"$text" || { result "$text"; fail "why should give the reason policy_no_allow"; }
result "$text"
log=$(grep -h 'policy_no_allow' /run/qanat/local/logs/ztunnel-*.log | grep -F "$database" | tail -n 1 || true)
[ -n "$log" ] && note "the access log says the same: $(grep -oE '(src.workload|dst.workload|error|reason)=("[^"]*"|[^[:space:]]*)' <<<"$log" | tr '\n' ' ')"
proved "refused by policy at the database's node ($database), with the clause that failed and what it wanted"

show "qanatctl local exec shop/deploy/frontend -- curl http://backend/admin"
code=$(in_pod local shop/deploy/frontend curl -s -m 5 -o /dev/null -w '%{http_code}' http://backend/admin)
[ "$code" = 403 ] || fail "expected 403 from the waypoint, got $code"
status=0
show "qanatctl why shop/deploy/frontend backend.shop:80 --path /admin"
text=$(qanatctl why shop/deploy/frontend backend.shop:80 --path /admin) || status=$?
[ $status = 3 ] || { result "$text"; fail "why should refuse /admin (exit code 3, not $status)"; }
result "$(grep -E 'REFUSED|nearest|wants|paths|what to do' <<<"$text" | head -n 8)"
proved "HTTP 403: the waypoint knows paths and methods, and says which one it wanted"

chapter "4. A canary: 90 of 100 to v1, 10 to v2 (VirtualService), counted"
show "qanatctl local exec shop/deploy/frontend -- curl 'http://backend/api/orders?[1-1000]'"
in_pod local shop/deploy/frontend curl -sS -m 120 'http://backend/api/orders?[1-1000]' >"$work/canary" || fail "a request of the 1000 failed"
v1=$(grep -c '"version": "v1"' "$work/canary" || true)
v2=$(grep -c '"version": "v2"' "$work/canary" || true)
result "v1 $v1   v2 $v2"
[ $((v1 + v2)) = 1000 ] || fail "$((1000 - v1 - v2)) of 1000 requests were not answered"
[ "$v2" -ge 71 ] && [ "$v2" -le 129 ] || fail "v2 got $v2: more than 3 sigma from 100"
testers=$(in_pod local shop/deploy/frontend curl -sS -m 20 -H 'user: jason' 'http://backend/api/orders?[1-20]' | grep -c '"version": "v2"' || true)
[ "$testers" = 20 ] || fail "the header route sent only $testers of 20 to v2"
proved "1000 requests, none lost, within 3 sigma; and 'user: jason' gets v2 every time (20 of 20)"

chapter "5. Who talks to whom, with which identity"
show "qanatctl connections --totals -n shop"
sleep 1
totals=$(qanatctl connections --totals -n shop)
result "$totals"
grep -q 'ns/shop/sa/loadgen .*ns/shop/sa/frontend .*mutual_tls' <<<"$totals" || fail "loadgen -> frontend with mutual TLS is not in the table"
grep -q 'ns/shop/sa/payments .*ns/shop-data/sa/database ' <<<"$totals" || fail "payments -> database is not in the table"
proved "each source is an identity: from a certificate, or on one node (no TLS) from the pod's own network namespace"

if [ $keep = yes ]; then
  chapter "The mesh stays up. What to try next"
else
  chapter "Taking it down"
  show "qanatctl local down"
  result "$(qanatctl local down)"
  up=()
  ! ip netns list | grep -q '^qanat-local-' || fail "namespaces were left behind"
  [ ! -e /run/qanat/local ] || fail "/run/qanat/local was left behind"
  proved "no namespace, rule, pin or process left ($((SECONDS - started)) s in all)"
  chapter "What to try next: ./run demo --keep, then"
fi
cat <<TXT
  export PATH=$bin:\$PATH
  qanatctl status                                      every part, and what is wrong with the YAML
  qanatctl why shop/deploy/loadgen backend.shop:80     why this is refused
  qanatctl local exec shop/deploy/frontend -- curl -s -XPOST -d '{"item":"water"}' http://backend/api/orders
  \$EDITOR $shop/61-shop-policies.yaml                  changes apply when you save
  kill -9 \$(pgrep -f qanat-ztunnel | head -1)          watch it come back: qanatctl local status
  qanatctl local down
TXT
