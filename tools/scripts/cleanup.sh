#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Removes what a mesh or a test that was killed may have left: everything of ours has a name that
# begins with "qanat-" (namespaces, cgroups, pins) or lies below /run/qanat; network namespaces of
# tests of the node proxy alone have the maker's pid in theirs (qzt-PID-, qto-PID-), and stay while
# that lives. Prints nothing when there is nothing.
set -u
for state in /run/qanat/*/; do
  [ -d "$state" ] || continue
  # The supervisor first, so that it does not restart what ends next.
  for file in "$state"supervisor.pid; do
    [ -s "$file" ] && kill -KILL "$(cat "$file")" 2>/dev/null
  done
done
cg=$(awk '/ - cgroup2 / { print $5; exit }' /proc/self/mountinfo)
if [ -n "$cg" ]; then
  for group in "$cg"/qanat-*; do
    [ -d "$group" ] || continue
    find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -KILL 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
      [ -d "$group" ] || break
      sleep 0.1
    done
    echo "removed control groups $group"
  done
fi
for ns in /run/netns/qanat-* /run/netns/qzt-* /run/netns/qto-*; do
  [ -e "$ns" ] || continue
  pid=$(basename "$ns" | sed -n 's/^q[zt][to]-\([0-9]*\)-.*/\1/p')
  [ -n "$pid" ] && [ -d "/proc/$pid" ] && continue
  ip netns pids "$(basename "$ns")" 2>/dev/null | xargs -r kill -KILL 2>/dev/null
  ip netns delete "$(basename "$ns")" && echo "removed network namespace $(basename "$ns")"
done
if [ -d /sys/fs/bpf/qanat ]; then
  rm -rf /sys/fs/bpf/qanat && echo "removed pinned programs and maps"
fi
rm -rf /run/qanat
if [ -d /tmp/qanat-kubernetes ]; then  # clusters of tests; one that a developer keeps up stays
  python3 -B "$(dirname "$(realpath "$0")")/../../tests/kubernetes/cluster.py" down --tests 2>&1
fi
exit 0
