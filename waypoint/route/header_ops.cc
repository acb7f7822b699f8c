// SPDX-License-Identifier: Apache-2.0
#include "waypoint/route/header_ops.h"

#include <fmt/format.h>

namespace qanat::waypoint {
namespace {

using Piece = HeaderValue::Piece;

struct Operator {
  std::string_view name;
  Piece piece;
};

constexpr Operator kOperators[] = {
    {"PROTOCOL", Piece::kProtocol},
    {"DOWNSTREAM_REMOTE_ADDRESS", Piece::kDownstreamAddress},
    {"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Piece::kDownstreamIp},
    {"DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Piece::kDownstreamAddress},
    {"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Piece::kDownstreamIp},
    {"DOWNSTREAM_PEER_URI_SAN", Piece::kDownstreamPeer},
    {"UPSTREAM_HOST", Piece::kUpstreamHost},
    {"UPSTREAM_REMOTE_ADDRESS", Piece::kUpstreamHost},
    {"UPSTREAM_CLUSTER", Piece::kUpstreamCluster},
    {"UPSTREAM_CLUSTER_RAW", Piece::kUpstreamCluster},
    {"START_TIME", Piece::kStartTime},
};

}  // namespace

Result<HeaderValue> HeaderValue::Parse(std::string_view format) {
  HeaderValue out;
  std::string text;
  auto flush = [&] {
    if (!text.empty()) out.pieces.emplace_back(Piece::kText, std::move(text));
    text.clear();
  };
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] == '\r' || format[i] == '\n' || format[i] == '\0') {
      return Fail(Code::kInvalidArgument, "header value holds a line break or NUL");
    }
    if (format[i] != '%') {
      text.push_back(format[i]);
      continue;
    }
    if (i + 1 < format.size() && format[i + 1] == '%') {
      text.push_back('%');
      ++i;
      continue;
    }
    size_t close = format.find('%', i + 1);
    std::string_view name = close == std::string_view::npos ? format.substr(i + 1)
                                                            : format.substr(i + 1, close - i - 1);
    const Operator* found = nullptr;
    for (const Operator& op : kOperators) {
      if (close != std::string_view::npos && op.name == name) found = &op;
    }
    if (found == nullptr) {
      return Fail(
          Code::kUnimplemented,
          fmt::format("header value operator %{}% is not supported; %% is a percent sign", name));
    }
    flush();
    out.pieces.emplace_back(found->piece, std::string());
    i = close;
  }
  flush();
  return out;
}

std::string HeaderValue::Format(const HeaderFormatContext& context) const {
  std::string out;
  for (const auto& [piece, text] : pieces) {
    switch (piece) {
      case Piece::kText: out.append(text); break;
      case Piece::kProtocol: out.append(context.protocol); break;
      case Piece::kDownstreamAddress: out.append(context.downstream_address); break;
      case Piece::kDownstreamIp: out.append(context.downstream_ip); break;
      case Piece::kDownstreamPeer: out.append(context.downstream_peer); break;
      case Piece::kUpstreamHost: out.append(context.upstream_address); break;
      case Piece::kUpstreamCluster: out.append(context.upstream_cluster); break;
      case Piece::kStartTime: out.append(context.start_time); break;
    }
  }
  return out;
}

}  // namespace qanat::waypoint
