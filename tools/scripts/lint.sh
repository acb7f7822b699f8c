#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Include edges, shell and Python syntax, format, clang-tidy. By default clang-tidy takes the files
# that differ from the branch's base ($QANAT_LINT_BASE, default: where it left main, on main the
# commit before), committed or not; --all takes every file. Needs build/lint (./run lint makes it).
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/../.."
all=no
for argument in "$@"; do
  case $argument in
    --all) all=yes ;;
    *) echo "usage: lint.sh [--all]" >&2; exit 2 ;;
  esac
done

python3 tools/scripts/check_deps.py

files() { git ls-files --cached --others --exclude-standard "$@" | while read -r f; do [ ! -f "$f" ] || echo "$f"; done; }

# Scripts, by their name or their first line.
mapfile -t shell < <({ files '*.sh'; files | grep -v '\.' ; echo .ci/run; } | sort -u |
  while read -r f; do [ -f "$f" ] && head -n1 "$f" | grep -aqE '^#!.*\b(bash|sh)\b' && echo "$f"; done)
mapfile -t python < <({ files '*.py'; files | grep -E '/standin/'; } | sort -u |
  while read -r f; do case $f in *.py) echo "$f" ;; *) head -n1 "$f" | grep -aq python && echo "$f" ;; esac; done)
echo "    syntax: ${#shell[@]} shell, ${#python[@]} Python"
for f in "${shell[@]}"; do bash -n "$f"; done
python3 - "${python[@]}" <<'PY'
import sys
bad = 0
for path in sys.argv[1:]:
    try:
        compile(open(path).read(), path, "exec")
    except SyntaxError as error:
        print(f"{path}:{error.lineno}: {error.msg}")
        bad = 1
sys.exit(bad)
PY

mapfile -t sources < <(files '*.cc' '*.h' | grep -v -E '^(bpf/.*\.h$|bpf/include/vmlinux)')
echo "    clang-format: ${#sources[@]} files"
clang-format-19 --dry-run --Werror "${sources[@]}"
# A rule of thumb (STYLE.md), so it is told and does not fail.
wc -l "${sources[@]}" | awk '$1 > 400 && $2 != "total" { print "    long: " $2 " (" $1 " lines)" }'

if [ $all = yes ]; then
  mapfile -t changed < <(files '*.cc')
else
  base=${QANAT_LINT_BASE:-$(git merge-base HEAD main 2>/dev/null || echo HEAD)}
  [ "$(git rev-parse "$base")" != "$(git rev-parse HEAD)" ] || base=HEAD~1
  # A header is looked at through the source file of its name.
  mapfile -t changed < <({ git diff --name-only --diff-filter=d "$base" -- '*.cc' '*.h'
    git ls-files --others --exclude-standard '*.cc' '*.h'; } |
    sed 's/\.h$/.cc/' | sort -u | while read -r f; do [ ! -f "$f" ] || echo "$f"; done)
fi
echo "    clang-tidy: ${#changed[@]} files"
[ ${#changed[@]} = 0 ] || printf '%s\n' "${changed[@]}" |
  xargs -P "${QANAT_JOBS:-$(nproc)}" -n 1 clang-tidy-19 -p build/lint --quiet 2> >(
    grep -v -E '^[0-9]+ warnings? generated|^Suppressed|^Use -header-filter' >&2)
