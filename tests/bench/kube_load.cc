// SPDX-License-Identifier: Apache-2.0
// The control plane's Kubernetes side under the load of a large cluster: time and memory until all
// is read and translated, and time from one change in the API server to the new state. The fake API
// server is a process of its own (forked), so that memory is the control plane's alone.
//   ninja -C build/release kube_load && build/release/tests/bench/kube_load [PODS [SERVICES]]
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/base/log.h"
#include "controlplane/ads/snapshot.h"
#include "controlplane/kube/conditions.h"
#include "controlplane/kube/kube_source.h"
#include "controlplane/kube/status_writes.h"
#include "controlplane/translate/status.h"
#include "tests/support/kube/fake_api_server.h"

namespace {

using namespace qanat;
using namespace qanat::controlplane;
using nlohmann::json;
using Seconds = std::chrono::duration<double>;

constexpr int kNamespaces = 100;
constexpr int kNodes = 1000;
constexpr int kChanges = 30;

double Now() { return Seconds(event::Clock::now().time_since_epoch()).count(); }

std::string Ns(int i) { return fmt::format("team-{}", i % kNamespaces); }
std::string PodPath(int i) {
  return fmt::format("/api/v1/namespaces/{}/pods/app-{}-7d4b9c5f6-x{}", Ns(i), i % 997, i);
}

// As large as pods are: most of it is what the mesh does not read.
std::string Pod(int i, bool ready, int services) {
  const std::string service = fmt::format("svc-{}", i % services);
  json fields = json::object();
  for (int k = 0; k < 60; ++k) fields[fmt::format("f:field-{}", k)] = {{"f:x", json::object()}};
  json env = json::array();
  for (int k = 0; k < 20; ++k) {
    env.push_back({{"name", fmt::format("SETTING_{}", k)}, {"value", "a value of some length"}});
  }
  const json container = {{"name", "app"},
                          {"image", "registry.example.com/team/app:1.2.3"},
                          {"env", env},
                          {"ports", {{{"name", "http"}, {"containerPort", 8080}}}}};
  return json{
      {"apiVersion", "v1"},
      {"kind", "Pod"},
      {"metadata",
       {{"uid", fmt::format("00000000-0000-0000-0000-{:012}", i)},
        {"creationTimestamp", "2026-11-22T05:00:00Z"},
        {"labels", {{"app", service}, {"pod-template-hash", "7d4b9c5f6"}, {"tier", "backend"}}},
        {"annotations", {{"ambient.istio.io/redirection", "enabled"}}},
        {"ownerReferences",
         {{{"kind", "ReplicaSet"}, {"name", "app-7d4b9c5f6"}, {"controller", true}}}},
        {"managedFields", {{{"manager", "kubelet"}, {"fieldsV1", fields}}}}}},
      {"spec",
       {{"nodeName", fmt::format("node-{}", i % kNodes)},
        {"serviceAccountName", service},
        {"containers", {container}}}},
      {"status",
       {{"phase", "Running"},
        {"hostIP", "10.0.0.1"},
        {"podIPs", {{{"ip", fmt::format("10.{}.{}.{}", 64 + i / 65536, i / 256 % 256, i % 256)}}}},
        {"conditions", {{{"type", "Ready"}, {"status", ready ? "True" : "False"}}}}}}}
      .dump();
}

void Fill(kube::testing::FakeApiServer& server, int pods, int services) {
  for (int i = 0; i < kNamespaces; ++i) {
    server.Put("/api/v1/namespaces/" + Ns(i),
               R"({"apiVersion":"v1","kind":"Namespace","metadata":{"labels":)"
               R"({"istio.io/dataplane-mode":"ambient"}}})");
    server.Put(
        fmt::format("/apis/security.istio.io/v1/namespaces/{}/authorizationpolicies/p", Ns(i)),
        R"({"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":)"
        R"({"generation":1},"spec":{"rules":[{"from":[{"source":{"namespaces":["a"]}}]}]}})");
  }
  for (int i = 0; i < kNodes; ++i) {
    server.Put(fmt::format("/api/v1/nodes/node-{}", i),
               R"({"apiVersion":"v1","kind":"Node","metadata":{"labels":)"
               R"({"topology.kubernetes.io/zone":"a"}}})");
  }
  for (int i = 0; i < services; ++i) {
    const std::string name = fmt::format("svc-{}", i);
    server.Put(fmt::format("/api/v1/namespaces/{}/serviceaccounts/{}", Ns(i), name),
               R"({"apiVersion":"v1","kind":"ServiceAccount"})");
    server.Put(
        fmt::format("/api/v1/namespaces/{}/services/{}", Ns(i), name),
        fmt::format(R"({{"apiVersion":"v1","kind":"Service","spec":{{"clusterIP":"10.32.{}.{}",)"
                    R"("selector":{{"app":"{}"}},"ports":[{{"name":"http","port":80,)"
                    R"("targetPort":"http"}}]}}}})",
                    i / 250, i % 250 + 1, name));
    server.Put(
        fmt::format("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/{}-a", Ns(i), name),
        fmt::format(R"({{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":)"
                    R"({{"labels":{{"kubernetes.io/service-name":"{}"}}}},"addressType":"IPv4"}})",
                    name));
  }
  for (int i = 0; i < pods; ++i) server.Put(PodPath(i), Pod(i, true, services));
}

