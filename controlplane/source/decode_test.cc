// SPDX-License-Identifier: Apache-2.0
#include "controlplane/source/decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "controlplane/source/store.h"

namespace qanat::controlplane {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::string Lines(const std::vector<Issue>& issues) {
  std::string out;
  for (const Issue& i : issues) {
    out += std::to_string(i.line) + "|" + (i.severity == Issue::Severity::kError ? "E" : "W") +
           "|" + i.object + "|" + i.message + "|" + i.remedy + "\n";
  }
  return out;
}

TEST(Yaml, DuplicateKeyNamesBothLines) {
  const YamlFile file = ParseYaml("a: 1\nb: 2\na: 3\n");
  ASSERT_THAT(file.errors, SizeIs(1));
  EXPECT_EQ(file.errors[0].line, 3);
  EXPECT_EQ(file.errors[0].message, "duplicate key \"a\": first given in line 1");
}

TEST(Yaml, TabsNulAndTemplates) {
  const YamlFile tab = ParseYaml("x:\n\t- a\n");
  ASSERT_THAT(tab.errors, SizeIs(1));
  EXPECT_EQ(tab.errors[0].line, 2);
  EXPECT_THAT(tab.errors[0].remedy, HasSubstr("spaces"));
  const YamlFile nul = ParseYaml(std::string_view("a: 1\nb: \0\n", 10));
  ASSERT_THAT(nul.errors, SizeIs(1));
  EXPECT_EQ(nul.errors[0].line, 2);
  EXPECT_THAT(ParseYaml("a: {{ .Values.x }}\n").errors, SizeIs(1));
}

TEST(Yaml, AliasesAndMergesExpandWithinBounds) {
  const YamlFile file = ParseYaml("base: &b {k: v, l: w}\nc:\n  <<: *b\n  l: own\n");
  ASSERT_THAT(file.errors, IsEmpty());
  const YamlNode* c = file.documents[0].Find("c");
  EXPECT_EQ(c->Find("k")->text, "v");
  EXPECT_EQ(c->Find("l")->text, "own");
  // A billion laughs: nine levels of ten.
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 10; ++i) {
    const std::string prev = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + prev;
    for (int k = 0; k < 9; ++k) bomb += "," + prev;
    bomb += "]\n";
  }
  EXPECT_THAT(ParseYaml(bomb).errors, SizeIs(1));
  EXPECT_THAT(ParseYaml(std::string(5000, '[')).errors, testing::Not(IsEmpty()));
}

TEST(Decode, PortOutOfRangeNamesFileLineObjectAndRemedy) {
  const DecodedFile file = DecodeFile("shop.yaml",
                                      "apiVersion: v1\n"
                                      "kind: Service\n"
                                      "metadata: {name: web, namespace: shop}\n"
                                      "spec:\n"
                                      "  ports:\n"
                                      "  - port: 80\n"
                                      "  - port: 70000\n");
  ASSERT_TRUE(file.parsed);
  ASSERT_THAT(file.objects, SizeIs(1));
  EXPECT_TRUE(file.objects[0].failed);
  ASSERT_THAT(file.objects[0].issues, SizeIs(1));
  const Issue& issue = file.objects[0].issues[0];
  EXPECT_EQ(issue.file, "shop.yaml");
  EXPECT_EQ(issue.line, 7);
  EXPECT_EQ(issue.object, "Service shop/web");
  EXPECT_EQ(issue.message, "spec.ports.port: 70000 is out of range");
  EXPECT_EQ(issue.remedy, "use a number from 1 to 65535");
}

