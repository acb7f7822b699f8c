#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds Envoy's v3 API (the messages that tools/deps/envoy_api.roots names, with all that they
# import) as a static library once, and prints the directory with include/ and libenvoy_api.a.
# The .proto files come in the npm package @grpc/grpc-js-xds, pinned by version and integrity hash.
. "$(dirname "$0")/lib.sh"

version=1.14.1
integrity=sha512-F2mVXwEeMWw1znPUrp+8ykjsIOVnf7Rv+EyIvXOfz73w5tNolCnzokpLkE/d2Ehx30PJmZXqCQdMpx8DcBJohA==
roots=$(dirname "$(realpath "$0")")/envoy_api.roots
cxx=${CXX:-clang++-19}
key=$(cat "$roots" "$(realpath "$0")" <(protoc --version) | sha256sum | cut -c1-12)
out=$cache/envoy-api-$version-$key-$(basename "$cxx")
[ -f "$out/done" ] && { echo "$out"; exit 0; }

tmp=$(mktemp -d "$cache/envoy-api.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
say "Envoy API: fetching the npm package @grpc/grpc-js-xds $version"
(cd "$tmp" && npm pack --silent "@grpc/grpc-js-xds@$version" >/dev/null 2>&1) ||
  { echo "npm pack @grpc/grpc-js-xds@$version failed" >&2; exit 1; }
got=sha512-$(openssl dgst -sha512 -binary "$tmp"/*.tgz | base64 -w0)
[ "$got" = "$integrity" ] || {
  echo "@grpc/grpc-js-xds $version: integrity $got, expected $integrity" >&2
  exit 1
}
tar -xzf "$tmp"/*.tgz -C "$tmp" package/deps
d=$tmp/package/deps
# The package's copy of validate.proto is older than what some files use. The rules only describe
# value ranges to code generators that we do not run, so the unknown one is dropped where it stands.
grep -rlZ 'ignore_empty' --include=*.proto "$d" | xargs -0 -r sed -i -E 's/,?[[:space:]]*ignore_empty: *true//g'

# "requires" is a keyword of C++20; the name of a field is not on the wire.
sed -i -E 's/\brequires = /requires_ = /' "$d/envoy-api/envoy/extensions/filters/http/jwt_authn/v3/config.proto"

python3 - "$d" "$roots" >"$tmp/files" <<'PY'
import os, re, sys
base, roots = sys.argv[1:]
dirs = ["envoy-api", "googleapis", "protoc-gen-validate", "xds"]
seen = []
def walk(name):
    if name in seen or name.startswith("google/protobuf/"):
        return
    path = next((p for p in (os.path.join(base, d, name) for d in dirs) if os.path.exists(p)), None)
    if path is None:
        sys.exit(f"{name}: not in the package")
    seen.append(name)
    for imported in re.findall(r'^import (?:public )?"([^"]+)"', open(path).read(), re.M):
        walk(imported)
for line in open(roots):
    line = line.split("#")[0].strip()
    if line:
        walk(line)
print("\n".join(seen))
PY
inc=(-I"$d/envoy-api" -I"$d/googleapis" -I"$d/protoc-gen-validate" -I"$d/xds")
mkdir -p "$tmp/gen" "$tmp/obj"
xargs -a "$tmp/files" protoc "${inc[@]}" --cpp_out="$tmp/gen"
protoc "${inc[@]}" --grpc_out="$tmp/gen" --plugin=protoc-gen-grpc="$(command -v grpc_cpp_plugin)" \
  envoy/service/discovery/v3/ads.proto
xargs -a "$tmp/files" protoc "${inc[@]}" --include_imports --descriptor_set_out="$tmp/gen/envoy_api.binpb"
n=$(find "$tmp/gen" -name '*.cc' | wc -l)
say "Envoy API: compiling $n files (about 3 minutes on two cores, once)"
# The gRPC stub stays source: only the control plane, which links gRPC, compiles it.
(cd "$tmp/gen" && find . -name '*.pb.cc' ! -name '*.grpc.pb.cc' -printf '%P\n' |
  xargs -P "$(nproc)" -I{} sh -c \
    '"$0" -std=c++20 -O1 -g0 -fPIC -w -I. -c "$1" -o "../obj/$(echo "$1" | tr / _).o"' "$cxx" {})
ar crs "$tmp/libenvoy_api.a" "$tmp"/obj/*.o
rm -rf "$out"
mkdir -p "$out"
mv "$tmp/gen" "$out/include"
mv "$tmp/libenvoy_api.a" "$out/"
touch "$out/done"
say "Envoy API: ready"
echo "$out"
