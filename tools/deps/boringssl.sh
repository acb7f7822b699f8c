#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds BoringSSL once per version and compiler and prints the directory that holds
# include/, libssl.a and libcrypto.a. The source comes complete in the Rust crate boring-sys
# (nothing Rust is built), pinned by version and by the checksum of the crate.
# Every symbol carries the prefix "qanat" so that OpenSSL may live in the same process (gRPC brings it).
. "$(dirname "$0")/lib.sh"

version=5.4.0
checksum=4986392770df40d11d0d6294b0dd8399570f4a6e76d6953c7a34f7dd1defbd76
cc=${CC:-clang-19} cxx=${CXX:-clang++-19}
key=$(sha256sum <"$(realpath "$0")" | cut -c1-12)
out=$cache/boringssl-$version-$key-$(basename "$cc")
[ -f "$out/done" ] && { echo "$out"; exit 0; }

tmp=$(mktemp -d "$cache/boringssl.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
say "BoringSSL: fetching the crate boring-sys $version"
cargo=$(find_cargo)
cat >"$tmp/Cargo.toml" <<TOML
[package]
name = "boringssl-source"
version = "0.0.0"
edition = "2021"
[lib]
path = "lib.rs"
[dependencies]
boring-sys = "=$version"
TOML
: >"$tmp/lib.rs"
(cd "$tmp" && "$cargo" vendor --quiet vendor >/dev/null)
grep -q "\"package\":\"$checksum\"" "$tmp/vendor/boring-sys/.cargo-checksum.json" || {
  echo "boring-sys $version does not have the expected checksum $checksum" >&2
  exit 1
}
src=$tmp/vendor/boring-sys/deps/boringssl
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
