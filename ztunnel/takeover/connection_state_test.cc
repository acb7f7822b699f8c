// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/connection_state.h"

#include <fcntl.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "common/route/outbound.h"
#include "common/takeover/fields.h"
#include "common/takeover/fields_for_test.h"
#include "ztunnel/mesh_for_test.h"
#include "ztunnel/route/described.h"

namespace qanat::ztunnel {
namespace {

using testing::HasSubstr;

Fd Null() { return Fd(open("/dev/null", O_RDONLY | O_CLOEXEC)); }

SavedConnection Whole() {
  SavedConnection saved;
  saved.pod_uid = "uid-1";
  saved.netns_cookie = 4711;
  saved.age = std::chrono::milliseconds(123456);
  saved.flow.source = At("10.0.0.1:40000");
  saved.flow.destination = At("[fd00::1]:80");
  saved.flow.source_workload = "Kubernetes//Pod/shop/front";
  saved.flow.service = "shop/backend.example";
  saved.flow.source_identity = "spiffe://cluster.local/ns/shop/sa/front";
  saved.flow.mutual_tls = true;
  saved.flow.tries = 2;
  saved.flow.tunnel = At("10.0.0.250:35000");
  saved.outbound = SavedConnection::Outbound{At("10.96.0.1:80"),
                                             true,
                                             static_cast<uint64_t>(route::Route::Kind::kHbone),
                                             true,
                                             true,
                                             "uid-2",
                                             "Kubernetes//Pod/shop/back",
                                             At("10.0.0.2:8080")};
  return saved;
}

takeover::Parcel Encode(const SavedConnection& saved, const RelayState::Way& up = {},
                        const RelayState::Way& down = {}) {
  return EncodeConnection(saved, up, down, Null(), Null());
}

// The same flow in the next process, which knows that mesh.
Flow TakenOver(const Flow& from, TestMesh& mesh) {
  SavedConnection saved = Whole();
  saved.flow = SaveFlow(from);
  auto out = DecodeConnection(Encode(saved));
  EXPECT_TRUE(out.has_value()) << (out ? "" : out.error().message);
  Flow to;
  to.reporter = from.reporter;    // the kind of the connection says it
  to.tunnelled = from.tunnelled;  // the tunnel
  if (out) RestoreFlow(out->saved.flow, *mesh.Snapshot(), to);
  return to;
}

// One through the gateway of another network, of which the far end told who it is.
Flow Far() {
  Flow flow;
  flow.source = At("10.0.0.1:40000");
  flow.destination = At("10.0.0.9:15008");
  flow.target = At("10.96.0.1:80");
  flow.tunnelled = flow.mutual_tls = true;
  flow.destination_identity = model::Identity{"cluster.local", "shop", "back"};
  flow.destination_workload =
      Described("net-2",
                "k8s.cluster.name=far,k8s.namespace.name=shop,k8s.deployment.name=back,"
                "service.name=back-app,service.version=v2,cloud.region=r1,"
                "cloud.availability_zone=z1");
  return flow;
}

// Fields of one that has both ends described, and the place of a field among them.
takeover::RawFields DescribedFields() {
  SavedConnection saved = Whole();
  saved.flow = SaveFlow(Far());
  saved.flow.source_described = Baggage{.ns = "shop", .workload = "front"};
  return takeover::TakeApart(Encode(saved).state);
}
std::string& FieldOf(takeover::RawFields& fields, uint16_t tag) {
  return std::find_if(fields.begin(), fields.end(), [tag](auto& f) { return f.first == tag; })
      ->second;
}

TEST(ConnectionState, ThereAndBack) {
  RelayState::Way up;
  up.pending = {0, 1, 2, 255};
  up.bytes = uint64_t{1} << 40;
  up.quick_ack = true;
  RelayState::Way down;
  down.eof = down.done = true;
  const SavedConnection saved = Whole();
  auto out = DecodeConnection(Encode(saved, up, down));
  ASSERT_TRUE(out.has_value()) << out.error().message;
  EXPECT_EQ(out->saved.pod_uid, saved.pod_uid);
  EXPECT_EQ(out->saved.netns_cookie, 4711u);
  EXPECT_EQ(out->saved.age, saved.age);
  EXPECT_EQ(out->saved.flow.source, saved.flow.source);
  EXPECT_EQ(out->saved.flow.destination, saved.flow.destination);
  EXPECT_FALSE(out->saved.flow.target.is_set());
  EXPECT_EQ(out->saved.flow.source_workload, saved.flow.source_workload);
  EXPECT_EQ(out->saved.flow.service, saved.flow.service);
  EXPECT_EQ(out->saved.flow.source_identity, saved.flow.source_identity);
  EXPECT_EQ(out->saved.flow.destination_identity, "");
  EXPECT_TRUE(out->saved.flow.mutual_tls);
  EXPECT_EQ(out->saved.flow.tries, 2u);
  EXPECT_EQ(out->saved.flow.tunnel, At("10.0.0.250:35000"));
  ASSERT_TRUE(out->saved.outbound.has_value());
  EXPECT_EQ(out->saved.outbound->original, At("10.96.0.1:80"));
  EXPECT_TRUE(out->saved.outbound->by_nat && out->saved.outbound->via_waypoint);
  EXPECT_TRUE(out->saved.outbound->one_pass);
  EXPECT_EQ(out->saved.outbound->destination_pod, "uid-2");
  EXPECT_EQ(out->saved.outbound->target, At("10.0.0.2:8080"));
  EXPECT_EQ(out->relay.up.pending, up.pending);
  EXPECT_EQ(out->relay.up.bytes, up.bytes);
  EXPECT_TRUE(out->relay.up.quick_ack);
  EXPECT_TRUE(out->relay.down.eof && out->relay.down.done);
  EXPECT_TRUE(out->relay.downstream.valid() && out->relay.upstream.valid());
  SavedConnection inbound = Whole();
  inbound.outbound.reset();
  EXPECT_FALSE(DecodeConnection(Encode(inbound))->saved.outbound.has_value());
}

TEST(ConnectionState, WhoIsOnlyDescribedIsCalledTheSameAfterwards) {
  TestMesh mesh, nobody;
  mesh.Put(TestMesh::MakePod("front", "10.0.0.1"));
  Flow flow = Far();
  flow.source_workload = mesh.Snapshot()->WorkloadByUid("Kubernetes//Pod/shop/front");
  ASSERT_NE(flow.source_workload, nullptr);
  Flow incoming = Far();  // the other way round: a far source, by its gateway
  incoming.reporter = Reporter::kDestination;
  std::swap(incoming.source_workload, incoming.destination_workload);
  std::swap(incoming.source_identity, incoming.destination_identity);
  Flow proven;  // of which a certificate said the namespace, and nobody more
  model::Workload somebody;
  somebody.ns = "shop";
  proven.source_workload = model::WorkloadPtr(std::move(somebody));
  for (const Flow& from : {flow, incoming, proven}) {
    const Flow to = TakenOver(from, mesh);
    EXPECT_EQ(FlowLabels(to, model::Reason::kNone), FlowLabels(from, model::Reason::kNone));
    EXPECT_EQ(AccessLine(to, {}, log::Format::kText, "T"),
              AccessLine(from, {}, log::Format::kText, "T"));
  }
  const Flow to = TakenOver(flow, mesh);
  EXPECT_THAT(AccessLine(to, {}, log::Format::kText, "T"),
              HasSubstr("dst.workload=\"back\" dst.namespace=\"shop\" "
                        "dst.identity=\"spiffe://cluster.local/ns/shop/sa/back\" "
                        "dst.cluster=\"far\""));
  EXPECT_THAT(FlowLabels(to, model::Reason::kNone),
              testing::IsSupersetOf({"back-app", "v2", "z1"}));
  // A name, and nothing to be judged by; who has a uid is looked up by it.
  EXPECT_TRUE(to.destination_workload->uid.empty());
  EXPECT_TRUE(to.destination_workload->service_account.empty());
  EXPECT_TRUE(to.destination_workload->addresses.empty());
  EXPECT_EQ(to.source_workload->uid, flow.source_workload->uid);
  EXPECT_EQ(TakenOver(flow, nobody).source_workload, nullptr);
  // What the next process would refuse is left out.
  model::Workload endless;
  endless.ns = std::string(257, 'n');
  flow.destination_workload = model::WorkloadPtr(std::move(endless));
  EXPECT_EQ(TakenOver(flow, mesh).destination_workload, nullptr);
}

TEST(ConnectionState, ADescriptionThatCannotBeIsRefused) {
  const auto error = [](const takeover::RawFields& fields) {
    takeover::Parcel parcel{WipedString(takeover::PutTogether(fields)), {}};
    parcel.fds.push_back(Null());
    parcel.fds.push_back(Null());
    auto out = DecodeConnection(std::move(parcel));
    return out ? std::string("taken") : out.error().message;
  };
  EXPECT_EQ(error(DescribedFields()), "taken");
  for (const uint16_t tag : {18, 19}) {
    const auto with = [&](const std::function<void(std::string&)>& change) {
      takeover::RawFields fields = DescribedFields();
      change(FieldOf(fields, tag));
      return error(fields);
    };
    EXPECT_THAT(with([](std::string& d) { d.pop_back(); }), HasSubstr("cut off"));
    EXPECT_THAT(with([](std::string& d) { d += "?"; }), HasSubstr("cut off"));
    EXPECT_THAT(with([](std::string& d) {
                  d = takeover::PutTogether({{uint16_t{3}, std::string(257, 'c')}});
                }),
                HasSubstr("a description"));
    EXPECT_EQ(with([](std::string& d) {
                d = takeover::PutTogether({{uint16_t{3}, std::string(256, 'c')}});
              }),
              "taken");
    // Of a later version: besides, or so that it matters.
    EXPECT_EQ(with([](std::string& d) { d += takeover::PutTogether({{uint16_t{99}, "more"}}); }),
              "taken");
    EXPECT_THAT(with([](std::string& d) {
                  d += takeover::PutTogether({{uint16_t{99 | takeover::kCritical}, "more"}});
                }),
                HasSubstr("field 99"));
    // Who is announced is not described.
    takeover::RawFields both = DescribedFields();
    FieldOf(both, tag == 18 ? 7 : 8) = "Kubernetes//Pod/shop/back";
    EXPECT_THAT(error(both), HasSubstr("a description"));
  }
}

TEST(ConnectionState, WhatCannotBeIsRefused) {
  const auto error = [](takeover::Parcel parcel) {
    auto out = DecodeConnection(std::move(parcel));
    return out ? std::string("taken") : out.error().message;
  };
  EXPECT_EQ(error(Encode(Whole())), "taken");
  takeover::Parcel one_socket = Encode(Whole());
  one_socket.fds.pop_back();
  EXPECT_THAT(error(std::move(one_socket)), HasSubstr("two sockets"));
  takeover::Parcel newer = Encode(Whole());
  takeover::FieldWriter writer;
  writer.Bytes(99 | takeover::kCritical, "matters");
  newer.state += writer.Take();
  EXPECT_THAT(error(std::move(newer)), HasSubstr("field 99"));
  RelayState::Way told_too_early;
  told_too_early.eof = told_too_early.done = true;
  told_too_early.pending = {1};
  EXPECT_THAT(error(Encode(Whole(), told_too_early)), HasSubstr("cannot be"));
  SavedConnection no_pod = Whole();
  no_pod.pod_uid.clear();
  EXPECT_THAT(error(Encode(no_pod)), HasSubstr("no pod"));
  SavedConnection strange = Whole();
  strange.outbound->kind = 77;
  EXPECT_THAT(error(Encode(strange)), HasSubstr("a route"));
  SavedConnection nowhere = Whole();
  nowhere.outbound->destination_pod.clear();
  EXPECT_THAT(error(Encode(nowhere)), HasSubstr("a route"));
  const std::string all(Encode(Whole()).state);
  for (size_t cut = 0; cut < all.size(); ++cut) {
    takeover::Parcel parcel{all.substr(0, cut), {}};
    parcel.fds.push_back(Null());
    parcel.fds.push_back(Null());
    EXPECT_NE(error(std::move(parcel)), "taken") << cut;
  }
}

TEST(ConnectionState, OfAnotherVersion) {
  const auto taken = [](std::string state) {
    takeover::Parcel parcel{WipedString(state), {}};
    parcel.fds.push_back(Null());
    parcel.fds.push_back(Null());
    return DecodeConnection(std::move(parcel)).has_value();
  };
  const std::string all(Encode(Whole()).state);
  for (const auto& [tag, less] : takeover::Crippled(all)) {
    // Without kOutbound it is one to a pod, which is another matter (mover.cc).
    EXPECT_EQ(taken(less), tag == 14) << "without field " << tag;
  }
  for (const uint16_t nested : {14, 15, 16}) {
    takeover::RawFields fields = takeover::TakeApart(all);
    for (auto& [tag, bytes] : fields) {
      if ((tag & ~takeover::kCritical) != nested) continue;
      for (const auto& [own, less] : takeover::Crippled(bytes)) {
        takeover::RawFields other = fields;
        for (auto& [t, b] : other) {
          if (t == tag) b = less;
        }
        // Of a route in one pass the target is not needed to go on.
        EXPECT_EQ(taken(takeover::PutTogether(other)), nested == 14 && own == 8)
            << nested << " without field " << own;
      }
    }
  }
  // Not critical: what an older one does not say, and what a newer one says besides.
  takeover::RawFields fields = takeover::TakeApart(all);
  std::erase_if(fields, [](const auto& f) { return (f.first & takeover::kCritical) == 0; });
  fields.emplace_back(uint16_t{99}, "besides");
  EXPECT_TRUE(taken(takeover::PutTogether(fields)));
}

// A version from before descriptions knew the tags up to 17.
TEST(ConnectionState, WhoKnowsNoDescriptionsPassesThemOver) {
  std::vector<uint16_t> known(17);
  std::iota(known.begin(), known.end(), uint16_t{1});
  const std::string all = takeover::PutTogether(DescribedFields());
  const auto fields = takeover::Fields::Parse(all, known);
  ASSERT_TRUE(fields.has_value()) << fields.error().message;
  EXPECT_FALSE(fields->Has(18) || fields->Has(19));
  EXPECT_TRUE(fields->Has(8));
  EXPECT_EQ(fields->Bytes(8), "");  // and so it reports nobody, as it always did
}

}  // namespace
}  // namespace qanat::ztunnel
