# SPDX-License-Identifier: Apache-2.0
# Shared by the dependency scripts: where built dependencies are cached, and how progress is said.
set -euo pipefail

cache=${QANAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qanat}
mkdir -p "$cache"

say() { printf '  %s\n' "$*" >&2; }

# cargo >= 1.70 is needed to read a crate's index; Debian 12 has one in the package cargo-web.
find_cargo() {
  local c
  for c in cargo /usr/lib/cargo-web/bin/cargo /usr/bin/cargo-web; do
    if command -v "$c" >/dev/null 2>&1; then
      case $("$c" --version 2>/dev/null) in
        "cargo 0."* | "cargo 1."[0-9].* | "cargo 1."[1-6][0-9].*) ;;
        cargo*) echo "$c"; return 0 ;;
      esac
    fi
  done
  echo "no cargo >= 1.70 found: apt-get install cargo-web" >&2
  return 1
}
