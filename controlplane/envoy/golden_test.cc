// SPDX-License-Identifier: Apache-2.0
// The whole of what a waypoint is told, for a handful of worlds, against files that were read by a
// person. QANAT_UPDATE_GOLDENS=1 writes them anew (and fails, so that nobody does it unnoticed).
// That a real Envoy takes the same bytes is tested in tests/interop/envoy.
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "controlplane/envoy/test_world.h"
#include "controlplane/envoy/translate.h"
#include "envoy/config/cluster/v3/cluster.pb.h"
#include "envoy/config/endpoint/v3/endpoint.pb.h"
#include "envoy/config/listener/v3/listener.pb.h"
#include "envoy/config/route/v3/route.pb.h"
#include "envoy/service/discovery/v3/discovery.pb.h"

namespace qanat::controlplane {
namespace {

// Protobuf's text, with every block on one line that fits there: a third of the length.
std::string Compact(const std::string& text) {
  struct Block {
    std::string head;
    std::vector<std::string> lines;
    bool flat = true;  // every line in it is whole
  };
  std::vector<Block> open(1);
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    const size_t indent = line.find_first_not_of(' ');
    const std::string content = line.substr(indent == std::string::npos ? line.size() : indent);
    if (content.ends_with(" {")) {
      open.push_back({content, {}, true});
      continue;
    }
    if (content != "}") {
      open.back().lines.push_back(content);
      continue;
    }
    Block block = std::move(open.back());
    open.pop_back();
    std::string one_line = block.head;
    for (const std::string& inner : block.lines) one_line += " " + inner;
    one_line += " }";
    const size_t depth = 2 * (open.size() - 1);
    if (block.flat && one_line.size() + depth <= 110) {
      open.back().lines.push_back(one_line);
      continue;
    }
    open.back().flat = false;
    open.back().lines.push_back(block.head);
    for (const std::string& inner : block.lines) open.back().lines.push_back("  " + inner);
    open.back().lines.push_back("}");
  }
  std::string compact;
  for (const std::string& line : open.front().lines) compact += line + "\n";
  return compact;
}

// One resource as text, messages within Any spelled out.
template <typename T>
std::string Text(const Resource& resource) {
  envoy::service::discovery::v3::Resource wrapper;
  EXPECT_TRUE(wrapper.ParseFromString(*resource.wire)) << resource.name;
  EXPECT_EQ(wrapper.name(), resource.name);
  T message;
  EXPECT_TRUE(wrapper.resource().UnpackTo(&message)) << resource.name;
  google::protobuf::TextFormat::Printer printer;
  printer.SetExpandAny(true);
  printer.SetUseShortRepeatedPrimitives(true);
  // A type that our copy of the API lacks stays an Any in the text; no need to say so each time.
  const google::protobuf::LogSilencer silencer;
  std::string text;
  EXPECT_TRUE(printer.PrintToString(message, &text));
  return Compact(text);
}

// Listeners and clusters that are the same for every waypoint are shown where nothing else is.
bool Constant(const std::string& name) {
  return name == "connect_terminate" || name == "connect_originate";
}

std::string TextOf(const WaypointConfig& config, bool all) {
  std::string text;
  for (const auto& [type, resources] : config.resources) {
    for (const auto& [name, resource] : resources) {
      if (!all && (Constant(name) || (type == kClusterType && name == "main_internal"))) continue;
      text += "# " + type.substr(type.rfind('.') + 1) + " " + name + "\n";
      if (type == kListenerType) {
        text += Text<envoy::config::listener::v3::Listener>(resource);
      } else if (type == kRouteType) {
        text += Text<envoy::config::route::v3::RouteConfiguration>(resource);
      } else if (type == kClusterType) {
        text += Text<envoy::config::cluster::v3::Cluster>(resource);
      } else if (type == kEndpointType) {
        text += Text<envoy::config::endpoint::v3::ClusterLoadAssignment>(resource);
      } else {
        ADD_FAILURE() << "unexpected type " << type;
      }
      text += "\n";
    }
  }
  for (const Notice& notice : config.notices) {
    text += "# notice: " + notice.kind + " " + notice.object.ToString() + " (" +
            notice.location.ToString() + "): " + notice.reason + ": " + notice.message + "\n";
  }
  return text;
}

void Check(const std::string& golden, const World& world, const WaypointKey& waypoint,
           bool all = false) {
  const std::string path = "controlplane/envoy/testdata/" + golden + ".golden";
  const std::string got = TextOf(BuildWaypoint(world, waypoint), all);
  // The same again: nothing may depend on addresses or on the order of hashing.
  EXPECT_EQ(got, TextOf(BuildWaypoint(world, waypoint), all));
  if (std::getenv("QANAT_UPDATE_GOLDENS") != nullptr) {
    std::ofstream(std::string(QANAT_SOURCE_DIR "/") + path, std::ios::binary) << got;
    ADD_FAILURE() << path << " was written; read it before you commit it";
    return;
  }
  const std::string want = ReadTree(path);
  if (got == want) return;
  // The first lines that differ say more than two texts of a thousand lines.
  size_t at = 0;
  while (at < got.size() && at < want.size() && got[at] == want[at]) ++at;
  const size_t from = got.rfind('\n', at > 400 ? at - 400 : 0);
  const size_t begin = from == std::string::npos ? 0 : from;
  ADD_FAILURE() << path << " differs at byte " << at << ".\n--- is:\n"
                << got.substr(begin, 1200) << "\n--- wanted:\n"
                << want.substr(std::min(begin, want.size()), 1200);
}

TEST(EnvoyGolden, ShopBackend) { Check("shop-waypoint", *ShopWorld(), {"shop", "waypoint"}); }
TEST(EnvoyGolden, ShopPayments) {
  Check("shop-payments-waypoint", *ShopWorld(), {"shop", "payments-waypoint"});
}
TEST(EnvoyGolden, Empty) {
  Check("empty", *WorldOf({"controlplane/envoy/testdata/empty.yaml"}), {"app", "waypoint"}, true);
}
TEST(EnvoyGolden, Policies) { Check("policies", *SmallWorld("policies"), {"app", "waypoint"}); }
TEST(EnvoyGolden, VirtualService) {
  Check("virtual-service", *SmallWorld("virtual-service"), {"app", "waypoint"});
}
TEST(EnvoyGolden, HttpRoute) {
  Check("http-route", *SmallWorld("http-route"), {"app", "waypoint"});
}
TEST(EnvoyGolden, ConsistentHash) {
  Check("consistent-hash", *SmallWorld("consistent-hash"), {"app", "waypoint"});
}
TEST(EnvoyGolden, Traffic) { Check("traffic", *SmallWorld("traffic"), {"app", "waypoint"}); }

}  // namespace
}  // namespace qanat::controlplane
