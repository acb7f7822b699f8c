#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# apart.sh COMMAND...: runs it where what a mesh and its tests make by fixed names is nobody else's: network
# namespaces and their names, pins, control groups, /run/qanat and /tmp. So tests can run side by side, and what
# one leaves goes with its namespaces. As root.
set -eu
cg=$(awk '/ - cgroup2 / { print $5; exit }' /proc/self/mountinfo)
[ -n "$cg" ] || { echo "apart: no cgroup2 is mounted" >&2; exit 1; }
own=$cg$(sed -n 's/^0:://p' /proc/self/cgroup | sed 's,/$,,')
group=$own/qanat-apart-$$
tmp=$(mktemp -d /var/tmp/qanat-apart.XXXXXX)
chmod 1777 "$tmp"
mkdir -p "$group/tests" /run/qanat /run/netns
status=0
# The group's own processes first: those of a test that was killed.
# shellcheck disable=SC2317
clean() {
  for pid in $(cat "$group/cgroup.procs" "$group"/tests/cgroup.procs 2>/dev/null); do
    kill -KILL "$pid" 2>/dev/null && echo "apart: ended process $pid, which the test left" >&2
  done
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d "$group" ] || break
    sleep 0.1
  done
  rm -rf "$tmp"
}
trap clean EXIT
# The shell that joins the group is the command's own: this one stays outside of it, to clean up.
# shellcheck disable=SC2016
bash -c 'echo $$ >"$1/tests/cgroup.procs"; shift; exec unshare --mount --net --cgroup --propagation private bash "$@"' \
  apart "$group" -c '
    set -eu
    tmp=$1 cg=$2
    shift 2
    mount -t tmpfs tmpfs /run/netns
    mount --make-shared /run/netns  # as ip-netns makes it; what it mounts there must be seen by all
    mount -t tmpfs tmpfs /run/qanat
    mount --bind "$tmp" /tmp
    umount -l "$cg"
    mount -t cgroup2 cgroup2 "$cg"
    # Of a hierarchy of version 1 the group that this is in is the root from here on, and has to be seen as that.
    awk "{ for (i = 7; \$i != \"-\"; i++); if (\$(i + 1) == \"cgroup\" && \$4 != \"/\") print \$5, \$(i + 3) }" /proc/self/mountinfo |
      while read -r folder options; do
        umount -l "$folder"
        mount -t cgroup -o "${options#rw,}" cgroup "$folder"
      done
    mount -t bpf bpf /sys/fs/bpf
    ip link set lo up
    exec "$@"' apart "$tmp" "$cg" "$@" || status=$?
exit $status