TEST(Decode, UnknownKindsAndVersionsSayWhatToUse) {
  const DecodedFile file = DecodeFile(
      "x.yaml",
      "apiVersion: networking.istio.io/v1\nkind: VirtualServise\nmetadata: {name: a}\n---\n"
      "apiVersion: networking.istio.io/v2\nkind: VirtualService\nmetadata: {name: a}\n---\n"
      "apiVersion: security.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n");
  EXPECT_THAT(file.objects, IsEmpty());
  EXPECT_EQ(Lines(file.issues),
            "1|W|VirtualServise a|VirtualServise of networking.istio.io/v1 is not known here: "
            "ignored|remove it, or check apiVersion and kind\n"
            "5|W|VirtualService a|VirtualService has no version v2 here: ignored|use apiVersion: "
            "networking.istio.io/v1\n"
            "9|W|DestinationRule a|DestinationRule of security.istio.io/v1 is not known here: "
            "ignored|did you mean apiVersion: networking.istio.io/v1?\n");
}

TEST(Decode, EveryServedVersion) {
  for (const char* version : {"v1", "v1beta1", "v1alpha3"}) {
    const DecodedFile file =
        DecodeFile("x", std::string("apiVersion: networking.istio.io/") + version +
                            "\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: b}\n");
    EXPECT_THAT(file.objects, SizeIs(1)) << version;
  }
  for (const char* version : {"v1", "v1beta1"}) {
    const DecodedFile file =
        DecodeFile("x", std::string("apiVersion: security.istio.io/") + version +
                            "\nkind: AuthorizationPolicy\nmetadata: {name: a}\n");
    EXPECT_THAT(file.objects, SizeIs(1)) << version;
  }
}

TEST(Decode, UnknownFieldElsewhereIsAWarningWithASuggestion) {
  const DecodedFile file = DecodeFile("x",
                                      "apiVersion: networking.istio.io/v1\n"
                                      "kind: VirtualService\n"
                                      "metadata: {name: a}\n"
                                      "spec:\n"
                                      "  hosts: [b]\n"
                                      "  http:\n"
                                      "  - timeOut: 3s\n"
                                      "    route: [{destination: {host: b}}]\n");
  ASSERT_THAT(file.objects, SizeIs(1));
  EXPECT_FALSE(file.objects[0].failed);
  EXPECT_EQ(Lines(file.objects[0].issues),
            "7|W|VirtualService default/a|unknown field spec.http.timeOut: ignored|did you mean "
            "timeout?\n");
}

AuthorizationPolicy Policy(const std::string& spec) {
  const DecodedFile file = DecodeFile(
      "x",
      "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n" + spec);
  EXPECT_THAT(file.objects, SizeIs(1));
  EXPECT_FALSE(file.objects[0].failed) << Lines(file.objects[0].issues);
  return std::get<AuthorizationPolicy>(file.objects[0].object);
}

TEST(DecodePolicy, KeepsWhatItDoesNotUnderstandBesideThePart) {
  EXPECT_THAT(Policy("spec: {}").unknown, IsEmpty());
  EXPECT_THAT(Policy("").unknown, IsEmpty());
  EXPECT_THAT(Policy("spec: {acton: DENY}").unknown, ElementsAre("spec.acton"));
  EXPECT_THAT(Policy("spec: {action: REJECT}").unknown, ElementsAre("spec.action"));
  EXPECT_THAT(Policy("spec: [a]").unknown, ElementsAre("spec"));
  EXPECT_THAT(Policy("spec: {selector: {matchExpressions: []}}").unknown,
              ElementsAre("spec.selector.matchExpressions"));
  const AuthorizationPolicy p = Policy(
      "spec:\n"
      "  rules:\n"
      "  - from: [{source: {principal: [a]}}, {source: {principals: [b]}}]\n"
      "    to: [{operation: {ports: ['80'], pathz: [x]}}]\n"
      "    when: [{key: source.ip, value: [a]}]\n"
      "    unless: x\n");
  ASSERT_THAT(p.rules, SizeIs(1));
  EXPECT_THAT(p.rules[0].unknown, ElementsAre("spec.rules.unless"));
  EXPECT_THAT(p.rules[0].from[0].unknown, ElementsAre("spec.rules.from.source.principal"));
  EXPECT_THAT(p.rules[0].from[1].unknown, IsEmpty());
  EXPECT_THAT(p.rules[0].to[0].unknown, ElementsAre("spec.rules.to.operation.pathz"));
  EXPECT_THAT(p.rules[0].when[0].unknown, ElementsAre("spec.rules.when.value"));
}

