// SPDX-License-Identifier: Apache-2.0
#include "agent/cni/conflist.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "agent/plugin/invocation.h"

namespace qanat::agent::cni {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kWrapped = "-qanat.conflist";

struct Span {
  size_t begin = 0, end = 0;  // [begin, end)
};

struct Elements {
  size_t open = 0;   // position of '['
  size_t close = 0;  // position of ']'
  std::vector<Span> items;
};

// A whole text. Here the library takes a NUL for the end of it, which nobody else does.
Json Parse(std::string_view text) {
  if (text.find('\0') != text.npos) return Json(Json::value_t::discarded);
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Walks over JSON that is known to be valid.
class Walker {
 public:
  explicit Walker(std::string_view text) : text_(text) {}

  void Space() {
    while (at_ < text_.size() && IsSpace(text_[at_])) ++at_;
  }
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void Skip() { ++at_; }
  size_t at() const { return at_; }

  Span String() {
    const size_t begin = at_++;
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    at_ = std::min(at_ + 1, text_.size());
    return {begin, at_};
  }

  Span Value() {
    const size_t begin = at_;
    int depth = 0;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        String();
      } else if (c == '{' || c == '[') {
        ++depth;
        ++at_;
      } else if (c == '}' || c == ']') {
        if (depth == 0) break;
        --depth;
        ++at_;
      } else if (depth == 0 && (c == ',' || IsSpace(c))) {
        break;
      } else {
        ++at_;
      }
      if (depth == 0 && (c == '"' || c == '}' || c == ']')) break;
    }
    return {begin, at_};
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

// Where the elements of the top-level array "plugins" stand. Of several the last counts, as for
// every reader of JSON.
Result<Elements> FindPlugins(std::string_view text) {
  const Json json = Parse(text);
  if (json.is_discarded() || !json.is_object())
    return Fail(Code::kInvalidArgument, "not a JSON object");
  auto plugins = json.find("plugins");
  if (plugins == json.end() || !plugins->is_array())
    return Fail(Code::kInvalidArgument, "no list of CNI plugins (\"plugins\" is missing)");
  Elements found;
  bool seen = false;
  Walker walk(text);
  walk.Space();
  walk.Skip();  // {
  for (walk.Space(); walk.Peek() == '"'; walk.Space()) {
    const Span key = walk.String();
    walk.Space();
    walk.Skip();  // :
    walk.Space();
    const Json name = Json::parse(text.substr(key.begin, key.end - key.begin), nullptr, false);
    if (name == "plugins" && walk.Peek() == '[') {
      found = {walk.at(), 0, {}};
      seen = true;
      walk.Skip();
      for (walk.Space(); walk.Peek() != ']' && walk.Peek() != '\0'; walk.Space()) {
        found.items.push_back(walk.Value());
        walk.Space();
        if (walk.Peek() == ',') walk.Skip();
      }
      found.close = walk.at();
      walk.Skip();
    } else {
      walk.Value();
    }
    walk.Space();
    if (walk.Peek() == ',') walk.Skip();
  }
  if (!seen || found.items.size() != plugins->size())
    return Fail(Code::kInvalidArgument, "the list of CNI plugins is not where it should be");
  return found;
}

bool IsOurs(std::string_view text, const Span& item) {
  const Json json = Json::parse(text.substr(item.begin, item.end - item.begin), nullptr,
                                /*allow_exceptions=*/false);
  return json.is_object() && json.contains("type") && json["type"] == kPluginType;
}

// The white space that begins the line of `at`, from its line feed on; "" when something stands
// before it on the line.
std::string_view Indent(std::string_view text, size_t at) {
  size_t begin = at;
  while (begin > 0 && IsSpace(text[begin - 1]) && text[begin - 1] != '\n') --begin;
  if (begin == 0 || text[begin - 1] != '\n') return {};
  return text.substr(begin - 1, at - begin + 1);
}

// The plugin would have to refuse each call, and then no pod of the node could start.
Status CheckVersion(std::string_view text) {
  const Json json = Parse(text);
  auto it = json.is_object() ? json.find("cniVersion") : json.end();
  if (it == json.end()) return {};
  const std::string version = it->is_string() ? it->get<std::string>() : it->dump();
  if (plugin::SupportsCniVersion(version)) return {};
  return Fail(Code::kFailedPrecondition,
              "its cniVersion is " + version +
                  ", and qanat-cni knows 0.3.0 to 1.1.0: new pods start outside the mesh and are "
                  "enrolled then. Raise cniVersion in the settings of the network plugin");
}

}  // namespace

std::string FormatEntry(const PluginSettings& s) {
  nlohmann::ordered_json json = {
      {"type", kPluginType},        {"agentSocket", s.agent_socket},
      {"kubeconfig", s.kubeconfig}, {"cache", s.cache},
      {"logFile", s.log_file},      {"excludeNamespaces", s.exclude_namespaces}};
  if (!s.own_list.empty()) json["ownList"] = s.own_list;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<ConfKind> KindOf(std::string_view text) {
  const Json json = Parse(text);
  if (json.is_discarded() || !json.is_object())
    return Fail(Code::kInvalidArgument, "not a JSON object");
  auto plugins = json.find("plugins");
  if (plugins != json.end() && plugins->is_array() && !plugins->empty()) return ConfKind::kList;
  auto type = json.find("type");
  if (type != json.end() && type->is_string()) return ConfKind::kSingle;
  return Fail(Code::kInvalidArgument, "neither \"plugins\" nor \"type\"");
}

Result<std::string> InsertEntry(std::string_view text, const std::string& entry) {
  QANAT_RETURN_IF_ERROR(CheckVersion(text));
  QANAT_ASSIGN_OR_RETURN(const Elements plugins, FindPlugins(text));
  if (plugins.items.empty())
    return Fail(Code::kInvalidArgument, "the list of CNI plugins is empty: nothing to chain to");
  std::string out(text);
  for (const Span& item : plugins.items) {
    if (!IsOurs(text, item)) continue;
    const std::string_view have = text.substr(item.begin, item.end - item.begin);
    if (Json::parse(have, nullptr, false) == Json::parse(entry, nullptr, false)) return out;
    return out.replace(item.begin, have.size(), entry);
  }
  const Span& last = plugins.items.back();
  return out.insert(last.end, "," + std::string(Indent(text, last.begin)) + entry);
}

Result<std::string> RemoveEntry(std::string_view text) {
  std::string out(text);
  while (true) {
    QANAT_ASSIGN_OR_RETURN(const Elements plugins, FindPlugins(out));
    auto ours = std::find_if(plugins.items.begin(), plugins.items.end(),
                             [&](const Span& item) { return IsOurs(out, item); });
    if (ours == plugins.items.end()) return out;
    if (ours != plugins.items.begin()) {
      const size_t from = (ours - 1)->end;
      out.erase(from, ours->end - from);
    } else {  // somebody put others behind us
      const size_t to = plugins.items.size() > 1 ? (ours + 1)->begin : ours->end;
      out.erase(ours->begin, to - ours->begin);
    }
  }
}

bool HasEntry(std::string_view text) {
  auto plugins = FindPlugins(text);
  return plugins && std::any_of(plugins->items.begin(), plugins->items.end(),
                                [&](const Span& item) { return IsOurs(text, item); });
}

std::string EntryOf(std::string_view text) {
  auto plugins = FindPlugins(text);
  if (!plugins) return "";
  for (const Span& item : plugins->items)
    if (IsOurs(text, item)) return std::string(text.substr(item.begin, item.end - item.begin));
  return "";
}

bool LeadsToUs(std::string_view text, std::string_view file) {
  const Json json = Parse(text);
  if (!json.is_object()) return false;
  std::vector<const Json*> open;  // no recursion: others say how deep it is
  for (const auto& [key, value] : json.items()) {
    if (key != "plugins" || !value.is_array()) {
      open.push_back(&value);
      continue;
    }
    for (const Json& plugin : value)
      for (const Json& inside : plugin)
        if (!plugin.is_object() || plugin.value("type", Json()) != kPluginType)
          open.push_back(&inside);
  }
  while (!open.empty()) {
    const Json& value = *open.back();
    open.pop_back();
    if (value.is_string() && value.get_ref<const std::string&>().find(file) != std::string::npos)
      return true;
    if (value.is_object() && value.value("type", Json()) == kPluginType) return true;
    if (value.is_structured())
      for (const Json& inside : value) open.push_back(&inside);
  }
  return false;
}

Result<std::string> WrapSingle(std::string_view conf) {
  const Json json = Parse(conf);
  if (json.is_discarded() || !json.is_object() || !json.contains("type"))
    return Fail(Code::kInvalidArgument, "not a CNI configuration (an object with \"type\")");
  auto text = [&](const char* key, const char* otherwise) {
    auto it = json.find(key);
    return it != json.end() && it->is_string() ? it->get<std::string>() : std::string(otherwise);
  };
  while (!conf.empty() && IsSpace(conf.back())) conf.remove_suffix(1);
  const auto quote = [](const std::string& value) {
    return Json(value).dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  return "{\n\"cniVersion\": " + quote(text("cniVersion", "0.3.1")) +
         ",\n\"name\": " + quote(text("name", "network")) + ",\n\"plugins\": [\n" +
         std::string(conf) + "\n]\n}\n";
}

bool IsConfName(std::string_view name) {
  for (std::string_view end : {".conf", ".conflist", ".json"})
    if (name.size() > end.size() && name.front() != '.' &&
        name.substr(name.size() - end.size()) == end)
      return true;
  return false;
}

std::string WrappedName(const std::string& conf) {
  return conf.substr(0, conf.rfind('.')) + std::string(kWrapped);
}

std::vector<NamedText> WithoutOutdated(const std::vector<NamedText>& files) {
  std::vector<NamedText> out;
  std::copy_if(files.begin(), files.end(), std::back_inserter(out), [&](const NamedText& file) {
    return !file.name.ends_with(kWrapped) ||
           std::none_of(files.begin(), files.end(), [&](const NamedText& other) {
             return !other.name.ends_with(".conflist") && WrappedName(other.name) == file.name;
           });
  });
  return out;
}

std::string PrimaryOf(const std::vector<NamedText>& files) {
  std::string first;
  for (const auto& file : files)
    if (IsConfName(file.name) && KindOf(file.text) && (first.empty() || file.name < first))
      first = file.name;
  return first;
}

}  // namespace qanat::agent::cni
