#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tour of the shop sample on a Kubernetes cluster of two nodes that it makes on this machine
# (tests/kubernetes): each claim is checked, and shown beside the command that shows it.
#   demo_kubernetes.sh [--keep]    --keep leaves the cluster and the mesh up
# Called by ./run demo --kubernetes. Fails when a claim does not hold; takes everything down, also
# when interrupted.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
. tools/scripts/tour.sh

name=${QANAT_DEMO_CLUSTER:-demo} ambient=istio.io/dataplane-mode=ambient up=no kubeconfig='' programs=''
cluster() { python3 -B tests/kubernetes/cluster.py --name $name "$@"; }
kubectl() { "$programs/kubectl" --kubeconfig "$kubeconfig" --cache-dir "$work/kubectl" "$@"; }
qanatctl() { "$bin/qanatctl" "$1" --kubeconfig "$kubeconfig" "${@:2}"; }
exec_words() { echo "kubectl exec -i -n ${1%%/*} ${1#*/} --"; }
in_pod() { kubectl exec -i -n "${1%%/*}" "${1#*/}" -- "${@:2}"; }
access_log() { kubectl logs -n qanat-system -l app=ztunnel --tail=-1; }
take_down() {
  if [ $up = yes ]; then cluster down; fi
  up=no
}
diagnose() {
  [ -n "$kubeconfig" ] || return
  kubectl get pods -A -o wide
  kubectl get events -A --field-selector=type!=Normal | tail -n 12
  local part
  for part in qanat-controlplane qanat-agent ztunnel; do
    kubectl logs -n qanat-system -l app=$part --prefix --tail=200 2>/dev/null | grep -iE 'error|warn|fatal|abort' | tail -n 6
  done
}
# Runs a command that is shown as it is typed, and shows what it says while it runs.
run_shown() {
  show "$*"
  begin_clock
  "$@" 2>&1 | tee "$work/said" | sed -u 's/^/    /' || fail "$1 $2 did not succeed"
}
# What must not change while the mesh comes and goes: which pods there are, and their restarts.
shop_pods() {
  kubectl get pods -n "$1" -l app -o json |
    jq -r '.items[] | "\(.metadata.name) \(.metadata.uid) \([.status.containerStatuses[].restartCount] | add)"' | sort
}
same_pods() {  # namespace, when
  [ "$(shop_pods "$1")" = "$(cat "$work/pods-$1")" ] || fail "pods of $1 were restarted or replaced $2: $(diff "$work/pods-$1" <(shop_pods "$1"))"
}
wait_enrolled() {  # namespace
  kubectl wait pod --all -n "$1" -l app --timeout=60s >"$work/wait.log" 2>&1 \
    --for=jsonpath='{.metadata.annotations.ambient\.istio\.io/redirection}'=enabled || fail "not enrolled: $(cat "$work/wait.log")"
}
# All that there is in the cluster, one line a thing: objects in the API; of the nodes and their pods files,
# pins, rules, routes, tables, programs in the kernel and processes.
inventory() { python3 -B tests/kubernetes/inventory.py $name >"$1" || fail "what there is in the cluster could not be read"; }
# What was not there before the mesh and is not of the user's own YAML: that stays, with its labels, and with
# the status that the API itself gives a Gateway.
new_things() {  # inventory
  local pending='[{]"message": "Waiting for controller"[^}]*[}]'
  local own='object /apis/gateway\.networking\.k8s\.io/v1/(gateways|httproutes) shop/[^ ]+'
  own+="( carries istio\.io/waypoint-for| has the status [{]\"conditions\": [[]$pending(, $pending)*[]][}])?\$"
  own+='|object /api/v1/namespaces /(shop|shop-data|monitoring) carries istio\.io/dataplane-mode$'
  own+='|object [^ ]+ shop/[^ ]+ carries istio\.io/use-waypoint$'  # a Service's labels are its EndpointSlices' too
  LC_ALL=C comm -13 <(LC_ALL=C sort "$work/before") <(LC_ALL=C sort "$1") | { grep -vE "$own" || true; }
}
nothing_new() {  # what others do about things that are gone takes them a moment
  inventory "$work/after"
  new_things "$work/after"
  [ -z "$(new_things "$work/after")" ]
}
become_cluster() { exec python3 -B tests/kubernetes/cluster.py --name $name "$@"; }
capture_between_nodes() { start_capture become_cluster capture "$1"; }

