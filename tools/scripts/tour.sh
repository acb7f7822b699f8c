# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the tours of the shop sample share (demo.sh on one machine, demo_kubernetes.sh on a cluster):
# telling, looking at the wire, and the claims that are the same in both. Sourced; begin_tour comes
# first. The tour itself has:
#   exec_words POD         the words before a command that is to run in a pod, for the reader
#   in_pod POD COMMAND...  runs one there
#   qanatctl ...           of the mesh of the tour
#   access_log             prints that of the node proxies
#   take_down              ends everything that the tour has started; also when it failed half way
#   diagnose               what to read when a claim did not hold

begin_tour() {  # options of the tour...
  keep=no
  local argument
  for argument in "$@"; do
    case $argument in
      --keep) keep=yes ;;
      *) echo "usage: $(basename "$0") [--keep]" >&2; exit 2 ;;
    esac
  done
  bin=${QANAT_BIN_DIR:-$PWD/build/release/bin}
  shop=deploy/samples/shop
  work=$(mktemp -d /tmp/qanat-demo.XXXXXX)
  chapters=0 started=$SECONDS capture=''
  unset KUBECONFIG  # the tour's own mesh, and no other that the user may have
  if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' blue=$'\e[36m' plain=$'\e[0m'
  else
    bold='' dim='' red='' green='' blue='' plain=''
  fi
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  [ "$(id -u)" = 0 ] || fail "the demo makes network namespaces and loads eBPF: run it as root"
  local tool
  for tool in tcpdump jq curl ip python3; do
    command -v $tool >/dev/null || fail "$tool is missing (./run demo installs it)"
  done
}

finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP  # a second Ctrl-C does not leave half of it
  set +e
  [ -n "$capture" ] && kill "$capture" 2>/dev/null
  [ $status != 0 ] && [ $status -lt 128 ] && diagnose >&2
  [ $status != 0 ] && take_down >/dev/null 2>&1
  rm -rf "$work"
  exit $status
}

# --- telling -----------------------------------------------------------------------------------
headline() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
chapter() { chapters=$((chapters + 1)); headline "$chapters. $*"; }
show() { printf '  %s$ %s%s\n' "$blue" "$*" "$plain"; }
result() { sed "s/^/    /" <<<"$1"; }
proved() { printf '  %s✓ %s%s\n' "$green" "$*" "$plain"; }
note() { printf '  %s%s%s\n' "$dim" "$*" "$plain"; }
fail() {
  printf '  %s✗ %s%s\n' "$red" "$*" "$plain" >&2
  exit 1
}
begin_clock() { clock=$EPOCHREALTIME; }
took() { awk -v a="$clock" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }'; }
new_secret() { echo "token$(od -An -tx1 -N8 /dev/urandom | tr -d ' \n')"; }

