// SPDX-License-Identifier: Apache-2.0
#include "agent/mesh/mesh_options.h"

#include <gmock/gmock.h>

#include <map>

namespace qanat::agent {
namespace {

using ::testing::HasSubstr;

Result<MeshOptions> Read(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> entries;
  entries.reserve(variables.size());
  for (const auto& [name, value] : variables) entries.push_back(name + "=" + value);
  return ReadMeshOptions(
      [&](const char* name) -> const char* {
        const auto it = variables.find(name);
        return it == variables.end() ? nullptr : it->second.c_str();
      },
      std::move(entries));
}

TEST(MeshOptionsTest, WithoutAnAddressThereIsNoMesh) {
  EXPECT_FALSE(Read({})->enabled()) << "also not the stock proxy's default";
  EXPECT_FALSE(Read({{"XDS_ADDRESS", ""}, {"POD_NAME", "a"}})->enabled());
}

TEST(MeshOptionsTest, TheProxysVariables) {
  const auto options = Read({{"XDS_ADDRESS", "istiod.istio-system.svc:15012"},
                             {"XDS_ROOT_CA", "/roots.pem"},
                             {"ALT_XDS_HOSTNAME", "istiod"},
                             {"AUTH_TOKEN", "/token"},
                             {"CLUSTER_ID", "c1"},
                             {"NETWORK", "n1"},
                             {"INSTANCE_IP", "10.0.0.1"},
                             {"POD_NAME", "qanat-agent-x"},
                             {"POD_NAMESPACE", "qanat-system"},
                             {"NODE_NAME", "node-a"},
                             {"XDS_HEADER_X_TENANT", "t"},
                             {"ISTIO_META_REVISION", "r"}});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_TRUE(options->enabled());
  EXPECT_EQ(options->control_plane.xds_address, "https://istiod.istio-system.svc:15012");
  EXPECT_EQ(options->control_plane.xds_root_ca, "/roots.pem");
  EXPECT_EQ(options->control_plane.alt_xds_hostname, "istiod");
  EXPECT_EQ(options->control_plane.auth_token, "/token");
  ASSERT_EQ(options->control_plane.xds_headers.size(), 1u);
  EXPECT_EQ(options->node.cluster_id, "c1");
  EXPECT_EQ(options->node.network, "n1");
  EXPECT_EQ(options->node.instance_ip, "10.0.0.1");
  EXPECT_EQ(options->node.pod_name, "qanat-agent-x");
  EXPECT_EQ(options->node.pod_namespace, "qanat-system");
  EXPECT_EQ(options->node.node_name, "node-a");
  EXPECT_EQ(options->environment.size(), 12u);
}

TEST(MeshOptionsTest, AServiceAsKubernetesTellsIt) {
  EXPECT_EQ(Read({{"XDS_ADDRESS", "tcp://10.96.0.5:15012"}})->control_plane.xds_address,
            "https://10.96.0.5:15012");
  EXPECT_EQ(Read({{"XDS_ADDRESS", "tcp://[fd96::5]:15012"}})->control_plane.xds_address,
            "https://[fd96::5]:15012");
  const auto unknown = Read({{"XDS_ADDRESS", "$(QANAT_CONTROLPLANE_PORT_15012_TCP)"}});
  ASSERT_FALSE(unknown);
  EXPECT_THAT(unknown.error().message, HasSubstr("did not exist"));
}

}  // namespace
}  // namespace qanat::agent
