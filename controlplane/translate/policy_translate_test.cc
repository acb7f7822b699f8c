// SPDX-License-Identifier: Apache-2.0
// Goldens of policies, checked by hand against the reference's derivation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/proto/authorization.pb.h"
#include "controlplane/translate/authorization.h"
#include "controlplane/translate/translate_fixture.h"

namespace qanat::controlplane {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::string Policy(const std::string& spec, const std::string& ns = "shop") {
  return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, "
         "namespace: " +
         ns + "}\nspec: " + spec + "\n";
}

void ExpectPolicy(const std::string& spec, const std::string& text) {
  SCOPED_TRACE(spec);
  ExpectGolden<istio::security::Authorization>(TranslateAuthorizations(*WorldOf(Policy(spec))),
                                               "shop/p", "name: 'p' namespace: 'shop' " + text);
}

TEST(Authorization, Scopes) {
  ExpectPolicy("{}", "scope: NAMESPACE");  // ALLOW without rules: denies all
  ExpectPolicy("{selector: {matchLabels: {app: a}}, action: DENY}",
               "scope: WORKLOAD_SELECTOR action: DENY");
  ExpectGolden<istio::security::Authorization>(
      TranslateAuthorizations(*WorldOf(Policy("{rules: [{}]}", "istio-system"))), "istio-system/p",
      "name: 'p' namespace: 'istio-system' scope: GLOBAL rules {}");
  EXPECT_THAT(
      TranslateAuthorizations(*WorldOf(Policy("{targetRefs: [{kind: Service, name: web}]}"))),
      IsEmpty());
  EXPECT_THAT(TranslateAuthorizations(*WorldOf(Policy("{action: AUDIT}"))), IsEmpty());
}

TEST(Authorization, EveryL4Field) {
  ExpectPolicy(R"({rules: [{
      from: [{source: {principals: [cluster.local/ns/a/sa/b, "*", "x*", "*y"], notPrincipals: [z],
                       namespaces: [n1], notNamespaces: ["n2*"]}},
             {source: {serviceAccounts: [sa1, other/sa2], notServiceAccounts: [o/s],
                       ipBlocks: [10.0.0.0/8, "fd00::1"], notIpBlocks: [10.1.2.3]}}],
      to: [{operation: {ports: ["80", "8080"], notPorts: ["443"]}}],
      when: [{key: source.ip, values: [1.2.3.0/24], notValues: [1.2.3.4]},
             {key: source.namespace, values: [m]}, {key: source.principal, notValues: ["*"]},
             {key: destination.ip, values: [10.0.0.1]}, {key: destination.port, values: ["9"]}]}]})",
               R"(scope: NAMESPACE rules {
      clauses {
        matches { namespaces { exact: "n1" } not_namespaces { prefix: "n2" }
                  principals { exact: "cluster.local/ns/a/sa/b" } principals { presence {} }
                  principals { prefix: "x" } principals { suffix: "y" } not_principals { exact: "z" } }
        matches { service_accounts { namespace: "shop" serviceAccount: "sa1" }
                  service_accounts { namespace: "other" serviceAccount: "sa2" }
                  not_service_accounts { namespace: "o" serviceAccount: "s" }
                  source_ips { address: "\n\000\000\000" length: 8 }
                  source_ips { address: "\375\000\000\000\000\000\000\000\000\000\000\000\000\000\000\001" length: 128 }
                  not_source_ips { address: "\n\001\002\003" length: 32 } } }
      clauses { matches { destination_ports: [80, 8080] not_destination_ports: 443 } }
      clauses { matches { source_ips { address: "\001\002\003\000" length: 24 }
                          not_source_ips { address: "\001\002\003\004" length: 32 } } }
      clauses { matches { namespaces { exact: "m" } } }
      clauses { matches { not_principals { presence {} } } }
      clauses { matches { destination_ips { address: "\n\000\000\001" length: 32 } } }
      clauses { matches { destination_ports: 9 } }
    })");
}

TEST(Authorization, HttpInAllowDropsTheRule) {
  ExpectPolicy(
      R"({rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {methods: [GET]}}]},
                           {from: [{source: {namespaces: [b]}}]}]})",
      "scope: NAMESPACE rules { clauses { matches { namespaces { exact: 'b' } } } }");
  ExpectPolicy("{rules: [{to: [{operation: {paths: [/x], ports: ['80']}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{when: [{key: 'request.headers[x]', values: [y]}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}", "scope: NAMESPACE");
}

