#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds BoringSSL once per version and compiler and prints the directory that holds
# include/, libssl.a and libcrypto.a.
# Every symbol carries the prefix "qanat" so that OpenSSL may live in the same process (gRPC brings it).
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/boringssl_version.sh"
cc=${CC:-clang-19} cxx=${CXX:-clang++-19}
key=$(cat "$(realpath "$0")" "$(dirname "$0")/boringssl_version.sh" | sha256sum | cut -c1-12)
out=$cache/boringssl-$version-$key-$(basename "$cc")
[ -f "$out/done" ] && { echo "$out"; exit 0; }

tmp=$(mktemp -d "$cache/boringssl.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
src=$(bash "$(dirname "$0")/boringssl_source.sh" "$tmp")
# Its errors name their source files: by the map as the same ones wherever this is built.
flags="-g0 -ffile-prefix-map=$src=boringssl -ffile-prefix-map=$tmp/build=boringssl/build"
say "BoringSSL: building (about 3 minutes on two cores, once)"
cmake -G Ninja -S "$src" -B "$tmp/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
  -DBORINGSSL_PREFIX=qanat -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
  -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_ASM_COMPILER="$cc" \
  -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" -DCMAKE_ASM_FLAGS="$flags" \
  -DCMAKE_C_VISIBILITY_PRESET=hidden -DCMAKE_CXX_VISIBILITY_PRESET=hidden >"$tmp/cmake.log" 2>&1 ||
  { tail -20 "$tmp/cmake.log" >&2; exit 1; }
ninja -C "$tmp/build" crypto ssl >"$tmp/ninja.log" 2>&1 || { tail -30 "$tmp/ninja.log" >&2; exit 1; }
rm -rf "$out"
mkdir -p "$out"
cp -r "$src/include" "$out/include"
cp "$tmp/build/libssl.a" "$tmp/build/libcrypto.a" "$out/"
cp "$src/LICENSE" "$out/LICENSE"
touch "$out/done"
say "BoringSSL: ready"
echo "$out"