# Repeats a command until it succeeds. What it says last is in $said.
eventually() {  # seconds, command...
  local end=$((SECONDS + $1))
  shift
  until said=$("$@" 2>&1); do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

# --- asking from inside a pod ------------------------------------------------------------------
ask_quietly() { in_pod "$1" python3 - "${@:2}" <"$shop/ask.py" 2>&1; }  # pod, arguments of ask.py...
ask() {  # the same, shown; the answer is in $said
  local words word
  words="$(exec_words "$1") python3 -"
  for word in "${@:2}"; do
    [[ $word =~ ^[A-Za-z0-9_./:=-]+$ ]] || word="'$word'"
    words+=" $word"
  done
  show "$words <$shop/ask.py"
  said=$(ask_quietly "$@")
}

# Sends a secret from a frontend to the backend until pods of both nodes have answered.
both_nodes() {  # secret
  local all=''
  for _ in 1 2 3 4 5; do
    ask shop/deploy/frontend -n 20 "http://backend/api/orders?token=$1" || fail "frontend -> backend failed: $said"
    all+=$said$'\n'
    [ "$(answers "$all" | jq -r .node | sort -u | wc -l)" -ge 2 ] && break
  done
  result "$(answers "$all" | jq -c '{service, version, pod, node}' | sort | uniq -c | sort -rn | head -n 4)"
  [ "$(answers "$all" | jq -r .node | sort -u | wc -l)" -ge 2 ] || fail "the backend's pods of both nodes should have answered"
}
answers() { sed -n 's/^200 //p' <<<"$1"; }

# --- the wire ----------------------------------------------------------------------------------
# A tcpdump of what passes between the nodes; a function has to exec it, to be what is told to end.
start_capture() {
  "$@" 2>"$work/tcpdump.log" &
  capture=$!
  for _ in $(seq 300); do
    grep -q 'listening on' "$work/tcpdump.log" && return
    sleep 0.05
  done
  fail "tcpdump did not start: $(cat "$work/tcpdump.log")"
}
stop_capture() {
  sleep 0.5  # what was sent last is still in the kernel's buffer
  kill -TERM "$capture"
  wait "$capture" 2>/dev/null || true
  capture=''
}
packets() {
  tcpdump -nn -r "$1" "${@:2}" 2>"$work/packets.log" | wc -l || fail "the capture cannot be read: $(tail -n 1 "$work/packets.log")"
}
copies() { { LC_ALL=C grep -aoF "$2" "$1" || true; } | wc -l; }

claim_in_the_clear() {  # capture, secret
  local seen
  show "tcpdump between the nodes | grep $2"
  seen=$(copies "$1" "$2")
  [ "$seen" -gt 0 ] || fail "without a mesh the token must be found in the clear: else the search finds nothing at all"
  result "$(LC_ALL=C grep -aoE "GET /api/orders.token=$2 HTTP/1.1" "$1" | head -n 1)"
  proved "in the clear: whoever can listen between the nodes reads the secret ($seen times in the capture)"
}

claim_encrypted() {  # capture, secret, which packets are between pods of the mesh
  local seen stray records record='tcp port 15008 and tcp[((tcp[12] & 0xf0) >> 2):2] = 0x1703'
  show "tcpdump between the nodes | grep $2"
  grep -q '^0 packets dropped by kernel' "$work/tcpdump.log" || fail "the capture is not complete: $(cat "$work/tcpdump.log")"
  seen=$(copies "$1" "$2")
  [ "$seen" = 0 ] || fail "the token was seen $seen times between the nodes"
  stray=$(packets "$1" "$3 and tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn and not dst port 15008")
  [ "$stray" = 0 ] || fail "$stray connections between pods of the two nodes did not go to 15008"
  records=$(packets "$1" "$record")
  [ "$records" -gt 0 ] || fail "no TLS records on port 15008"
  result "$(tcpdump -nn -x -c 1 -r "$1" "$record" 2>/dev/null | sed -n '1p;5,7p' | cut -c1-100)"
  proved "0 copies of the secret; $records packets begin with a TLS record (17 03 03); nothing between pods but port 15008"
}

# --- the claims about policy, routes and identities ----------------------------------------------
why_refuses() {  # reason, arguments of why...; the text is in $said
  local status=0
  show "qanatctl why ${*:2}"
  said=$(qanatctl why "${@:2}") || status=$?
  [ $status = 3 ] || { result "$said"; fail "why should say that this is refused (exit code 3, not $status)"; }
  grep -q "$1" <<<"$said" || { result "$said"; fail "why should give the reason $1"; }
}

claim_database_policy() {  # the command that prints the access log, for the reader
  ask shop/deploy/payments-v1 database.shop-data:5432 || fail "payments cannot reach the database: $said"
  grep -q '220 shopdb' <<<"$said" || fail "the database did not greet payments: $said"
  result "$said"
  if ask shop/deploy/loadgen database.shop-data:5432; then fail "loadgen was let in: $said"; fi
  grep -q '^no answer' <<<"$said" || fail "loadgen could not even ask: $said"
  result "$said"
  why_refuses policy_no_allow shop/deploy/loadgen database.shop-data:5432
  result "$said"
  show "$1"
  eventually 10 refusal_in_log || fail "the refusal is not in the access log"
  result "$(grep -oE '(src.workload|dst.workload|error|reason)=("[^"]*"|[^[:space:]]*)' <<<"$said" | tr '\n' ' ')"
  proved "refused by policy at the database's node; why and the log give one reason, and why the clause that failed"
}
refusal_in_log() { access_log | grep 'policy_no_allow' | grep -F 'src.workload="loadgen' | grep -F ':5432 ' | tail -n 1 | grep .; }

claim_path_policy() {
  ask shop/deploy/frontend http://backend/admin || fail "no answer for /admin: $said"
  grep -q '^403' <<<"$said" || fail "expected 403 from the waypoint, got $said"
  result "$said"
  why_refuses policy_no_allow shop/deploy/frontend backend.shop:80 --path /admin
  result "$(grep -E 'REFUSED|nearest|wants|paths|what to do' <<<"$said" | head -n 8)"
  proved "HTTP 403: the waypoint knows paths and methods, and says which one it wanted"
}

# 4 sigma (38 of 1000) on either side of a tenth: chance alone fails one tour in 15,000.
claim_canary() {
  local v1 v2 testers
  begin_clock
  ask shop/deploy/frontend -n 1000 http://backend/api/orders || fail "a request of the 1000 failed: $(grep -v '^200' <<<"$said" | head -n 3)"
  v1=$(answers "$said" | grep -c '"version": "v1"' || true)
  v2=$(answers "$said" | grep -c '"version": "v2"' || true)
  result "v1 $v1   v2 $v2   ($(took))"
  [ $((v1 + v2)) = 1000 ] || fail "$((1000 - v1 - v2)) of 1000 requests were not answered with 200: $(grep -v '^200' <<<"$said" | head -n 3)"
  [ "$v2" -ge 62 ] && [ "$v2" -le 138 ] || fail "v2 got $v2: more than 4 sigma from 100"
  ask shop/deploy/frontend -n 20 -H user:jason http://backend/api/orders || fail "a tester's request failed: $said"
  testers=$(answers "$said" | grep -c '"version": "v2"' || true)
  [ "$testers" = 20 ] || fail "the header route sent only $testers of 20 to v2"
  proved "1000 requests, none lost, within 4 sigma of 90/10; and 'user: jason' gets v2 every time (20 of 20)"
}

claim_identities() {
  local pair
  show "qanatctl connections --totals -n shop"
  sleep 1  # connections count when they end
  said=$(qanatctl connections --totals -n shop)
  result "$said"
  for pair in 'ns/shop/sa/loadgen .*ns/shop/sa/frontend .*mutual_tls' 'ns/shop/sa/payments .*ns/shop-data/sa/database '; do
    grep -q "$pair" <<<"$said" || fail "not in the table: $pair"
  done
  proved "each source is an identity: from a certificate, or on one node (no TLS) from the pod's own network namespace"
}
