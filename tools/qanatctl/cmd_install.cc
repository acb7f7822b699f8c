// SPDX-License-Identifier: Apache-2.0
// manifests, install, uninstall, verify.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/install/install.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/table.h"

namespace qanat::ctl {
namespace {

InstallValues ValuesOf(const Options& options) {
  InstallValues out;
  const auto take = [](const std::string& from, std::string& to) {
    if (!from.empty()) to = from;
  };
  take(options.ns, out.ns);
  take(options.install.root_namespace, out.root_ns);
  take(options.install.trust_domain, out.trust_domain);
  take(options.install.image_prefix, out.image_prefix);
  take(options.install.image_tag, out.image_tag);
  take(options.install.cni_own_list, out.cni_own_list);
  return out;
}

Result<Api> ApiOf(const Options& options) {
  return Api::Connect(options.kubeconfig, options.context);
}

const char* Name(Check::State state) {
  switch (state) {
    case Check::State::kFine: return "ok";
    case Check::State::kNote: return "note";
    case Check::State::kWrong: return "wrong";
  }
  return "";
}

}  // namespace

// What is printed is piped to kubectl: an Istio's CRDs in that cluster must not be overwritten.
int CmdManifests(const Options& options) {
  std::set<std::string> others;
  if (!options.install.no_crds) {
    const Result<Api> api = ApiOf(options);
    const Result<std::set<std::string>> found = api ? OthersCrds(*api) : Fail(api.error());
    if (found) {
      others = *found;
    } else {
      fmt::print(stderr,
                 "qanatctl: the cluster was not asked which CRDs it has ({}): in one with Istio's "
                 "use --no-crds\n",
                 found.error().message);
    }
    if (!others.empty()) {
      fmt::print(stderr, "qanatctl: left out, there and not ours: {}\n", fmt::join(others, ", "));
    }
  }
  const Result<std::string> text = RenderText(ValuesOf(options), !options.install.no_crds, others);
  if (!text) return Complain(text.error());
  std::fputs(text->c_str(), stdout);
  return kExitOk;
}

int CmdInstall(const Options& options) {
  const InstallValues values = ValuesOf(options);
  if (const Status fine = CheckValues(values); !fine) {
    Complain(fine.error());
    return kExitUsage;
  }
  const Result<Api> api = ApiOf(options);
  if (!api) return Complain(api.error());
  const InstallOptions install{values, options.install.force,
                               std::chrono::seconds(options.timeout_s)};
  if (const Status done = Install(*api, install, Pace::Real()); !done) {
    return Complain(done.error());
  }
  fmt::print(
      "Installed. Next:\n"
      "  kubectl label namespace NAME istio.io/dataplane-mode=ambient   # into the mesh\n"
      "  qanatctl verify\n");
  return kExitOk;
}

int CmdUninstall(const Options& options) {
  const Result<Api> api = ApiOf(options);
  if (!api) return Complain(api.error());
  UninstallOptions uninstall;
  uninstall.ns = ValuesOf(options).ns;
  uninstall.purge = options.install.purge;
  uninstall.force = options.install.force;
  uninstall.timeout = std::chrono::seconds(options.timeout_s);
  if (const Status done = Uninstall(*api, uninstall, Pace::Real()); !done) {
    return Complain(done.error());
  }
  return kExitOk;
}

int CmdVerify(const Options& options) {
  const Result<Api> api = ApiOf(options);
  if (!api) return Complain(api.error());
  const Result<std::vector<Check>> checks = Verify(*api, ValuesOf(options).ns);
  if (!checks) return Complain(checks.error());
  bool well = true;
  Json out = Json::array();
  const Colors c = Colors::ForStdout();
  Table table({"STATE", "WHAT", "DETAIL"});
  for (const Check& check : *checks) {
    well = well && check.state != Check::State::kWrong;
    out.push_back({{"state", Name(check.state)}, {"what", check.what}, {"detail", check.detail}});
    table.Add({Name(check.state), check.what, check.detail});
  }
  if (options.output != Output::kTable) {
    PrintData({{"well", well}, {"checks", out}}, options.output);
  } else {
    fmt::print("{}\n{}{}{}\n", table.ToString(), well ? c.green : c.yellow,
               well ? "all is well" : "not all is well", c.plain);
  }
  return well ? kExitOk : kExitDegraded;
}

}  // namespace qanat::ctl