TEST(DecodePolicy, HalfAnEditIsNotAnOpenDoor) {
  EXPECT_FALSE(Policy("spec: {rules: [{from: []}]}").rules[0].unknown.empty());
  EXPECT_FALSE(Policy("spec:\n  rules:\n  - from:\n").rules[0].unknown.empty());
  EXPECT_FALSE(Policy("spec:\n  rules:\n  - ~\n").rules[0].unknown.empty());
  EXPECT_TRUE(Policy("spec: {rules: [{}]}").rules[0].unknown.empty());
  for (const char* source :
       {"{}", "{source: {}}", "{source: {principals: []}}", "{source: {principals: ['']}}",
        "{source: {principals: }}", "{source: {namespaces: [a], principals: }}", "{source: [a]}",
        "x", "{source: {principals: [[a]]}}", "{source: {principals: a}}"}) {
    const AuthorizationPolicy p =
        Policy(std::string("spec:\n  rules:\n  - from: [") + source + "]\n");
    EXPECT_FALSE(p.rules[0].from[0].unknown.empty()) << source;
  }
}

TEST(DecodePolicy, PeerAuthenticationThatIsNotUnderstoodIsStrict) {
  for (const char* spec : {"{mtls: {mode: STRIKT}}", "{mtls: {mod: STRICT}}", "[1]",
                           "{mtls: {mode: PERMISSIVE}, portLevelMtls: {'80': {mode: STRICT}}}",
                           "{mtls: {mode: DISABLE}, extra: 1}"}) {
    const DecodedFile file = DecodeFile(
        "x", std::string("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: "
                         "{name: a}\nspec: ") +
                 spec);
    ASSERT_THAT(file.objects, SizeIs(1));
    EXPECT_EQ(std::get<PeerAuthentication>(file.objects[0].object).mode, MtlsMode::kStrict) << spec;
    EXPECT_FALSE(file.objects[0].failed);
    EXPECT_FALSE(file.objects[0].issues.empty());
  }
}

