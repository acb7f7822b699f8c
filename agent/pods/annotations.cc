// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/annotations.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>

namespace qanat::agent {
namespace {

constexpr std::string_view kPlainInbound = "ambient.istio.io/bypass-inbound-capture";
constexpr std::string_view kDnsCapture = "ambient.istio.io/dns-capture";
constexpr std::string_view kSameNode = "qanat.io/same-node";
constexpr std::string_view kMode = "istio.io/dataplane-mode";
constexpr std::string_view kSidecars = "traffic.sidecar.istio.io/";
constexpr size_t kMaxShown = 64;

// Interfaces of virtual machines in the pod, whose packets are forwarded and not made by sockets.
constexpr std::array<std::string_view, 2> kVirtual = {
    "istio.io/reroute-virtual-interfaces", "traffic.sidecar.istio.io/kubevirtInterfaces"};
constexpr std::array<std::string_view, 2> kExcluded = {
    "istio.io/exclude-interfaces", "traffic.sidecar.istio.io/excludeInterfaces"};

std::string Shown(std::string_view key, std::string_view value) {
  return fmt::format("{}={}{}", key, value.substr(0, kMaxShown),
                     value.size() > kMaxShown ? "..." : "");
}

bool IsAnyOf(std::string_view key, const std::array<std::string_view, 2>& keys) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

const std::string* Find(const std::map<std::string, std::string>& in, std::string_view key) {
  const auto at = in.find(std::string(key));
  return at == in.end() ? nullptr : &at->second;
}

// The pod's own word counts more than its namespace's.
std::string ReadSameNode(const Pod& pod, const std::function<void(std::string)>& note) {
  const std::string* said = nullptr;
  for (const auto* from : {&pod.labels, &pod.annotations, &pod.namespace_labels})
    if (said == nullptr) said = Find(*from, kSameNode);
  if (said == nullptr) return {};
  for (const char* known : {"direct", "proxy", "encrypt"})
    if (*said == known) return *said;
  note(Shown(kSameNode, *said) +
       " is not understood (direct, proxy or encrypt): connections go through the proxy");
  return "proxy";
}

}  // namespace

std::optional<bool> ParseGoBool(std::string_view text) {
  for (const char* yes : {"1", "t", "T", "TRUE", "true", "True"})
    if (text == yes) return true;
  for (const char* no : {"0", "f", "F", "FALSE", "false", "False"})
    if (text == no) return false;
  return std::nullopt;
}

Wishes ReadWishes(const Pod& pod) {
  Wishes wishes;
  auto note = [&](std::string text) { wishes.notes.push_back(std::move(text)); };
  std::string sidecars;
  for (const auto& [key, value] : pod.annotations) {
    const std::string shown = Shown(key, value);
    if (key == kPlainInbound) {
      const auto wish = ParseGoBool(value);
      wishes.plain_inbound = wish.value_or(false);
      if (!wish)
        note(shown + " is not understood (true or false): what comes in stays captured");
      else if (*wish)
        note("what comes in is not captured, as " + shown + " asks: no policy applies to it");
    } else if (key == kDnsCapture) {
      wishes.dns_capture = ParseGoBool(value);
      if (!wishes.dns_capture) note(shown + " is not understood (true or false): ignored");
    } else if (IsAnyOf(key, kVirtual)) {
      note(shown +
           " is not honoured: TCP of machines behind these interfaces is dropped, not captured");
    } else if (IsAnyOf(key, kExcluded)) {
      note(shown + " is not honoured: every interface is captured");
    } else if (key.rfind(kSidecars, 0) == 0) {
      sidecars += (sidecars.empty() ? "" : ", ") + key;
    }
  }
  wishes.same_node = ReadSameNode(pod, note);
  if (!sidecars.empty())
    note(sidecars.substr(0, 4 * kMaxShown) + ": for sidecars only, everything is captured");
  if (auto mode = pod.labels.find(std::string(kMode));
      mode != pod.labels.end() && mode->second != "ambient" && mode->second != "none")
    note("label " + Shown(kMode, mode->second) +
         " is not understood (ambient or none): the namespace's counts");
  return wishes;
}

}  // namespace qanat::agent
