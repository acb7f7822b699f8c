// SPDX-License-Identifier: Apache-2.0
// A small mesh for tests, built from wire messages through MeshState as the real one is.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "common/proto/authorization.pb.h"
#include "common/proto/workload.pb.h"
#include "common/route/pod_facts.h"
#include "common/state/mesh_state.h"

namespace qanat::route {

inline net::IpAddress Ip(const std::string& text) { return net::IpAddress::Parse(text).value(); }
inline net::SocketAddress At(const std::string& text) {
  return net::SocketAddress::Parse(text).value();
}
inline std::string IpBytes(const std::string& text) {
  const net::IpAddress ip = Ip(text);
  return {reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size()};
}

class TestMesh {
 public:
  using Workload = istio::workload::Workload;
  using Service = istio::workload::Service;
  using Policy = istio::security::Authorization;

  static Workload MakePod(const std::string& name, const std::string& ip,
                          const std::string& node = "n1", const std::string& ns = "shop") {
    Workload w;
    w.set_uid("Kubernetes//Pod/" + ns + "/" + name);
    w.set_name(name);
    w.set_namespace_(ns);
    w.set_service_account(name);
    w.set_workload_name(name);
    w.set_canonical_name(name);
    w.set_canonical_revision("v1");
    w.set_node(node);
    w.set_tunnel_protocol(istio::workload::HBONE);
    if (!ip.empty()) w.add_addresses(IpBytes(ip));
    return w;
  }
  static Service MakeService(const std::string& name, const std::string& vip,
                             const std::string& ns = "shop") {
    Service s;
    s.set_name(name);
    s.set_namespace_(ns);
    s.set_hostname(name + "." + ns + ".svc.cluster.local");
    if (!vip.empty()) s.add_addresses()->set_address(IpBytes(vip));
    AddPort(*s.add_ports(), 80, 8080);
    return s;
  }
  static void AddPort(istio::workload::Port& port, uint32_t service, uint32_t target) {
    port.set_service_port(service);
    port.set_target_port(target);
  }
  static void Join(Workload& w, const Service& s) {
    auto& list = (*w.mutable_services())[s.namespace_() + "/" + s.hostname()];
    for (const auto& port : s.ports()) *list.add_ports() = port;
  }
  static istio::workload::GatewayAddress GatewayOf(const Service& s) {
    istio::workload::GatewayAddress g;
    g.mutable_hostname()->set_namespace_(s.namespace_());
    g.mutable_hostname()->set_hostname(s.hostname());
    g.set_hbone_mtls_port(15008);
    return g;
  }
  static Policy MakePolicy(const std::string& name, istio::security::Action action,
                           const std::string& ns = "shop") {
    Policy p;
    p.set_name(name);
    p.set_namespace_(ns);
    p.set_scope(istio::security::NAMESPACE);
    p.set_action(action);
    return p;
  }

  static std::string Wire(const Workload& w) {
    istio::workload::Address a;
    *a.mutable_workload() = w;
    return a.SerializeAsString();
  }
  static std::string Wire(const Service& s) {
    istio::workload::Address a;
    *a.mutable_service() = s;
    return a.SerializeAsString();
  }

  TestMesh& Put(const Workload& w) {
    EXPECT_TRUE(state_.UpsertAddress(w.uid(), Wire(w)).has_value());
    return *this;
  }
  TestMesh& Put(const Service& s) {
    EXPECT_TRUE(state_.UpsertAddress(s.namespace_() + "/" + s.hostname(), Wire(s)).has_value());
    return *this;
  }
  TestMesh& Put(const Policy& p) {
    EXPECT_TRUE(state_.UpsertAuthorization(p.namespace_() + "/" + p.name(), p.SerializeAsString()));
    return *this;
  }
  void Remove(const std::string& name) { state_.RemoveAddress(name); }
  // A policy of which not all is understood: it is applied, and the server hears of it.
  TestMesh& PutPartly(const Policy& p) {
    EXPECT_FALSE(
        state_.UpsertAuthorization(p.namespace_() + "/" + p.name(), p.SerializeAsString()));
    return *this;
  }
  void SetFreshness(state::Freshness freshness) { state_.SetFreshness(freshness); }
  state::SnapshotPtr Snapshot() { return state_.Publish(); }

  static PodFacts LocalPod(const std::string& name, const std::string& ip,
                           const std::string& account = "") {
    PodFacts pod;
    pod.name = name;
    pod.ns = "shop";
    pod.service_account = account.empty() ? name : account;
    if (!ip.empty()) pod.addresses = {Ip(ip)};
    return pod;
  }

 private:
  state::MeshState state_;
};

}  // namespace qanat::route
