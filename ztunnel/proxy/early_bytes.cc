// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/early_bytes.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/hbone/types.h"

namespace qanat::ztunnel {

std::span<const uint8_t> EarlyBytes::Give(int fd) {
  if (!std::exchange(read_, true)) {
    std::array<uint8_t, hbone::kMostEarly> buffer;
    const ssize_t n = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n > 0) bytes_.assign(buffer.data(), buffer.data() + n);
    if (n < 0 && errno != EAGAIN && errno != EINTR) error_ = std::strerror(errno);
    charge_.Set(bytes_.capacity());
  }
  given_ = given_ || !bytes_.empty();
  return bytes_;
}

RelayEarly EarlyBytes::Take(size_t sent) {
  RelayEarly out;
  out.sent = sent;
  out.all = !bytes_.empty() && bytes_.size() < hbone::kMostEarly;
  if (sent == 0) out.unsent = std::move(bytes_);
  std::vector<uint8_t>().swap(bytes_);
  charge_.Set(0);
  return out;
}

}  // namespace qanat::ztunnel