// Each byte read is one change of a pod; answered with the moment just before it.
[[noreturn]] void Serve(int in, int out, int pods, int services) {
  kube::testing::FakeApiServer server;
  Fill(server, pods, services);
  const kube::ClientConfig config = server.Config();
  const std::string hello = config.server + "\n" + config.ca_pem + "end\n";
  if (write(out, hello.data(), hello.size()) < 0) _exit(1);
  char byte = 0;
  for (int i = 0; read(in, &byte, 1) == 1; ++i) {
    const std::string pod = Pod(i * 37 % pods, false, services);  // was ready
    const double at = Now();
    server.Put(PodPath(i * 37 % pods), pod);
    if (write(out, &at, sizeof at) < 0) break;
  }
  _exit(0);
}

double Mb(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key)) return std::atof(line.c_str() + key.size() + 1) / 1024;
  }
  return 0;
}

void Row(const char* what, const std::string& value) { fmt::print("{:44} {}\n", what, value); }

int Run(int in, int out, int pods, int services) {
  std::string hello;
  for (char c = 0; !hello.ends_with("end\n") && read(in, &c, 1) == 1;) hello += c;
  kube::ClientConfig config;
  config.server = hello.substr(0, hello.find('\n'));
  config.ca_pem = hello.substr(hello.find('\n') + 1, hello.rfind("end\n") - hello.find('\n') - 1);
  config.token = "x";
  config.origin = "the fake API server";

  event::EventLoop loop;
  kube::Client client(loop, config);
  const double rss = Mb("VmRSS");
  KubeSource source(loop, client);
  std::shared_ptr<const ConfigSnapshot> snapshot;
  uint64_t generation = 0;
  double assemble = 0;
  double world = 0;
  double translate = 0;
  const auto rebuild = [&] {
    const double a = Now();
    SourceSnapshot objects = source.Snapshot();
    const double b = Now();
    auto built = World::Build(std::move(objects.objects), {});
    const double c = Now();
    snapshot = BuildSnapshot(std::move(built), ++generation);
    assemble = b - a;
    world = c - b;
    translate = Now() - c;
  };
  const double began = Now();
  if (!source.Start([&] {
        if (source.synced()) rebuild();
      })) {
    return 1;
  }
  while (!source.synced()) loop.RunOnce(std::chrono::milliseconds(5));
  const double synced = Now();
  while (snapshot == nullptr) loop.RunOnce(std::chrono::milliseconds(5));
  Row("pods, services, nodes, namespaces",
      fmt::format("{}, {}, {}, {}", pods, services, kNodes, kNamespaces));
  Row("first list of everything", fmt::format("{:.2f} s", synced - began));
  Row("to the first translated state", fmt::format("{:.2f} s", Now() - began));
  Row("resources for a node proxy", fmt::format("{}", snapshot->answers.size()));
  Row("resident memory before, after, highest",
      fmt::format("{:.0f}, {:.0f}, {:.0f} MB", rss, Mb("VmRSS"), Mb("VmHWM")));

  std::vector<double> took;
  for (int i = 0; i < kChanges; ++i) {
    const auto until = event::Clock::now() + std::chrono::milliseconds(400);
    while (event::Clock::now() < until) loop.RunOnce(std::chrono::milliseconds(5));
    const uint64_t before = generation;
    double at = 0;
    if (write(out, "x", 1) != 1 || read(in, &at, sizeof at) != sizeof at) return 1;
    while (generation == before) loop.RunOnce(std::chrono::milliseconds(5));
    took.push_back(Now() - at);
  }
  std::sort(took.begin(), took.end());
  Row("one change of a pod -> new state, median, worst",
      fmt::format("{:.0f}, {:.0f} ms", took[took.size() / 2] * 1e3, took.back() * 1e3));
  Row("of which copy, index, translate (the last)",
      fmt::format("{:.0f}, {:.0f}, {:.0f} ms", assemble * 1e3, world * 1e3, translate * 1e3));
  Row("resident memory after, highest", fmt::format("{:.0f}, {:.0f} MB", Mb("VmRSS"), Mb("VmHWM")));
  const double c = Now();
  const std::vector<ObjectStatus> statuses = BuildStatus(*snapshot->world);
  const double d = Now();
  const Writes writes = StatusWrites(
      *snapshot->world, statuses, {},
      [&](std::string_view kind, const NamespacedName& key) { return source.StatusOf(kind, key); },
      Rfc3339Now());
  Row("the leader's round: statuses, writes",
      fmt::format("{:.0f}, {:.0f} ms for {} objects", (d - c) * 1e3, (Now() - d) * 1e3,
                  statuses.size()));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int pods = argc > 1 ? std::atoi(argv[1]) : 10000;
  const int services = argc > 2 ? std::atoi(argv[2]) : 1000;
  int to_server[2];
  int to_us[2];
  if (pods < 1 || services < 1 || pipe(to_server) != 0 || pipe(to_us) != 0) return 2;
  const pid_t child = fork();
  if (child == 0) {
    close(to_server[1]);
    Serve(to_server[0], to_us[1], pods, services);
  }
  close(to_us[1]);
  const int result = Run(to_us[0], to_server[1], pods, services);
  close(to_server[1]);
  waitpid(child, nullptr, 0);
  return result;
}
