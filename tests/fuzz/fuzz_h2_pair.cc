// SPDX-License-Identifier: Apache-2.0
// Both ends of ours over a stream that cuts reads and writes anywhere. The input is a program for
// the users of the streams: open, answer, write, read, end, abort, drain. The oracle: every byte
// that is read is the next one of what the other side wrote, an end comes only after all of them
// and only where one was sent, and a stream that nobody aborted is read to its end.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/client_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_link.h"

namespace {

using namespace qanat;
using hbone::testing::LinkEnd;
using hbone::testing::LinkOptions;
using net::IoResult;

[[noreturn]] void Wrong(const char* what) {
  std::fprintf(stderr, "fuzz_h2_pair: %s\n", what);
  std::abort();
}

// One direction of one stream: byte n is a function of n and the stream, so nothing is kept.
struct Way {
  uint64_t written = 0, read = 0;
  bool ended = false;    // the writer ended it
  bool aborted = false;  // somebody aborted the stream, either side
  bool over = false;     // the reader saw its end
};

uint8_t ByteAt(unsigned stream, uint64_t n) {
  return static_cast<uint8_t>((n * 2654435761u >> 7) + stream * 37);
}

// A user of one end of a stream.
struct User final : net::TransportEvents {
  User(net::TransportPtr t, unsigned n, std::shared_ptr<Way> o, std::shared_ptr<Way> i)
      : transport(std::move(t)), number(n), out(std::move(o)), in(std::move(i)) {
    transport->SetEvents(this);
    transport->ReadEnable(reading);
  }
  ~User() {
    if (transport && !(out->ended && in->over)) Abandon();
  }
  void Abandon() {
    out->aborted = in->aborted = true;
    transport.reset();
  }
  void OnReadable() override {
    uint8_t buffer[8192];
    IoResult got = transport->Read({buffer, chunk});
    if (got.kind == IoResult::Kind::kWouldBlock) return;
    if (got.ok()) {
      if (got.bytes == 0) Wrong("a read of nothing counts as one");
      for (size_t i = 0; i < got.bytes; ++i) {
        if (buffer[i] != ByteAt(number, in->read + i)) Wrong("a byte is not the one that was sent");
      }
      in->read += got.bytes;
      if (in->read > in->written) Wrong("more was read than written");
      return;
    }
    transport->ReadEnable(false);
    in->over = true;
    if (in->aborted) return;
    if (got.kind != IoResult::Kind::kEof) Wrong("a reset that nobody asked for");
    if (!in->ended) Wrong("an end that nobody sent");
    if (in->read != in->written) Wrong("the end came before the last byte");
  }
  void OnWritable() override {
    transport->WriteEnable(false);
    blocked = false;
  }
  void Write(size_t size, size_t pieces) {
    if (!transport || out->ended || blocked) return;
    std::vector<uint8_t> bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = ByteAt(number, out->written + i);
    std::vector<iovec> parts;
    for (size_t i = 0, at = 0; i < pieces && at < size; ++i) {
      const size_t n = i + 1 == pieces ? size - at : std::min(size - at, size / pieces + i);
      parts.push_back({bytes.data() + at, n});
      at += n;
    }
    IoResult wrote = transport->Write(parts);
    if (wrote.kind == IoResult::Kind::kWouldBlock) {
      blocked = true;
      return transport->WriteEnable(true);
    }
    if (wrote.ok()) {
      out->written += wrote.bytes;
    } else if (!out->aborted) {
      Wrong("a write was refused for no reason");
    }
  }
  void Finish() {
    if (!transport || out->ended) return;
    const IoResult ended = transport->ShutdownWrite();
    if (ended.ok()) out->ended = true;
    if (!ended.ok() && !out->aborted) Wrong("an end was refused for no reason");
  }
  void Abort() {
    if (!transport) return;
    out->aborted = in->aborted = true;
    transport->Abort();
  }
  void Read(bool on) {
    reading = on;
    if (transport && !in->over) transport->ReadEnable(on);
  }

  net::TransportPtr transport;
  const unsigned number;
  std::shared_ptr<Way> out, in;
  size_t chunk = 4096;
  bool reading = true, blocked = false;
};

struct Pair {
  explicit Pair(unsigned n) : number(n) {}
  const unsigned number;
  std::shared_ptr<Way> up = std::make_shared<Way>(), down = std::make_shared<Way>();
  std::unique_ptr<hbone::PendingConnect> pending;
  std::unique_ptr<User> client, server;
  bool failed = false;
};

class Bed {
 public:
  Bed(const uint8_t* data, size_t size) : data_(data), size_(size) {
    hbone::SessionOptions options;
    const uint8_t window = Next();
    options.initial_stream_window = 64u << (window % 12);
    options.small_stream_window = options.initial_stream_window >> (window / 12 % 4);
    options.stream_window = options.initial_stream_window << (Next() % 4);
    options.max_unread = size_t{16} * options.stream_window;  // taken back from four windows on
    options.connection_window = 65535u << (Next() % 3);
    options.max_frame_size = 16384u << (Next() % 4);
    options.max_concurrent_streams = 1 + Next() % 16;
    options.send_buffer = 1024u << (Next() % 8);
    LinkOptions link;
    link.capacity = 512u << (Next() % 9);
    const size_t most = size_t{64} << (Next() % 11);
    link.cut = [this, most](size_t n) -> size_t {
      seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
      const auto random = static_cast<size_t>(seed_ >> 33);
      const size_t now = random % 8 == 0 ? 0 : std::min(n, 1 + random % most);
      carried_ += now;
      return now;
    };
    auto [a, b] = LinkEnd::Make(loop_, std::move(link));
    client_ = std::make_unique<hbone::ClientSession>(
        std::move(a), options,
        hbone::ClientSession::Events{nullptr, [this](const hbone::CloseReason& r) { Over(r); }});
    server_ = std::make_unique<hbone::ServerSession>(
        std::move(b), options,
        hbone::ServerSession::Events{
            [this](const hbone::InboundConnect& request, hbone::Responder responder) {
              Arrived(request, std::move(responder));
            },
            [this](const hbone::CloseReason& r) { Over(r); }});
  }