TEST(Authorization, HttpInDenyKeepsTheRestAndNeverAnEmptyMatch) {
  ExpectPolicy(R"({action: DENY, rules: [{from: [{source: {namespaces: [a]}}],
                                          to: [{operation: {methods: [GET], ports: ["80"]}}]}]})",
               R"(scope: NAMESPACE action: DENY rules {
                 clauses { matches { namespaces { exact: 'a' } } }
                 clauses { matches { destination_ports: 80 } } })");
  // Nothing is left: a rule without clauses, which matches everything.
  ExpectPolicy("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
               "scope: NAMESPACE action: DENY rules {}");
  // One alternative of two is not enforceable here: the clause is true, not just the other half.
  ExpectPolicy(
      "{action: DENY, rules: [{to: [{operation: {paths: [/a]}}, {operation: {ports: ['80']}}]}]}",
      "scope: NAMESPACE action: DENY rules {}");
}

TEST(Authorization, NotUnderstoodFailsClosedInItsPart) {
  // ALLOW: a bad value matches nothing, its neighbours still do; a bad exclusion excludes all.
  ExpectPolicy("{rules: [{from: [{source: {ipBlocks: [300.1.1.1, 10.0.0.0/8]}}]}]}",
               R"(scope: NAMESPACE rules { clauses { matches {
                 source_ips { address: "\n\000\000\000" length: 8 } } } })");
  ExpectPolicy("{rules: [{from: [{source: {ipBlocks: [nonsense]}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: [{source: {namespaces: [a], notIpBlocks: [10.0.0.0/40]}}]}]}",
               "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: [{source: {namespace: [a]}}, {source: {namespaces: [b]}}]}]}",
               "scope: NAMESPACE rules { clauses { matches { namespaces { exact: 'b' } } } }");
  ExpectPolicy("{rules: [{to: [{operation: {ports: ['80-90']}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{to: [{operation: {ports: ['65616']}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: [{source: {principals: ['a*b']}}]}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{from: []}]}", "scope: NAMESPACE");
  ExpectPolicy("{rules: [{unless: x}]}", "scope: NAMESPACE");
  // DENY: a bad value stands for anything; a bad exclusion excludes nothing.
  ExpectPolicy(
      "{action: DENY, rules: [{from: [{source: {namespaces: [a], ipBlocks: [bad, 10.0.0.0/8]}}]}]}",
      "scope: NAMESPACE action: DENY rules { clauses { matches { namespaces { exact: 'a' } } } }");
  ExpectPolicy("{action: DENY, rules: [{from: [{source: {ipBlocks: [bad]}}]}]}",
               "scope: NAMESPACE action: DENY rules {}");
  ExpectPolicy("{action: DENY, rules: [{from: [{source: {notIpBlocks: [bad, 10.0.0.0/8]}}]}]}",
               R"(scope: NAMESPACE action: DENY rules { clauses { matches {
                 not_source_ips { address: "\n\000\000\000" length: 8 } } } })");
  ExpectPolicy(
      "{action: DENY, rules: [{from: [{source: {namespaces: [a], colour: [red]}}]}]}",
      "scope: NAMESPACE action: DENY rules { clauses { matches { namespaces { exact: 'a' } } } }");
  // At the top: everything selected is denied.
  ExpectPolicy("{acton: DENY}", "scope: NAMESPACE action: DENY rules {}");
  ExpectPolicy("{action: PERMIT, selector: {matchLabels: {a: b}}}",
               "scope: WORKLOAD_SELECTOR action: DENY rules {}");
  // CUSTOM asks an authorizer that a node proxy cannot reach.
  ExpectPolicy(
      "{action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {ports: ['80']}}]}]}",
      "scope: NAMESPACE action: DENY rules { clauses { matches { destination_ports: 80 } } }");
}

TEST(Authorization, Statuses) {
  EXPECT_EQ(StatusOf(Policy("{}"), "AuthorizationPolicy", "p"), "ZtunnelAccepted=True Accepted\n");
  EXPECT_EQ(StatusOf(Policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}"),
                     "AuthorizationPolicy", "p"),
            "ZtunnelAccepted=True UnsupportedValue\n");
  EXPECT_EQ(StatusOf(Policy("{action: AUDIT}"), "AuthorizationPolicy", "p"),
            "ZtunnelAccepted=False UnsupportedValue\n");
  EXPECT_EQ(StatusOf(Policy("{acton: DENY}"), "AuthorizationPolicy", "p"),
            "ZtunnelAccepted=False Invalid\n");
  EXPECT_EQ(
      StatusOf(Policy("{targetRefs: [{kind: Service, name: web}]}"), "AuthorizationPolicy", "p"),
      "WaypointAccepted=False TargetNotFound\n");
  const std::string bound =
      Policy("{targetRefs: [{kind: Service, name: web}]}") + "---\n" +
      WithWaypoint(std::string(kGateway) + kReady, "{istio.io/use-waypoint: w}");
  EXPECT_EQ(StatusOf(bound, "AuthorizationPolicy", "p"), "WaypointAccepted=True Accepted\n");
  const std::string unbound =
      Policy("{targetRefs: [{kind: Service, name: web}]}") + "---\n" + WithWaypoint("", "{}");
  EXPECT_EQ(StatusOf(unbound, "AuthorizationPolicy", "p"),
            "WaypointAccepted=False AncestorNotBound\n");
}

