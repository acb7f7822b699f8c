// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/predecessor.h"

#include "common/base/log.h"
#include "common/takeover/fields.h"

namespace qanat::ztunnel {
namespace {

// Fields of a pod's listeners.
constexpr uint16_t kUid = 1;
constexpr uint16_t kRole = 2;  // once for each descriptor

// Pods wait for their proxy meanwhile; without the old sockets it works too.
constexpr auto kPatience = std::chrono::seconds(3);
constexpr int kRounds = 6;
// Who waits for this process (readiness) is told no later; what comes later is taken all the same.
constexpr auto kPatienceWithConnections = std::chrono::seconds(30);
constexpr auto kPauseOfRounds = std::chrono::milliseconds(100);

}  // namespace

takeover::Parcel EncodeListeners(Listeners listeners) {
  takeover::FieldWriter writer;
  takeover::Parcel parcel;
  for (Listening& one : listeners) {
    writer.Number(kRole | takeover::kCritical, static_cast<uint64_t>(one.role));
    parcel.fds.push_back(std::move(one.fd));
  }
  parcel.state = writer.Take();
  return parcel;
}

Result<Listeners> DecodeListeners(takeover::Parcel parcel) {
  const uint16_t known[] = {kRole};
  QANAT_ASSIGN_OR_RETURN(const auto fields, takeover::Fields::Parse(parcel.state, known));
  const std::vector<uint64_t> roles = fields.Numbers(kRole);
  if (roles.size() != parcel.fds.size()) {
    return Fail(Code::kInvalidArgument, "as many roles as listeners are needed");
  }
  Listeners out;
  for (size_t i = 0; i < roles.size(); ++i) {
    const auto role = static_cast<Role>(roles[i]);
    // One of a role that is not known here stays with who knows it, and all others with it.
    if (roles[i] > 0xffff || RoleName(role).empty()) {
      return Fail(Code::kUnimplemented, "a listener of an unknown kind");
    }
    out.push_back({role, std::move(parcel.fds[i])});
  }
  return out;
}

std::string EncodeAbout(const std::string& uid) {
  takeover::FieldWriter writer;
  writer.Bytes(kUid | takeover::kCritical, uid);
  return std::string(std::string_view(writer.Take()));
}

Result<std::string> DecodeAbout(const std::string& about) {
  const uint16_t known[] = {kUid};
  QANAT_ASSIGN_OR_RETURN(const auto fields, takeover::Fields::Parse(about, known));
  std::string uid(fields.Bytes(kUid));
  if (uid.empty()) return Fail(Code::kInvalidArgument, "listeners of no pod");
  return uid;
}

Predecessor::Predecessor(event::EventLoop& loop, std::string path, ListenerStock& stock,
                         const Environment& environment,
                         std::vector<std::unique_ptr<Worker>>& workers, Events events)
    : loop_(loop),
      path_(std::move(path)),
      stock_(stock),
      environment_(environment),
      workers_(workers),
      events_(std::move(events)),
      pause_(loop, [this] { Ask(); }),
      patience_(loop, [this] {
        LOG_WARN("takeover", "the process before this one is slow; going on without waiting");
        if (events_.on_arrived) return Arrived();
        Over();
      }) {}

void Predecessor::Start() {
  auto connected = takeover::ConnectTo(path_);
  Status status;
  if (connected) status = takeover::CheckPeer(connected->get());
  if (!connected || !status) {
    const Error& error = connected ? status.error() : connected.error();
    if (error.code != Code::kNotFound) LOG_WARN("takeover", "{}", error.message);
    Arrived();
    return Over();
  }
  patience_.Start(kPatience);
  session_ = std::make_unique<takeover::TakingSession>(
      loop_, std::move(*connected), *this, takeover::SessionOptions{},
      takeover::TakingSession::Events{
          [this](const std::string& version) {
            LOG_INFO("takeover", "taking over from a process of version {}", version);
            session_->Ask(
                takeover::Sort::kListeners, [this] { Arrived(); }, [this] { AskForConnections(); });
          },
          [this](const std::string& why) {
            LOG_INFO("takeover", "the process before this one is gone: {}", why);
            counts_ = session_->counts();
            session_.reset();
            Arrived();
            Over();
          }});
}

void Predecessor::Import(takeover::Sort sort, takeover::ItemId item, const std::string& about,
                         takeover::Parcel parcel, std::function<void(Status)> done) {
  if (sort == takeover::Sort::kConnections) {
    auto moved = std::make_shared<takeover::Parcel>(std::move(parcel));
    Worker& worker = WorkerOf(item);
    worker.loop().Post([&worker, &environment = environment_, item, moved, done] {
      environment.post_main(
          [done, status = worker.mover().Import(item, std::move(*moved))] { done(status); });
    });
    return;
  }
  if (sort != takeover::Sort::kListeners) {
    return done(Fail(Code::kUnimplemented, "items of an unknown sort"));
  }
  const auto uid = DecodeAbout(about);
  if (!uid) return done(Fail(uid.error()));
  auto listeners = DecodeListeners(std::move(parcel));
  if (!listeners) return done(Fail(listeners.error()));
  stock_.Add(*uid, std::move(*listeners), std::move(done));
}

void Predecessor::Run(takeover::ItemId item) {
  Worker& worker = WorkerOf(item);
  worker.loop().Post([&worker, item] { worker.mover().Run(item); });
}

// A listener is in use here at once, so it is always a connection.
void Predecessor::Drop(takeover::ItemId item) {
  Worker& worker = WorkerOf(item);
  worker.loop().Post([&worker, item] { worker.mover().Drop(item); });
}

// What the old process had only begun with, or what could not stand still just then, is there in a
// second or third round.
void Predecessor::AskForConnections() {
  if (!session_) return;
  const takeover::SessionCounts now = session_->counts();
  const bool more = now.moved != before_.moved || now.withdrawn != before_.withdrawn;
  if (rounds_ == kRounds || (rounds_ > 0 && !more)) return Over();
  if (rounds_ == 0) patience_.Start(kPatienceWithConnections);
  const bool at_once = rounds_ == 0 || now.withdrawn == before_.withdrawn;
  ++rounds_;
  before_ = now;
  if (!at_once) return pause_.Start(kPauseOfRounds);
  Ask();
}

void Predecessor::Ask() {
  if (!session_) return;
  session_->Ask(takeover::Sort::kConnections, nullptr, [this] { AskForConnections(); });
}

void Predecessor::Arrived() {
  patience_.Stop();
  if (const auto arrived = std::exchange(events_.on_arrived, nullptr)) arrived();
}

void Predecessor::Over() {
  pause_.Stop();
  patience_.Stop();
  if (session_) {
    counts_ = session_->counts();
    session_->Finish();
  }
  if (const auto over = std::exchange(events_.on_over, nullptr)) over();
}

}  // namespace qanat::ztunnel
