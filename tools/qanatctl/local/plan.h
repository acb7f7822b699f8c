// SPDX-License-Identifier: Apache-2.0
// From Kubernetes objects to what should run: the work of the workload controllers and of the
// scheduler. Pure; the same folder always gives the same pod names, so that a reload changes only
// what changed.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tools/qanatctl/local/objects.h"
#include "tools/qanatctl/local/spec.h"

namespace qanat::local {

struct NodePlan {
  std::string name;
  int index = 0;  // 1-based: the i of 10.90.0.i and 10.91.i.0/24
  StringMap labels;
  StringMap annotations;
};

struct Owner {
  std::string api_version;
  std::string kind;
  std::string name;
};

struct PodPlan {
  std::string ns;
  std::string name;
  Owner owner;          // what the pod's ownerReferences name; empty kind for a bare Pod
  std::string set;      // "Deployment/frontend": pods of one workload, whatever their generation
  std::string gateway;  // name of the Gateway when this is a waypoint pod
  PodTemplate spec;
  std::string spec_hash;  // a change means: another pod
  std::vector<std::string> problems;
  std::string Key() const { return ns + "/" + name; }
};

struct GatewayPlan {
  std::string ns;
  std::string name;
  std::shared_ptr<const Json> body;
};

struct ServiceAccountPlan {
  std::string ns;
  std::string name;
};

struct Plan {
  std::vector<NodePlan> nodes;
  std::map<std::string, StringMap> namespaces;  // name -> labels
  std::vector<PodPlan> pods;
  std::vector<ServiceSpec> services;  // the Gateways' Services too
  std::vector<GatewayPlan> gateways;
  std::map<std::string, StringMap> config_maps;  // "ns/name" -> data
  std::map<std::string, StringMap> secrets;
  std::vector<FileProblem> problems;
};

struct PlanOptions {
  int nodes = 2;  // used when the YAML has no Node objects
  bool waypoints = true;
};

Plan MakePlan(const std::vector<Object>& objects, const PlanOptions& options);

// Which node each pod goes to. `placed` holds the pods that already run (key -> node): they stay.
// Returns key -> node; "" when no node matches the pod's nodeName or nodeSelector.
std::map<std::string, std::string> Schedule(const Plan& plan,
                                            const std::map<std::string, std::string>& placed);

// The short names that Kubernetes puts behind a Deployment's name: ten characters of a template
// hash and five for the pod, from an alphabet without vowels.
std::string SafeHash(std::string_view text, size_t length);

bool SelectorMatches(const StringMap& selector, const StringMap& labels);

}  // namespace qanat::local
