// SPDX-License-Identifier: Apache-2.0
#include "common/xds/delta_client.h"

#include <algorithm>

#include "common/base/log.h"
#include "common/xds/delta_codec.h"

namespace qanat::xds {
namespace {

constexpr std::string_view kMethod =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
constexpr size_t kMaxErrorText = 8192;

struct Type {
  std::string url;
  DeltaClient::Subscription mode;
  ResourceHandler* handler;
  HeldVersions versions;        // what we hold, by name
  std::set<std::string> names;  // wanted, by-name types
  std::set<std::string> asked;  // on this stream
  std::vector<std::string> resend;
  bool begun = false;  // the first request of this stream has been sent
  bool synced = false;
  bool current = false;  // answered on this stream
  bool touched = false;  // by the response that is arriving
};

}  // namespace

struct DeltaClient::Impl final : private grpc::CallEvents, private DeltaResponseParser::Sink {
  Impl(event::EventLoop& l, grpc::Channel& c, Node n, DeltaObserver o, grpc::Backoff::Policy policy)
      : loop(l),
        channel(c),
        node(std::move(n)),
        observer(std::move(o)),
        backoff(policy),
        parser(*this),
        reconnect(loop, [this] { Connect(); }),
        flush(loop, [this] { Flush(); }) {}

  Type* Find(std::string_view url) {
    for (Type& type : types) {
      if (type.url == url) return &type;
    }
    return nullptr;
  }
  const Type* Find(std::string_view url) const { return const_cast<Impl*>(this)->Find(url); }

  // ---- the stream ----
  void Connect() {
    grpc::CallOptions options;
    options.method = kMethod;
    call = channel.Start(std::move(options), this);
    for (Type& type : types) {
      type.begun = type.current = false;
      type.asked.clear();
      type.resend.clear();
    }
    Flush();
  }
  void Send(const DeltaRequest& request) {
    auto bytes = EncodeDeltaRequest(request);
    if (!bytes) {
      LOG_ERROR("xds", "{}", bytes.error().message);
      return;
    }
    call->Send(*bytes);
  }
  // Sends what is wanted and not yet asked for, one request per type.
  void Flush() {
    if (!call) return;
    for (Type& type : types) {
      if (type.mode == Subscription::kOnDemand && !std::exchange(type.begun, true)) {
        // Subscribing to everything and to nothing of it: "by name" with no name yet (stock).
        DeltaRequest first;
        first.type_url = type.url;
        first.node = &node;
        first.subscribe = first.unsubscribe = {"*"};
        first.initial_versions = &type.versions;
        Send(first);
      }
      DeltaRequest request;
      request.type_url = type.url;
      if (type.mode != Subscription::kWildcard) {
        std::set_difference(type.names.begin(), type.names.end(), type.asked.begin(),
                            type.asked.end(), std::back_inserter(request.subscribe));
        std::set_difference(type.asked.begin(), type.asked.end(), type.names.begin(),
                            type.names.end(), std::back_inserter(request.unsubscribe));
        type.asked = type.names;
      }
      for (std::string& name : std::exchange(type.resend, {})) {
        request.subscribe.push_back(std::move(name));
      }
      if (!type.begun) {
        // By name with no name would mean "everything".
        if (type.mode == Subscription::kByName && request.subscribe.empty()) continue;
        type.begun = true;
        request.node = &node;
        request.initial_versions = &type.versions;
      } else if (request.subscribe.empty() && request.unsubscribe.empty()) {
        continue;
      }
      Send(request);
    }
  }
  void FlushSoon() {
    if (call && !flush.armed()) flush.Start({});
  }

