#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Format, include edges, and clang-tidy of the files that differ from the branch's base
# (QANAT_LINT_BASE, default: the commit before the last; "all" takes every file).
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
python3 tools/scripts/check_deps.py
mapfile -t sources < <(git ls-files '*.cc' '*.h' | grep -v -E '^(bpf/.*\.h$|bpf/include/vmlinux)')
echo "    clang-format: ${#sources[@]} files"
clang-format-19 --dry-run --Werror "${sources[@]}"
base=${QANAT_LINT_BASE:-HEAD~1}
if [ "$base" = all ]; then
  mapfile -t changed < <(git ls-files '*.cc')
else
  mapfile -t changed < <(git diff --name-only --diff-filter=d "$base" -- '*.cc')
fi
echo "    clang-tidy: ${#changed[@]} files"
[ ${#changed[@]} = 0 ] || printf '%s\n' "${changed[@]}" |
  xargs -P "$(nproc)" -n 4 clang-tidy-19 -p build/dev --quiet