  void Run() {
    while (at_ < size_) {
      Step();
      if (Next() % 2 == 0) Rounds(1);
    }
    // All that is not aborted comes to its end; what was on its way of the rest goes first, and may
    // be much for a link that takes little at a time.
    uint64_t carried = 0;
    for (int idle = 0; idle < 3000 && !AllOver(); ++idle) {
      for (auto& pair : pairs_) {
        for (User* user : {pair->client.get(), pair->server.get()}) {
          if (user == nullptr) continue;
          user->chunk = 8192;
          user->Read(true);
          user->Finish();
        }
      }
      Rounds(1);
      if (std::exchange(carried, carried_) != carried_) idle = 0;
    }
    if (!AllOver()) Wrong("a stream that nobody aborted does not come to its end");
    const auto held = client_->stats().unread + server_->stats().unread;
    if (!closed_ && Unread() == 0 && held != 0) Wrong("bytes are counted that nobody holds");
  }

 private:
  uint8_t Next() { return at_ < size_ ? data_[at_++] : 0; }
  void Rounds(int n) {
    for (int i = 0; i < n; ++i) loop_.RunOnce(std::chrono::milliseconds(0));
  }
  Pair* Choose() { return pairs_.empty() ? nullptr : pairs_[Next() % pairs_.size()].get(); }
  User* ChooseUser() {
    Pair* pair = Choose();
    if (pair == nullptr) return nullptr;
    return Next() % 2 == 0 ? pair->client.get() : pair->server.get();
  }

  void Step() {
    switch (Next() % 10) {
      case 0:
      case 1: return Open();
      case 2:
      case 3:
      case 4:
        if (User* user = ChooseUser()) {
          const size_t size = 1 + (size_t{Next()} << (Next() % 8));
          user->Write(size, 1 + Next() % 40);
        }
        return;
      case 5:
        if (User* user = ChooseUser()) user->Finish();
        return;
      case 6:
        if (User* user = ChooseUser()) {
          user->chunk = 1 + 32 * size_t{Next()};
          user->Read(Next() % 4 != 0);
        }
        return;
      case 7:
        if (User* user = ChooseUser()) {
          if (Next() % 2 == 0) {
            user->Abort();
          } else if (user->transport) {
            user->Abandon();
          }
        }
        return;
      case 8:
        if (Pair* pair = Choose(); pair != nullptr && !pair->client) {
          pair->up->aborted = pair->down->aborted = true;
          pair->failed = true;
          pair->pending.reset();
        }
        return;
      default:
        if (Next() % 64 == 0) server_->Drain();
        if (Next() % 64 == 0) client_->Drain();
        return Rounds(Next() % 8);
    }
  }

  void Open() {
    if (pairs_.size() >= 24) return;
    pairs_.push_back(std::make_unique<Pair>(static_cast<unsigned>(pairs_.size())));
    Pair* pair = pairs_.back().get();
    pair->pending =
        client_->Connect({"10.0.0.1:" + std::to_string(1 + pair->number), {}}, [pair](auto result) {
          if (!result || !result->stream) {
            pair->failed = pair->up->aborted = pair->down->aborted = true;
            return;
          }
          pair->client =
              std::make_unique<User>(std::move(result->stream), pair->number, pair->up, pair->down);
        });
  }

  void Arrived(const hbone::InboundConnect& request, hbone::Responder responder) {
    const auto number = static_cast<size_t>(std::atoi(request.authority.c_str() + 9)) - 1;
    if (number >= pairs_.size()) Wrong("a stream that nobody opened");
    Pair& pair = *pairs_[number];
    if (Next() % 16 == 1) return responder.Reject(401);
    auto stream = responder.Accept();
    if (stream)
      pair.server = std::make_unique<User>(std::move(stream), pair.number, pair.down, pair.up);
  }

  void Over(const hbone::CloseReason& reason) {
    closed_ = true;
    // In order, or because the other end went first; anything else is a quarrel between two of us.
    if (reason.code != hbone::H2Error::kNoError) Wrong(reason.message.c_str());
  }

  size_t Unread() const {
    uint64_t sum = 0;
    for (const auto& pair : pairs_) {
      if (pair->client && !pair->down->over) sum += pair->down->written - pair->down->read;
      if (pair->server && !pair->up->over) sum += pair->up->written - pair->up->read;
    }
    return sum;
  }

  bool AllOver() const {
    return std::all_of(pairs_.begin(), pairs_.end(), [](const auto& pair) {
      if (pair->failed || pair->up->aborted) return true;
      return pair->client && pair->server && pair->up->over && pair->down->over;
    });
  }

  const uint8_t* const data_;
  const size_t size_;
  size_t at_ = 0;
  uint64_t seed_ = 88172645463325252u;
  uint64_t carried_ = 0;  // bytes, at most, that the link moved
  event::EventLoop loop_;
  std::vector<std::unique_ptr<Pair>> pairs_;
  std::unique_ptr<hbone::ClientSession> client_;
  std::unique_ptr<hbone::ServerSession> server_;
  bool closed_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 2000) return 0;
  Bed bed(data, size);
  bed.Run();
  return 0;
}
