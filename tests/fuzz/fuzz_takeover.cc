// SPDX-License-Identifier: Apache-2.0
// What another process may send over the take-over socket: datagrams, fields, states of
// connections, and messages in any order. Whatever comes, no item is used by both. The input:
// datagrams, each with its length (two bytes) before it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string_view>

#include "common/takeover/fields.h"
#include "common/takeover/handover.h"
#include "common/takeover/wire.h"
#include "ztunnel/takeover/connection_state.h"

using namespace qanat;            // NOLINT: a fuzzer of this one namespace
using namespace qanat::takeover;  // NOLINT

namespace {

// Who may use an item, by what the machines of one process say.
struct Uses {
  bool frozen = false, forgotten = false;
};

void Follow(const Giver::Steps& steps, Giver& giver, std::map<ItemId, Uses>& uses) {
  for (const auto& [what, item] : steps) {
    Uses& use = uses[item];
    switch (what) {
      case Giver::Do::kFreeze:
        if (use.frozen || use.forgotten) std::abort();
        use.frozen = true;
        Follow(giver.OnFroze(item, item % 3 != 0), giver, uses);
        break;
      case Giver::Do::kThaw:
        if (!use.frozen || use.forgotten) std::abort();
        use.frozen = false;
        break;
      case Giver::Do::kCommit:
        if (!use.frozen) std::abort();
        use.forgotten = true;
        Follow(giver.OnForgotten(item, true), giver, uses);
        break;
      case Giver::Do::kSendCommitted:
        if (!use.forgotten) std::abort();
        break;
      case Giver::Do::kSendState:
        if (!use.frozen) std::abort();
        break;
      case Giver::Do::kSendWithdrawn:
        if (use.forgotten) std::abort();
        use.frozen = false;
        break;
      case Giver::Do::kOffer: break;
    }
  }
}

void Follow(const Taker::Steps& steps, Taker& taker, std::map<ItemId, bool>& held) {
  for (const auto& [what, item] : steps) {
    switch (what) {
      case Taker::Do::kImport:
        held[item] = item % 5 != 0;
        Follow(taker.OnImported(item, held[item]), taker, held);
        break;
      case Taker::Do::kRun:
        if (!held[item]) std::abort();
        held.erase(item);
        break;
      case Taker::Do::kDrop: held.erase(item); break;
      case Taker::Do::kSendWant:
      case Taker::Do::kSendAccepted:
      case Taker::Do::kSendRefused: break;
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  Assembler assembler;
  Giver giver;
  Taker taker(2);
  std::map<ItemId, Uses> uses;
  std::map<ItemId, bool> held;
  for (ItemId item = 1; item <= 4; ++item) giver.Offer(item, false);
  while (input.size() >= 2) {
    const size_t length = static_cast<uint8_t>(input[0]) << 8 | static_cast<uint8_t>(input[1]);
    const std::string_view datagram = input.substr(2, length);
    input.remove_prefix(2 + datagram.size());
    std::vector<Fd> fds;
    if (datagram.size() >= kHeadBytes) fds.resize(static_cast<uint8_t>(datagram[17]) % 4);
    auto message = assembler.Add(datagram, std::move(fds));
    if (!message) break;
    if (!*message) continue;
    const std::string_view body = (*message)->body;
    const uint16_t known[] = {1, 2, 3};
    if (const auto fields = Fields::Parse(body, known)) {
      fields->Number(1);
      fields->Numbers(2);
      size_t bytes = 0;
      for (const std::string_view one : fields->All(3)) bytes += one.size();
      if (bytes > body.size()) std::abort();
    }
    // What it says of a connection: taken, it says the same once more.
    auto connection = ztunnel::DecodeConnection({std::string(body), std::vector<Fd>(2)});
    if (connection) {
      auto again = ztunnel::DecodeConnection(ztunnel::EncodeConnection(
          connection->saved, connection->relay.up, connection->relay.down, Fd(), Fd()));
      if (!again || again->saved.pod_uid != connection->saved.pod_uid ||
          again->saved.flow.source_described != connection->saved.flow.source_described ||
          again->saved.flow.destination_described != connection->saved.flow.destination_described ||
          again->relay.up.pending != connection->relay.up.pending ||
          again->relay.down.eof != connection->relay.down.eof) {
        std::abort();
      }
    }
    const ItemId item = (*message)->item;
    switch ((*message)->kind) {
      case Kind::kWant: Follow(giver.OnWant(item), giver, uses); break;
      case Kind::kAccepted: Follow(giver.OnAccepted(item), giver, uses); break;
      case Kind::kRefused: Follow(giver.OnRefused(item), giver, uses); break;
      case Kind::kAsk: Follow(giver.OnTimeout(item), giver, uses); break;
      case Kind::kFinished: Follow(giver.OnLost(), giver, uses); break;
      case Kind::kOffer: Follow(taker.OnOffer(item, item % 2 == 0), taker, held); break;
      case Kind::kState: Follow(taker.OnState(item), taker, held); break;
      case Kind::kCommitted: Follow(taker.OnCommitted(item), taker, held); break;
      case Kind::kWithdrawn: Follow(taker.OnWithdrawn(item), taker, held); break;
      case Kind::kAsked: Follow(taker.OnLost(), taker, held); break;
      case Kind::kHello: break;
    }
  }
  Follow(giver.OnLost(), giver, uses);
  for (const auto& [item, use] : uses) {
    if (use.frozen && !use.forgotten) std::abort();  // for ever
  }
  Follow(taker.OnLost(), taker, held);
  if (taker.unsettled() != 0) std::abort();
  return 0;
}