# --- before ------------------------------------------------------------------------------------
begin_tour "$@"
images=${QANAT_IMAGES:-build/images}
running=$(cluster status 2>/dev/null || true)
if grep -q ' process [0-9]' <<<"$running"; then
  fail "a cluster '$name' is up already; take it down first: tests/kubernetes/cluster.py down --name $name"
fi
compgen -G "$images/*.tar" >"$work/archives" || fail "no images in $images: ./run images"

chapter "A Kubernetes cluster of two nodes, and the shop on it without a mesh"
mapfile -t archives <"$work/archives"
show "tests/kubernetes/cluster.py up --name $name $images/*.tar"
up=yes
cluster up "${archives[@]}" >"$work/up.log" 2>&1 || {
  ! grep -q ' is up: ' "$work/up.log" || up=no  # somebody else's, since a moment ago
  cat "$work/up.log"
  fail "the cluster did not come up"
}
result "$(grep -E 'Kubernetes|node |loaded|DNS' "$work/up.log")"
kubeconfig=$(sed -n 's/^export KUBECONFIG=//p' "$work/up.log")
programs=$(jq -r .bin "$(dirname "$kubeconfig")/cluster.json")
show "export KUBECONFIG=$kubeconfig"
show "awk 'FNR == 1 { print \"---\" } !/istio.io\\//' $shop/[0-3]*.yaml | kubectl apply -f -     # without a mesh's labels"
awk 'FNR == 1 { print "---" } !/istio.io\//' $shop/[0-3]*.yaml | kubectl apply -f - >"$work/said" || fail "kubectl apply failed"
begin_clock
for namespace in shop shop-data monitoring; do
  kubectl wait pod --all -n $namespace --for=condition=Ready --timeout=120s >"$work/wait.log" 2>&1 || fail "not ready: $(cat "$work/wait.log")"
  shop_pods $namespace >"$work/pods-$namespace"
done
# kube-proxy learns of a ready pod a moment after everybody else.
eventually 60 ask_quietly shop/deploy/frontend http://backend/api/orders || fail "frontend -> backend failed: $said"
result "$(cat "$work"/pods-* | wc -l) pods ready in $(took)"
note "no registry is asked: here python:3.12-slim is an image made of this machine's own python3"
secret=$(new_secret)
capture_between_nodes "$work/plain.pcap"
both_nodes "$secret"
stop_capture
claim_in_the_clear "$work/plain.pcap" "$secret"

chapter "Installing the mesh: no running pod is touched"
inventory "$work/before"
run_shown qanatctl install
note "installed in $(took); the same as text: kubectl apply -f <(qanatctl manifests)"
run_shown qanatctl verify
same_pods shop "by the installation"
proved "control plane twice, an agent and a node proxy a node; the shop's pods are as they were"

chapter "One label on the namespace: its running pods are in the mesh"
run_shown kubectl label namespace shop $ambient
wait_enrolled shop
enrolled=$(took)
columns='custom-columns=NAME:.metadata.name,NODE:.spec.nodeName,RESTARTS:.status.containerStatuses[0].restartCount'
columns+=',MESH:.metadata.annotations.ambient\.istio\.io/redirection'
show "kubectl get pods -n shop -o '$columns'"
result "$(kubectl get pods -n shop -o "$columns")"
same_pods shop "by the label"
proved "$(wc -l <"$work/pods-shop") running pods enrolled in $enrolled, none restarted: capture by eBPF, proved by the kernel for each hook"
mapfile -t addresses < <(kubectl get pods -n shop -o json | jq -r '.items[].status.podIP')
hosts() { local IFS=@; local all="${addresses[*]}"; echo "($1 host ${all//@/ or $1 host })"; }
secret=$(new_secret)
capture_between_nodes "$work/mesh.pcap"
both_nodes "$secret"
stop_capture
claim_encrypted "$work/mesh.pcap" "$secret" "$(hosts src) and $(hosts dst)"

