// SPDX-License-Identifier: Apache-2.0
// Domain names in wire form (RFC 1035 §3.1): labels with a length byte, ended by a zero byte, at
// most 255 bytes. Values; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace qanat::dns {

using Bytes = std::span<const uint8_t>;

constexpr size_t kMaxName = 255;
constexpr size_t kMaxLabel = 63;

// Reads the name at `at` of the message, following compression pointers (which may go backwards
// only), and moves `at` behind it. `out`, if given, gets the uncompressed wire form. False where
// the name is broken; `at` is undefined then.
bool ReadName(Bytes message, size_t& at, std::string* out);

// "www.example.com" of a wire name, in lower case, without the last dot; "" for the root. Nothing
// where a label has a byte that no host name has (a dot, a space, a control byte, 8 bits): such a
// name is no name of a service, and its text could be taken for another one.
std::optional<std::string> HostOf(std::string_view wire);

// The wire form of a text with or without a last dot; nothing where a label or the name is too long
// or empty.
std::optional<std::string> WireOf(std::string_view host);

// Names do not care for the case of ASCII letters (RFC 4343).
bool SameName(std::string_view wire, std::string_view other);

}  // namespace qanat::dns
