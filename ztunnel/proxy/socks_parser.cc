// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/socks.h"

namespace qanat::ztunnel {
namespace {

constexpr char kVersion = 5;
constexpr uint8_t kIpv4 = 1, kName = 3, kIpv6 = 4;

// RFC 1928, section 6, with an unspecified bound address: there is none before the upstream is
// reached.
std::string Reply(char code) { return {kVersion, code, 0, 1, 0, 0, 0, 0, 0, 0}; }

}  // namespace

std::string SocksParser::Take(std::string_view bytes) {
  have_.append(bytes.substr(0, wanted()));
  if (state_ != State::kReading || have_.size() < wanted_) return {};
  std::string answer = Step();
  have_.clear();
  return answer;
}

std::string SocksParser::Refuse(std::string answer) {
  state_ = State::kRefused;
  return answer;
}

std::string SocksParser::Step() {
  switch (part_) {
    case Part::kGreeting:
      if (have_[0] != kVersion || have_[1] == 0) return Refuse({});
      part_ = Part::kMethods;
      wanted_ = static_cast<uint8_t>(have_[1]);
      return {};
    case Part::kMethods:
      if (have_.find('\0') == std::string::npos) return Refuse({kVersion, '\xff'});
      part_ = Part::kHead;
      wanted_ = 4;
      return {kVersion, 0};
    case Part::kHead:
      if (have_[0] != kVersion || have_[2] != 0) return Refuse(Reply(1));
      if (have_[1] != 1) return Refuse(Reply(7));  // only CONNECT
      address_type_ = static_cast<uint8_t>(have_[3]);
      if (address_type_ == kName) return Refuse(Reply(8));
      if (address_type_ != kIpv4 && address_type_ != kIpv6) return Refuse(Reply(8));
      part_ = Part::kAddress;
      wanted_ = (address_type_ == kIpv4 ? 4 : 16) + 2;
      return {};
    case Part::kAddress: {
      const auto* bytes = reinterpret_cast<const uint8_t*>(have_.data());
      const size_t length = have_.size() - 2;
      const auto port = static_cast<uint16_t>(bytes[length] << 8 | bytes[length + 1]);
      destination_ = net::SocketAddress(net::IpAddress::FromBytes({bytes, length}), port);
      if (!destination_.is_set() || port == 0) return Refuse(Reply(1));
      state_ = State::kConnect;
      return Reply(0);
    }
  }
  return Refuse({});
}

}  // namespace qanat::ztunnel
