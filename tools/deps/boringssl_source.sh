#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# boringssl_source.sh DIR: fetches BoringSSL's source below DIR, which is empty, and prints where it lies.
# It comes complete in the Rust crate boring-sys (nothing Rust is built), pinned by version and by the
# checksum of the crate.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/boringssl_version.sh"

say "BoringSSL: fetching the crate boring-sys $version"
cargo=$(find_cargo)
cat >"$1/Cargo.toml" <<TOML
[package]
name = "boringssl-source"
version = "0.0.0"
edition = "2021"
[lib]
path = "lib.rs"
[dependencies]
boring-sys = "=$version"
TOML
: >"$1/lib.rs"
(cd "$1" && "$cargo" vendor --quiet vendor >/dev/null)
grep -q "\"package\":\"$checksum\"" "$1/vendor/boring-sys/.cargo-checksum.json" || {
  echo "boring-sys $version does not have the expected checksum $checksum" >&2
  exit 1
}
echo "$1/vendor/boring-sys/deps/boringssl"
