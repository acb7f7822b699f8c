// SPDX-License-Identifier: Apache-2.0
#include "agent/cluster/cluster.h"

#include <filesystem>

#include "agent/cluster/process.h"
#include "agent/files/files.h"
#include "agent/redirect/pod_network.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

constexpr auto kReleaseAtMost = std::chrono::seconds(10);
constexpr auto kReleaseLook = std::chrono::milliseconds(50);

std::string CachePath(const ClusterOptions& options) { return options.lib_dir + "/pods-cache"; }
std::string KubeconfigPath(const ClusterOptions& options) {
  return options.lib_dir + "/cni-kubeconfig";
}

}  // namespace

Result<std::unique_ptr<Cluster>> Cluster::Create(event::EventLoop& loop, ClusterOptions options) {
  auto config = kube::ClientConfig::Load(options.kubeconfig);
  if (!config) return Fail(config.error().Annotate("--pod-source kubernetes"));
  for (const std::string& dir : {options.lib_dir, options.run_dir}) {
    std::error_code error;
    std::filesystem::create_directories(dir, error);
    if (error) return Fail(Code::kIo, "create " + dir + ": " + error.message());
  }
  return std::unique_ptr<Cluster>(new Cluster(loop, std::move(options), std::move(*config)));
}

Cluster::Cluster(event::EventLoop& loop, ClusterOptions options, kube::ClientConfig config)
    : loop_(loop), options_(std::move(options)), release_(loop, [this] {
        if (enroller_) Release(*enroller_, std::move(released_));
      }) {
  client_ = std::make_unique<kube::Client>(loop, std::move(config));
  KubeSourceOptions source;
  source.node_name = options_.node_name;
  source.cache_path = CachePath(options_);
  source.excluded_namespaces = {options_.excluded_namespaces.begin(),
                                options_.excluded_namespaces.end()};
  if (options_.install.conf_dir.empty()) source.addresses_of = AddressesIn;
  source_ = std::make_unique<KubeSource>(loop, *client_, std::move(source));
  PublisherOptions publish;
  publish.node_name = options_.node_name;
  publisher_ = std::make_unique<Publisher>(loop, *client_, std::move(publish));
  if (!options_.daemonset.empty())
    daemonset_ = std::make_unique<OwnDaemonSet>(*client_, options_.ns, options_.daemonset);
}

void Cluster::Observe(Enroller& enroller) {
  enroller_ = &enroller;
  enroller.SetObserver([this](const PodView& view) { publisher_->OnPod(view); });
}

Status Cluster::InstallPlugin() {
  if (options_.install.conf_dir.empty()) return {};
  cni::CredentialsOptions credentials;
  credentials.path = KubeconfigPath(options_);
  credentials.ns = options_.ns;
  credentials_ = std::make_unique<cni::Credentials>(loop_, *client_, std::move(credentials));
  credentials_->Start();
  installer_ =
      std::make_unique<cni::Installer>(loop_, options_.install, [this](const std::string& other) {
        if (enroller_) enroller_->SetObstacle(other);
      });
  return installer_->Start();
}

std::string Cluster::NotReady() const {
  if (!source_->synced()) {
    const std::string why = source_->last_error();
    return "not synced with the API server" + (why.empty() ? "" : ": " + why);
  }
  if (installer_ && !installer_->problem().empty()) return installer_->problem();
  return "";
}

void Cluster::Leave(Enroller& enroller, std::function<void(bool)> done) {
  if (!daemonset_) return done(false);
  daemonset_->AskWhetherItEnds([this, &enroller, done = std::move(done)](bool ends) mutable {
    if (!ends) return done(false);
    LOG_INFO("cluster", "the DaemonSet {} is being deleted: the node is given back as it was",
             options_.daemonset);
    // First, so that no new pod is held by a plugin whose agent is gone.
    installer_.reset();
    credentials_.reset();
    if (!options_.install.conf_dir.empty())
      if (Status removed = cni::Installer::Remove(options_.install); !removed)
        LOG_ERROR("cluster", "the CNI plugin is not wholly removed: {}", removed.error().message);
    enroller.SetObstacle("");
    enroller.ReleaseAll("Qanat is being removed from the node");
    release_until_ = loop_.now() + kReleaseAtMost;
    Release(enroller, std::move(done));
  });
}

// Pods leave one after the other, each when its annotation was taken back; looked at again and
// again until none is captured.
void Cluster::Release(Enroller& enroller, std::function<void(bool)> done) {
  size_t left = 0;
  for (const PodView& pod : enroller.View()) left += (pod.enforced || pod.draining) && !pod.leaving;
  if (left > 0 && loop_.now() < release_until_) {
    released_ = std::move(done);
    release_.Start(kReleaseLook);
    return;
  }
  if (left > 0) LOG_ERROR("cluster", "{} pods could not be given plain networking back", left);
  publisher_->Flush(std::chrono::seconds(2), [done = std::move(done)] { done(true); });
}

void Cluster::RemoveTraces() {
  std::error_code error;
  for (const std::string& file :
       {CachePath(options_), KubeconfigPath(options_), options_.zds_socket, options_.hold_socket,
        options_.cni_socket, options_.install.settings.log_file})
    if (!file.empty()) (void)RemoveFile(file);
  // The proxy's, in folders of ours (deploy/manifests).
  for (const std::string& dir : {options_.lib_dir, options_.run_dir}) {
    if (dir.empty()) continue;  // "/ztunnel" is not ours
    std::filesystem::remove_all(dir + "/ztunnel", error);
    RemoveNodeFolder(dir + "/ztunnel");
  }
  for (const std::string& dir : {options_.status_dir, options_.state_dir}) {
    std::filesystem::remove_all(dir, error);
    RemoveNodeFolder(dir);
  }
  for (const std::string& dir : {options_.lib_dir, options_.run_dir}) {
    ::rmdir(dir.c_str());
    RemoveNodeFolder(dir);
  }
  RemoveNodeFolder(std::filesystem::path(options_.zds_socket).parent_path().string());
}

}  // namespace qanat::agent