// --- PeerAuthentication -------------------------------------------------------------------------

std::string Peer(const std::string& ns, const std::string& name, const std::string& spec) {
  return "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: " +
         name + ", namespace: " + ns + "}\nspec: " + spec + "\n";
}

std::vector<std::string> Listed(const std::string& peers) {
  const auto world = WorldOf(std::string(kShop) + peers);
  return PoliciesOf(*world, *world->FindPod({"shop", "web-6d9f-abcde"}));
}

constexpr const char* kStrict = "istio-system/istio_converted_static_strict";

TEST(PeerAuthentication, MeshNamespaceWorkloadPrecedence) {
  EXPECT_THAT(Listed(""), IsEmpty());
  EXPECT_THAT(Listed(Peer("istio-system", "default", "{mtls: {mode: STRICT}}")),
              ElementsAre(kStrict));
  EXPECT_THAT(Listed(Peer("istio-system", "default", "{mtls: {mode: STRICT}}") +
                     Peer("shop", "d", "{mtls: {mode: PERMISSIVE}}")),
              IsEmpty());
  EXPECT_THAT(Listed(Peer("istio-system", "default", "{mtls: {mode: STRICT}}") +
                     Peer("shop", "d", "{mtls: {mode: UNSET}}")),
              ElementsAre(kStrict));
  EXPECT_THAT(
      Listed(Peer("shop", "d", "{mtls: {mode: STRICT}}") +
             Peer("shop", "w", "{selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}}")),
      IsEmpty());
  EXPECT_THAT(
      Listed(Peer("shop", "w", "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}")),
      ElementsAre(kStrict));
  EXPECT_THAT(
      Listed(Peer("shop", "w", "{selector: {matchLabels: {app: no}}, mtls: {mode: STRICT}}")),
      IsEmpty());
}

TEST(PeerAuthentication, StaticStrictIsSentOnceAnyExists) {
  EXPECT_THAT(TranslateAuthorizations(*WorldOf(kShop)), IsEmpty());
  ExpectGolden<istio::security::Authorization>(
      TranslateAuthorizations(*WorldOf(Peer("shop", "d", "{mtls: {mode: PERMISSIVE}}"))), kStrict,
      R"(name: "istio_converted_static_strict" namespace: "istio-system" scope: WORKLOAD_SELECTOR
         action: DENY rules { clauses { matches { not_principals { presence {} } } } })");
}

TEST(PeerAuthentication, PortLevels) {
  const std::string exempt =
      Peer("shop", "w",
           "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, "
           "portLevelMtls: {8080: {mode: PERMISSIVE}, 9000: {mode: DISABLE}, 7: "
           "{mode: STRICT}}}");
  EXPECT_THAT(Listed(exempt), ElementsAre("shop/converted_peer_authentication_w"));
  ExpectGolden<istio::security::Authorization>(
      TranslateAuthorizations(*WorldOf(exempt)), "shop/converted_peer_authentication_w",
      R"(name: "converted_peer_authentication_w" namespace: "shop" scope: WORKLOAD_SELECTOR action: DENY
         rules { clauses { matches { not_principals { presence {} } } }
                 clauses { matches { not_destination_ports: 8080 } }
                 clauses { matches { not_destination_ports: 9000 } } })");
  const std::string strict_port =
      Peer("shop", "w",
           "{selector: {matchLabels: {app: web}}, portLevelMtls: {8080: "
           "{mode: STRICT}, 9000: {mode: PERMISSIVE}}}");
  EXPECT_THAT(Listed(strict_port), ElementsAre("shop/converted_peer_authentication_w"));
  ExpectGolden<istio::security::Authorization>(
      TranslateAuthorizations(*WorldOf(strict_port)), "shop/converted_peer_authentication_w",
      R"(name: "converted_peer_authentication_w" namespace: "shop" scope: WORKLOAD_SELECTOR action: DENY
         rules { clauses { matches { not_principals { presence {} } } }
                 clauses { matches { destination_ports: 8080 } } })");
  // UNSET under a STRICT parent, with an exempt port: the strictness is merged in.
  EXPECT_THAT(Listed(Peer("istio-system", "default", "{mtls: {mode: STRICT}}") +
                     Peer("shop", "w",
                          "{selector: {matchLabels: {app: web}}, portLevelMtls: {8080: "
                          "{mode: DISABLE}}}")),
              ElementsAre("shop/converted_peer_authentication_w"));
  // All strict: just the static one.
  EXPECT_THAT(Listed(Peer("shop", "w",
                          "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, "
                          "portLevelMtls: {8080: {mode: STRICT}}}")),
              ElementsAre(kStrict));
}

}  // namespace
}  // namespace qanat::controlplane