  // ---- grpc::CallEvents ----
  void OnMessageBegin(size_t size) override {
    parser.Begin();
    in_message = true;
    message_bytes = size;
    malformed = false;
    errors.clear();
    early_removed.clear();
  }
  void OnMessageData(std::string_view piece) override {
    if (!malformed && !parser.Feed(piece)) malformed = true;
  }
  void OnMessageEnd() override {
    if (!malformed && !parser.Finish()) malformed = true;
    in_message = false;
    if (malformed) {
      LOG_ERROR("xds", "malformed response: {}; reconnecting", parser.error());
      EndBatch();
      return Restart("malformed response: " + parser.error());
    }
    Complete();
  }
  void Complete() {
    backoff.Reset();
    last_activity = loop.now();
    const bool first = !std::exchange(answered, true);
    if (first && observer.on_connected) observer.on_connected();
    Type* type = Find(parser.type_url());
    if (observer.on_message) observer.on_message(parser.type_url(), message_bytes);
    if (type == nullptr) {
      LOG_WARN("xds", "response of a type that was not asked for: {}", parser.type_url());
      EndBatch();
      return;
    }
    type->touched = true;
    for (const std::string& name : std::exchange(early_removed, {})) Remove(*type, name);
    EndBatch();
    type->synced = type->current = true;
    CheckSynced();
    DeltaRequest ack;
    ack.type_url = type->url;
    ack.nonce = parser.nonce();
    if (!errors.empty()) {
      if (errors.size() > kMaxErrorText) errors.resize(kMaxErrorText);
      LOG_WARN("xds", "rejected resources of {}: {}", type->url, errors);
      if (observer.on_nack) observer.on_nack(type->url, errors);
      ack.error = errors;
    }
    if (call) held_acks.push_back(std::move(ack));
    Acknowledge();
  }
  void Acknowledge() {
    if (observer.may_acknowledge && !observer.may_acknowledge()) return;
    for (const DeltaRequest& ack : std::exchange(held_acks, {})) {
      if (call) Send(ack);
    }
  }
  void CheckSynced() {
    if (all_synced) return;
    all_synced = std::all_of(types.begin(), types.end(), [](const Type& t) {
      return t.synced || t.mode != Subscription::kWildcard;
    });
    if (all_synced && observer.on_synced) observer.on_synced();
  }
  void EndBatch() {
    for (Type& type : types) {
      if (std::exchange(type.touched, false)) type.handler->OnBatchEnd();
    }
  }
  void OnClosed(const grpc::CallStatus& status) override { Ended(status); }
  void Ended(const grpc::CallStatus& status) {
    // The call may be on the stack; it allows to be destroyed there.
    call.reset();
    held_acks.clear();
    if (std::exchange(in_message, false)) EndBatch();
    const bool answered_once = std::exchange(answered, false);
    last_activity.reset();
    last_error = status.ok() ? "the server ended the stream" : status.ToString();
    const bool benign = status.code == grpc::StatusCode::kUnknown ||
                        status.code == grpc::StatusCode::kCancelled ||
                        status.code == grpc::StatusCode::kDeadlineExceeded ||
                        status.message.find("transport is closing") != std::string::npos ||
                        status.message.find("received prior goaway") != std::string::npos;
    std::string_view reason = "Error";
    if (status.ok()) {
      reason = "Complete";
    } else if (status.connection_error) {
      reason = "ConnectionError";
    } else if (benign) {
      reason = "Reconnect";
    }
    // A stream that worked is begun anew at once; one that never answered backs off whatever the
    // code, so that no server is hammered.
    std::chrono::milliseconds delay = backoff.Next();
    if (answered_once && status.ok()) delay = {};
    if (answered_once || status.ok()) {
      LOG_INFO("xds", "stream ended ({}); again in {} ms", last_error, delay.count());
    } else {
      LOG_WARN("xds", "stream to {} failed ({}); {}again in {} ms", channel.options().endpoint,
               last_error,
               status.code == grpc::StatusCode::kUnauthenticated
                   ? "what is known stays in force; the token is read from its file and tried "
                   : "",
               delay.count());
    }
    if (observer.on_terminated) observer.on_terminated(reason);
    reconnect.Start(delay);
  }
  void Restart(std::string why) { Ended({grpc::StatusCode::kInternal, std::move(why), false}); }