chapter "The whole sample: policies, routes and two waypoints, from the same YAML as on one machine"
show "kubectl apply -f $shop/"
begin_clock
kubectl apply -f $shop/ >"$work/said" || fail "kubectl apply failed"
new=$(sed -n 's/^\([a-z]*\).*created$/\1/p' "$work/said" | sort | uniq -c | awk '{ printf "%s%s %s", sep, $1, $2; sep = ", " }')
result "$(grep -c . "$work/said") objects, of them new: $new"
run_shown kubectl wait gateway --all -n shop --for=condition=Programmed --timeout=120s
for namespace in shop-data monitoring; do wait_enrolled $namespace; done
settled() {  # each of the waypoints and nodes knows what to allow and what not
  ask_quietly shop/deploy/payments-v1 database.shop-data:5432 | grep '220 shopdb' &&
    ask_quietly shop/deploy/frontend http://backend/admin | grep '^403' &&
    ask_quietly shop/deploy/frontend -H user:jason http://backend/api/orders | grep '"v2"' &&
    ! ask_quietly shop/deploy/loadgen database.shop-data:5432
}
eventually 60 settled || fail "policies and routes do not hold: $said"
proved "waypoints run, and policies hold, $(took) after the first byte of YAML"
run_shown qanatctl status
grep -q 'all is well' "$work/said" || fail "status should say that all is well"

chapter "Policy: the database takes payments and nobody else; the backend no path but /api"
claim_database_policy 'kubectl logs -n qanat-system -l app=ztunnel --tail=-1 | grep policy_no_allow'
claim_path_policy

chapter "A canary: 90 of 100 to v1, 10 to v2 (VirtualService), counted"
claim_canary

chapter "Who talks to whom, with which identity"
claim_identities

try_next() {
  cat <<TXT
  export KUBECONFIG=$kubeconfig PATH=$bin:$programs:\$PATH
  kubectl get pods -A -o wide; qanatctl status
  qanatctl why shop/deploy/loadgen backend.shop:80     why this is refused
  kubectl exec -i -n shop deploy/frontend -- python3 - -d '{"item":"water"}' http://backend/api/orders <$shop/ask.py
  kubectl edit authorizationpolicy -n shop backend-api                 changes apply when you save
  kubectl get authorizationpolicy,gateway,httproute -n shop -o yaml    their statuses
  kubectl delete pod -n qanat-system -l app=ztunnel                    watch it come back: qanatctl status
  qanatctl uninstall --purge
  tests/kubernetes/cluster.py down --name $name
TXT
}
if [ $keep = yes ]; then
  headline "Cluster and mesh stay up ($((SECONDS - started)) s). What to try next"
  try_next
  exit 0
fi

chapter "Uninstalling: the same pods, plain again"
inventory "$work/meshed"
for what in 'object /' 'node1 ' 'node2 '; do
  [ "$(new_things "$work/meshed" | grep -c "^$what")" -ge 10 ] || fail "of the mesh too little is found, in what begins with '$what': $(new_things "$work/meshed")"
done
run_shown qanatctl uninstall --purge
note "uninstalled in $(took)"
eventually 60 nothing_new || fail "left behind: $said"
proved "of $(new_things "$work/meshed" | wc -l) new things nothing is left: no object, file, CNI entry, pin, rule, route, table, program, process"
for namespace in shop shop-data monitoring; do same_pods $namespace "since the beginning"; done
secret=$(new_secret)
capture_between_nodes "$work/again.pcap"
both_nodes "$secret"
stop_capture
claim_in_the_clear "$work/again.pcap" "$secret"
proved "the same $(cat "$work"/pods-* | wc -l) pods, not one restarted since the first chapter"

headline "Taking the cluster down"
show "tests/kubernetes/cluster.py down --name $name"
next=$(try_next)
cluster down >"$work/said" 2>&1 || fail "$(cat "$work/said")"
up=no
result "$(cat "$work/said")"
left=$(compgen -G "/run/netns/qk-$name-*" || true)
[ -z "$left" ] || fail "namespaces were left behind: $left"
[ ! -e "$(dirname "$kubeconfig")" ] || fail "$(dirname "$kubeconfig") was left behind"
proved "no namespace, process or file left ($((SECONDS - started)) s in all)"
headline "What to try next: ./run demo --kubernetes --keep, then"
echo "$next"