TEST(Decode, ShapesThatUsersHave) {
  std::ifstream in(QANAT_TESTDATA "/user_shapes.yaml");
  std::stringstream text;
  text << in.rdbuf();
  ASSERT_FALSE(text.str().empty());
  const SourceSnapshot snapshot = LoadText(text.str());
  EXPECT_EQ(
      Lines(snapshot.issues),
      "3|W|Namespace production|label istio-injection: enabled has no effect: there are no "
      "sidecars|label the namespace istio.io/dataplane-mode: ambient instead\n"
      "65|W|DestinationRule default/httpbin-circuit-breaker|outlierDetection.consecutiveErrors "
      "is deprecated: taken as consecutiveGatewayErrors (502, 503, 504)|write "
      "consecutive5xxErrors: 5 to count every 5xx, or consecutiveGatewayErrors: 5\n"
      "153|W|IstioOperator control-plane|IstioOperator (install.istio.io/v1alpha1) has no effect "
      "in this mesh|the control plane takes flags: see qanat-controlplane --help "
      "(--trust-domain, --cluster-id, --network)\n"
      "165|W|Telemetry istio-system/custom-metrics|Telemetry (telemetry.istio.io/v1alpha1) has "
      "no effect in this mesh|metrics are always on under Istio's names (metrics port 15020); "
      "per-metric settings are not served yet\n"
      "175|W|Application argocd/istio-control-plane|Application (argoproj.io/v1alpha1) has no "
      "effect in this mesh|it is Argo's; apply it to the cluster where Argo runs\n"
      "194|W|Canary production/frontend|Canary (flagger.app/v1beta1) has no effect in this "
      "mesh|it is Flagger's; Flagger drives this mesh through VirtualService or HTTPRoute "
      "weights\n"
      "210|W||this document is a list, not a Kubernetes object: ignored|an object has "
      "apiVersion, kind and metadata; move other files elsewhere\n"
      "217|W|Gateway dx03-gateway|Gateway (networking.istio.io/v1beta1) has no effect in this "
      "mesh|use a Gateway of gateway.networking.k8s.io with an HTTPRoute; ingress gateways are "
      "not served yet\n"
      "241|W|VirtualService default/backend-canary|spec.hosts is missing: taken from the "
      "routes' destinations (dx03-backend)|write spec.hosts; a cluster refuses the object "
      "without it\n"
      "271|E|VirtualService default/backend-fault-injection|spec.hosts: is missing, and no route "
      "names a destination to take it from|add hosts: [SERVICE] and a route with destination: "
      "{host: SERVICE}\n"
      "272|E|VirtualService default/backend-fault-injection|spec.http.route: is missing: this "
      "entry says nothing about where requests go|add route with a destination (or redirect, or "
      "directResponse)\n"
      "287|E|VirtualService default/backend-resilience|spec.hosts: is missing, and no route "
      "names a destination to take it from|add hosts: [SERVICE] and a route with destination: "
      "{host: SERVICE}\n"
      "288|E|VirtualService default/backend-resilience|spec.http.route: is missing: this entry "
      "says nothing about where requests go|add route with a destination (or redirect, or "
      "directResponse)\n");
  EXPECT_THAT(snapshot.objects.virtual_services, SizeIs(3));
  EXPECT_THAT(snapshot.objects.destination_rules, SizeIs(2));
  EXPECT_THAT(snapshot.objects.authorization_policies, SizeIs(2));
  EXPECT_THAT(snapshot.objects.peer_authentications, SizeIs(1));
  EXPECT_THAT(snapshot.objects.request_authentications, SizeIs(1));
  const DestinationRule& breaker = snapshot.objects.destination_rules[1];
  EXPECT_EQ(breaker.policy->settings.outlier_detection->consecutive_gateway_errors, 5u);
  EXPECT_EQ(breaker.policy->settings.outlier_detection->interval, Millis(30000));
  const VirtualService& canary = snapshot.objects.virtual_services[2];
  EXPECT_THAT(canary.hosts, ElementsAre("dx03-backend"));
  EXPECT_EQ(canary.http[1].route[0].weight, 90u);
}

TEST(Decode, Durations) {
  EXPECT_EQ(ParseDuration("10s"), Millis(10000));
  EXPECT_EQ(ParseDuration("1h2m3.5s"), Millis(3723500));
  EXPECT_EQ(ParseDuration("250ms"), Millis(250));
  EXPECT_EQ(ParseDuration("1us"), Millis(1));
  EXPECT_EQ(ParseDuration("0"), Millis(0));
  for (const char* bad : {"", "10", "s", "-1s", "1d", "1s2", "1e9h", "nans", "infs"}) {
    EXPECT_EQ(ParseDuration(bad), std::nullopt) << bad;
  }
}

// --- The store ------------------------------------------------------------------------------

const char* kPolicy =
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny, "
    "namespace: "
    "shop}\nspec: {}\n";
const char* kService =
    "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: "
    "80}]}\n";

void Put(ObjectStore& store, const std::string& file, const std::string& text) {
  store.Update(ObjectStore::Layer::kUser, file, DecodeFile(file, text));
}