  // ---- DeltaResponseParser::Sink ----
  void OnResource(const ResourceView& r) override {
    Type* type = Find(r.type_url);
    const KeptText name = type == nullptr ? KeptText(r.name) : type->versions.NameOf(r.name);
    Status status;
    if (!r.has_resource) {
      status = Fail(Code::kInvalidArgument, "no resource in it");
    } else if (type == nullptr) {
      status = Fail(Code::kInvalidArgument, "unexpected type " + std::string(r.type_url));
    } else if (r.name.empty()) {
      status = Fail(Code::kInvalidArgument, "no name");
    } else if (type->mode == Subscription::kByName && !type->names.contains(std::string(r.name))) {
      return;  // asked for once and dropped since: neither wanted nor wrong
    } else {
      status = type->handler->OnResource(name, r.version, r.value);
      type->touched = true;
    }
    if (status) {
      type->versions.Set(name, r.version);
      return;
    }
    if (errors.size() > kMaxErrorText) return;
    if (!errors.empty()) errors += "; ";
    errors.append(r.name).append(": ").append(status.error().message);
  }
  // Serializers write fields by number, so the type (4) precedes removals (6); protobuf does not
  // promise it, so removals from before the type wait for it.
  void OnRemoved(std::string_view name) override {
    Type* type = Find(parser.type_url());
    if (type == nullptr) {
      early_removed.emplace_back(name);
      return;
    }
    Remove(*type, name);
  }
  void Remove(Type& type, std::string_view name) {
    type.versions.Erase(name);
    if (type.mode == Subscription::kByName && !type.names.contains(std::string(name))) return;
    type.touched = true;
    type.handler->OnRemoved(name);
  }

  event::EventLoop& loop;
  grpc::Channel& channel;
  const Node node;
  const DeltaObserver observer;
  grpc::Backoff backoff;
  DeltaResponseParser parser;
  event::Timer reconnect;
  event::Timer flush;
  std::vector<Type> types;
  grpc::CallPtr call;
  bool in_message = false;
  bool malformed = false;
  size_t message_bytes = 0;
  std::string errors;
  std::vector<std::string> early_removed;
  std::vector<DeltaRequest> held_acks;
  bool answered = false;
  bool all_synced = false;
  std::optional<event::TimePoint> last_activity;
  std::string last_error;
};

DeltaClient::DeltaClient(event::EventLoop& loop, grpc::Channel& channel, Node node,
                         DeltaObserver observer, grpc::Backoff::Policy backoff)
    : impl_(std::make_unique<Impl>(loop, channel, std::move(node), std::move(observer), backoff)) {}
DeltaClient::~DeltaClient() = default;

void DeltaClient::AddType(std::string_view type_url, Subscription mode, ResourceHandler* handler,
                          Versions held) {
  Type type;
  type.url = type_url;
  type.mode = mode;
  type.handler = handler;
  for (const auto& [name, version] : held) type.versions.Set(name, version);
  impl_->types.push_back(std::move(type));
}

void DeltaClient::Start() { impl_->Connect(); }
void DeltaClient::Acknowledge() { impl_->Acknowledge(); }

void DeltaClient::SetNames(std::string_view type_url, const std::set<std::string>& names) {
  Type* type = impl_->Find(type_url);
  if (type == nullptr || type->names == names) return;
  type->names = names;
  type->versions.EraseIf([&](std::string_view name) { return !names.contains(std::string(name)); });
  impl_->FlushSoon();
}

void DeltaClient::Subscribe(std::string_view type_url, const std::string& name) {
  Type* type = impl_->Find(type_url);
  if (type != nullptr && type->names.insert(name).second) impl_->FlushSoon();
}

void DeltaClient::Unsubscribe(std::string_view type_url, const std::string& name) {
  Type* type = impl_->Find(type_url);
  if (type == nullptr || type->names.erase(name) == 0) return;
  type->versions.Erase(name);
  impl_->FlushSoon();
}

void DeltaClient::Resend(std::string_view type_url, const std::string& name) {
  Type* type = impl_->Find(type_url);
  if (type == nullptr) return;
  type->resend.push_back(name);
  impl_->FlushSoon();
}

bool DeltaClient::connected() const { return impl_->answered; }
bool DeltaClient::current() const {
  return impl_->call && std::all_of(impl_->types.begin(), impl_->types.end(), [](const Type& t) {
           return t.current || t.mode != Subscription::kWildcard;
         });
}
bool DeltaClient::synced() const { return impl_->all_synced; }
bool DeltaClient::synced(std::string_view type_url) const {
  const Type* type = impl_->Find(type_url);
  return type != nullptr && type->synced;
}
std::optional<event::TimePoint> DeltaClient::last_activity() const { return impl_->last_activity; }
size_t DeltaClient::resource_count(std::string_view type_url) const {
  const Type* type = impl_->Find(type_url);
  return type == nullptr ? 0 : type->versions.size();
}
std::string DeltaClient::last_error() const { return impl_->last_error; }

}  // namespace qanat::xds
