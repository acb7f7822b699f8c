// SPDX-License-Identifier: Apache-2.0
// The kubeconfig format (client-go tools/clientcmd/api/v1), as far as a mesh needs it.
#include <libfyaml.h>

#include <memory>
#include <optional>

#include "common/base/utf8.h"
#include "common/kube/config.h"
#include "common/kube/files.h"
#include "common/tls/crypto.h"

namespace qanat::kube {
namespace {

struct DocumentDelete {
  void operator()(fy_document* document) const { fy_document_destroy(document); }
};
struct DiagDelete {
  void operator()(fy_diag* diag) const { fy_diag_destroy(diag); }
};

// Borrowed nodes of the document; nullptr is "absent" everywhere. Aliases are not followed: nobody
// writes them into a kubeconfig, and they are how a small file becomes a large one.
fy_node* Child(fy_node* map, const char* key) {
  if (map == nullptr || !fy_node_is_mapping(map)) return nullptr;
  void* iterator = nullptr;
  while (fy_node_pair* pair = fy_node_mapping_iterate(map, &iterator)) {
    fy_node* name = fy_node_pair_key(pair);
    if (name == nullptr || !fy_node_is_scalar(name) || fy_node_is_alias(name)) continue;
    size_t size = 0;
    const char* text = fy_node_get_scalar(name, &size);
    if (text != nullptr && std::string_view(text, size) == key) return fy_node_pair_value(pair);
  }
  return nullptr;
}

std::string Text(fy_node* map, const char* key) {
  fy_node* node = Child(map, key);
  if (node == nullptr || !fy_node_is_scalar(node) || fy_node_is_alias(node)) return {};
  size_t size = 0;
  const char* text = fy_node_get_scalar(node, &size);
  std::string out = text == nullptr ? std::string() : std::string(text, size);
  const fy_node_style style = fy_node_get_style(node);
  return style == FYNS_PLAIN && (out == "null" || out == "~") ? std::string() : out;
}

// The entry of `list` (clusters, users, contexts) with this name; its part `part`.
fy_node* Named(fy_node* root, const char* list, const char* part, const std::string& name) {
  fy_node* items = Child(root, list);
  if (items == nullptr || !fy_node_is_sequence(items)) return nullptr;
  void* iterator = nullptr;
  while (fy_node* item = fy_node_sequence_iterate(items, &iterator)) {
    if (fy_node_is_mapping(item) && Text(item, "name") == name) return Child(item, part);
  }
  return nullptr;
}

std::string NamesOf(fy_node* root, const char* list) {
  std::string out;
  fy_node* items = Child(root, list);
  if (items == nullptr || !fy_node_is_sequence(items)) return "none";
  void* iterator = nullptr;
  while (fy_node* item = fy_node_sequence_iterate(items, &iterator)) {
    if (!fy_node_is_mapping(item) || out.size() > 500) continue;
    if (!out.empty()) out += ", ";
    out += Text(item, "name");
  }
  return out.empty() ? "none" : out;
}

std::string Absolute(const std::string& path, const std::string& folder) {
  return path.empty() || path[0] == '/' ? path : folder + "/" + path;
}

// KEY-data (base64) before KEY (a file), as kubectl has it.
Result<std::string> DataOrFile(fy_node* map, const std::string& key, const std::string& folder) {
  if (const std::string data = Text(map, (key + "-data").c_str()); !data.empty()) {
    auto decoded = tls::Base64Decode(Trim(data));
    if (!decoded) return Fail(Code::kInvalidArgument, key + "-data is not base64");
    return decoded;
  }
  const std::string file = Text(map, key.c_str());
  if (file.empty()) return std::string();
  auto text = ReadFile(Absolute(file, folder));
  if (!text) return Fail(text.error().Annotate(key));
  return text;
}

Status TakeCluster(fy_node* cluster, const std::string& folder, ClientConfig& out) {
  out.server = Text(cluster, "server");
  if (out.server.empty()) return Fail(Code::kInvalidArgument, "the cluster has no server");
  QANAT_RETURN_IF_ERROR(ParseServerUrl(out.server));
  if (Text(cluster, "insecure-skip-tls-verify") == "true") {
    return Fail(Code::kInvalidArgument,
                "insecure-skip-tls-verify is set, which would give our token to anybody; put the "
                "cluster's CA into certificate-authority-data instead");
  }
  if (!Text(cluster, "proxy-url").empty()) {
    return Fail(Code::kUnimplemented,
                "proxy-url is set, but proxies are not supported; reach the API server directly or "
                "run `kubectl proxy` and name http://127.0.0.1:8001 as server");
  }
  out.tls_server_name = Text(cluster, "tls-server-name");
  const std::string ca_file = Text(cluster, "certificate-authority");
  if (!ca_file.empty() && Text(cluster, "certificate-authority-data").empty()) {
    out.ca_file = Absolute(ca_file, folder);
    QANAT_RETURN_IF_ERROR(ReadFile(out.ca_file));
    return {};
  }
  QANAT_ASSIGN_OR_RETURN(out.ca_pem, DataOrFile(cluster, "certificate-authority", folder));
  return {};
}

Status TakeUser(fy_node* user, const std::string& folder, ClientConfig& out) {
  if (user == nullptr) return {};  // anonymous
  QANAT_ASSIGN_OR_RETURN(out.client_certificate_pem,
                         DataOrFile(user, "client-certificate", folder));
  QANAT_ASSIGN_OR_RETURN(out.client_key_pem, DataOrFile(user, "client-key", folder));
  if (out.client_certificate_pem.empty() != out.client_key_pem.empty()) {
    return Fail(Code::kInvalidArgument,
                "client-certificate and client-key come together; one of them is missing");
  }
  out.token = Text(user, "token");
  // A file has precedence, so that rotation works.
  out.token_file = Absolute(Text(user, "tokenFile"), folder);
  if (!out.token_file.empty()) out.token.clear();
  const bool proven =
      !out.client_certificate_pem.empty() || !out.token.empty() || !out.token_file.empty();
  if (proven) return {};
  const char* unsupported = Child(user, "exec") != nullptr            ? "an exec plugin"
                            : Child(user, "auth-provider") != nullptr ? "an auth provider"
                            : Child(user, "username") != nullptr      ? "a password"
                                                                      : nullptr;
  if (unsupported != nullptr) {
    return Fail(
        Code::kUnimplemented,
        std::string("the user authenticates by ") + unsupported +
            ", which we do not run; make a token instead: kubectl create token ACCOUNT, and "
            "put it into the user's token (or a file, named by tokenFile)");
  }
  return {};
}

}  // namespace

Result<ClientConfig> ParseKubeconfig(std::string_view yaml, const std::string& base_folder,
                                     std::string_view context) {
  if (yaml.find('\0') != std::string_view::npos) {
    return Fail(Code::kInvalidArgument, "a NUL byte: this is not a text file");
  }
  // The library's scanner of directives does not come to an end on such bytes.
  if (FirstNotUtf8(yaml) != std::string_view::npos) {
    return Fail(Code::kInvalidArgument, "a byte that is not UTF-8: this is not a text file");
  }
  fy_diag_cfg diag_config{};
  fy_diag_cfg_default(&diag_config);
  diag_config.fp = nullptr;
  diag_config.output_fn = [](fy_diag*, void*, const char*, size_t) {};
  std::unique_ptr<fy_diag, DiagDelete> diag(fy_diag_create(&diag_config));
  if (!diag) return Fail(Code::kResourceExhausted, "out of memory");
  fy_parse_cfg config{};
  config.search_path = "";
  config.flags = static_cast<fy_parse_cfg_flags>(FYPCF_QUIET);
  config.diag = diag.get();
  std::unique_ptr<fy_document, DocumentDelete> document(
      fy_document_build_from_string(&config, yaml.data(), yaml.size()));
  fy_node* root = document ? fy_document_root(document.get()) : nullptr;
  if (root == nullptr || !fy_node_is_mapping(root)) {
    return Fail(Code::kInvalidArgument, "not a YAML map; is it a kubeconfig at all?");
  }
  const std::string name = context.empty() ? Text(root, "current-context") : std::string(context);
  if (name.empty()) {
    return Fail(Code::kInvalidArgument, "no current-context is set; name one with --context (" +
                                            NamesOf(root, "contexts") + ")");
  }
  fy_node* chosen = Named(root, "contexts", "context", name);
  if (chosen == nullptr) {
    return Fail(Code::kNotFound,
                "there is no context \"" + name + "\"; there are: " + NamesOf(root, "contexts"));
  }
  const std::string cluster = Text(chosen, "cluster");
  fy_node* cluster_node = Named(root, "clusters", "cluster", cluster);
  if (cluster_node == nullptr) {
    return Fail(Code::kNotFound,
                "context \"" + name + "\" names the cluster \"" + cluster +
                    "\", which is not there; there are: " + NamesOf(root, "clusters"));
  }
  const std::string user = Text(chosen, "user");
  fy_node* user_node = Named(root, "users", "user", user);
  if (!user.empty() && user_node == nullptr) {
    return Fail(Code::kNotFound,
                "context \"" + name + "\" names the user \"" + user +
                    "\", which is not there; there are: " + NamesOf(root, "users"));
  }
  ClientConfig out;
  out.origin = "context " + name;
  if (const std::string ns = Text(chosen, "namespace"); !ns.empty()) out.default_namespace = ns;
  QANAT_RETURN_IF_ERROR(TakeCluster(cluster_node, base_folder, out));
  if (auto taken = TakeUser(user_node, base_folder, out); !taken) {
    return Fail(taken.error().Annotate("user \"" + user + "\""));
  }
  return out;
}

}  // namespace qanat::kube