TEST(Store, BrokenFileKeepsTheLastGoodObjects) {
  ObjectStore store;
  Put(store, "a.yaml", std::string(kPolicy) + "---\n" + kService);
  EXPECT_THAT(store.Assemble().objects.services, SizeIs(1));
  Put(store, "a.yaml", std::string(kPolicy) + "---\nspec: {a: [}\n");
  SourceSnapshot now = store.Assemble();
  EXPECT_THAT(now.objects.services, SizeIs(1));
  EXPECT_THAT(now.objects.authorization_policies, SizeIs(1));
  ASSERT_THAT(now.issues, SizeIs(1));
  EXPECT_EQ(now.issues[0].line, 6);
  // One bad object keeps its own last version, the others follow the file.
  Put(store, "a.yaml",
      "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: "
      "[{port: "
      "0}]}\n");
  now = store.Assemble();
  ASSERT_THAT(now.objects.services, SizeIs(1));
  EXPECT_EQ(now.objects.services[0].ports[0].port, 80);
  EXPECT_THAT(now.objects.authorization_policies, IsEmpty());
  ASSERT_THAT(now.issues, SizeIs(1));
  EXPECT_THAT(now.issues[0].message, HasSubstr("last good version"));
  store.Remove(ObjectStore::Layer::kUser, "a.yaml");
  EXPECT_THAT(store.Assemble().objects.services, IsEmpty());
}

TEST(Store, MisspelledKindDoesNotRemoveThePolicy) {
  ObjectStore store;
  Put(store, "a.yaml", kPolicy);
  std::string typo = kPolicy;
  typo.replace(typo.find("AuthorizationPolicy"), 19, "AuthorisationPolicy");
  Put(store, "a.yaml", typo);
  EXPECT_THAT(store.Assemble().objects.authorization_policies, SizeIs(1));
  EXPECT_THAT(store.Assemble().issues, SizeIs(1));
  Put(store, "a.yaml", kService);
  EXPECT_THAT(store.Assemble().objects.authorization_policies, IsEmpty());
}

TEST(Store, DuplicateNamesBothPlacesAndTheFirstWins) {
  ObjectStore store;
  Put(store, "a.yaml", kService);
  Put(store, "b.yaml", std::string("# moved\n") + kService);
  const SourceSnapshot now = store.Assemble();
  ASSERT_THAT(now.objects.services, SizeIs(1));
  EXPECT_EQ(now.objects.services[0].meta.location.file, "a.yaml");
  ASSERT_THAT(now.issues, SizeIs(1));
  EXPECT_EQ(now.issues[0].file, "b.yaml");
  EXPECT_EQ(now.issues[0].line, 2);
  EXPECT_EQ(now.issues[0].message, "duplicate of the object at a.yaml:1: this one is ignored");
}

TEST(Store, OverlayFillsInWhatAnApiServerWould) {
  const SourceSnapshot now = LoadText(
      std::string(kService) +
          "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, "
          "namespace: shop}\nspec: {gatewayClassName: qanat-waypoint}\n"
          "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop, labels: {a: b}}\n",
      "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: "
      "10.96.0.7, clusterIPs: [10.96.0.7, 'fd96::7']}\n"
      "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, "
      "namespace: "
      "shop}\nstatus: {addresses: [{type: IPAddress, value: 10.91.1.9}]}\n"
      "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop, uid: u1}\nspec: "
      "{nodeName: n1}\nstatus: {podIP: 10.91.1.5, phase: Running, conditions: [{type: Ready, "
      "status: "
      "'True'}]}\n");
  EXPECT_THAT(now.issues, IsEmpty()) << Lines(now.issues);
  ASSERT_THAT(now.objects.services, SizeIs(1));
  EXPECT_THAT(now.objects.services[0].cluster_ips, SizeIs(2));
  EXPECT_THAT(now.objects.services[0].ports, SizeIs(1));
  ASSERT_THAT(now.objects.gateways, SizeIs(1));
  EXPECT_THAT(now.objects.gateways[0].status_addresses, ElementsAre("10.91.1.9"));
  ASSERT_THAT(now.objects.pods, SizeIs(1));
  EXPECT_TRUE(now.objects.pods[0].ready);
  EXPECT_EQ(now.objects.pods[0].meta.location.file, "user.yaml");
  EXPECT_EQ(now.objects.pods[0].meta.labels.at("a"), "b");
}

}  // namespace
}  // namespace qanat::controlplane
