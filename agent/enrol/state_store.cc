// SPDX-License-Identifier: Apache-2.0
#include "agent/enrol/state_store.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bpf/include/abi.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

using Json = nlohmann::json;

}  // namespace

std::string FormatSavedPod(const SavedPod& saved) {
  Json json = {{"uid", saved.pod.uid},
               {"name", saved.pod.name},
               {"namespace", saved.pod.ns},
               {"serviceAccount", saved.pod.service_account},
               {"netns", saved.pod.netns},
               {"ips", Json::array()},
               {"id", saved.id},
               {"cookie", saved.cookie},
               {"enforced", saved.enforced},
               {"dns", saved.dns},
               {"sysctls", saved.sysctls}};
  for (const auto& ip : saved.pod.ips) json["ips"].push_back(ip.ToString());
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<SavedPod> ParseSavedPod(std::string_view text) {
  SavedPod saved;
  QANAT_ASSIGN_OR_RETURN(saved.pod, ParsePod(text));
  const Json json = Json::parse(text, nullptr, false);
  auto number = [&](const char* key) -> Result<uint64_t> {
    auto it = json.find(key);
    if (it == json.end() || !it->is_number_unsigned())
      return Fail(Code::kInvalidArgument, std::string("saved pod: \"") + key + "\" is no number");
    return it->get<uint64_t>();
  };
  QANAT_ASSIGN_OR_RETURN(uint64_t id, number("id"));
  if (id == 0 || id >= QANAT_MAX_PODS)
    return Fail(Code::kInvalidArgument, "saved pod: \"id\" out of range");
  saved.id = static_cast<uint32_t>(id);
  QANAT_ASSIGN_OR_RETURN(saved.cookie, number("cookie"));
  auto enforced = json.find("enforced");
  // When in doubt the pod stays closed.
  saved.enforced = enforced == json.end() || !enforced->is_boolean() || enforced->get<bool>();
  if (auto dns = json.find("dns"); dns != json.end() && dns->is_number_unsigned())
    saved.dns = dns->get<uint32_t>() & (QANAT_DNS_V4 | QANAT_DNS_V6);
  auto sysctls = json.find("sysctls");
  if (sysctls != json.end() && sysctls->is_object())
    for (const auto& [name, value] : sysctls->items())
      if (value.is_string()) saved.sysctls[name] = value.get<std::string>();
  return saved;
}

Result<std::vector<SavedPod>> StateStore::Load() {
  std::error_code error;
  std::filesystem::create_directories(dir_, error);
  std::vector<SavedPod> out;
  for (std::filesystem::directory_iterator it(dir_, error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().extension() != ".json") continue;
    std::ifstream in(it->path(), std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(in), {});
    auto saved = ParseSavedPod(text);
    if (saved)
      out.push_back(std::move(*saved));
    else
      LOG_ERROR("enrol", "{}: {}", it->path().string(), saved.error().message);
  }
  if (error) return Fail(Code::kIo, "read " + dir_ + ": " + error.message());
  return out;
}

Status StateStore::Save(const SavedPod& pod) {
  return WriteFileAtomically(dir_ + "/" + pod.pod.uid + ".json", FormatSavedPod(pod));
}

void StateStore::Remove(const std::string& uid) { ::unlink((dir_ + "/" + uid + ".json").c_str()); }

}  // namespace qanat::agent
