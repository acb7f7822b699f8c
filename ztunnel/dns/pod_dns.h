// SPDX-License-Identifier: Apache-2.0
// Which name servers and search list a pod has: its own, where the node agent has written them down
// (from spec.dnsPolicy and dnsConfig, agent/pods/dns_files.h; stock agents do not), else this
// proxy's name servers and the search list that Kubernetes gives by default. A file of the pod that
// cannot be read leaves the last good one in force. Lives on one worker's thread; files are looked
// at again every few seconds.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/net/address.h"

namespace qanat::ztunnel::dns {

struct NameServer {
  net::SocketAddress address;
  // Reached from inside the pod; false for a loopback address of this proxy's own resolv.conf,
  // which means something else there.
  bool in_pod = true;
  bool operator==(const NameServer&) const = default;
};

struct PodDns {
  std::vector<NameServer> servers;  // in order of preference
  std::vector<std::string> search;  // lower case, no last dot
};

// {"nameservers":["10.96.0.10"],"search":["shop.svc.cluster.local"],"ndots":5}: every key may be
// missing (then the default holds), unknown ones are left alone. A server is an address, or
// address:port. "more_nameservers" come after the others, this proxy's own too, up to three in all.
struct PodFile {
  std::optional<std::vector<NameServer>> servers;
  std::vector<NameServer> more;
  std::optional<std::vector<std::string>> search;
};
Result<PodFile> ParsePodFile(std::string_view json);
std::vector<NameServer> ParseResolvConf(std::string_view text);

// <folder of the node agent's socket>/dns/<uid>; "" for a uid that is no file name.
std::string PodFilePath(const std::string& agent_socket, const std::string& uid);

class PodDnsSettings {
 public:
  PodDnsSettings(std::string pod_file, std::string resolv_conf, std::string_view ns,
                 const std::string& cluster_domain);
  const PodDns& Get(event::TimePoint now);

 private:
  struct File {
    std::string path;
    struct timespec modified{};
    off_t size = -1;
    ino_t inode = 0;
    int trouble = 0;  // errno of the last look
    bool Changed();   // since the last call
    // Nobody has written one; one that cannot be looked at is there.
    bool Absent() const;
    Result<std::string> Read() const;
  };
  void Load();

  File pod_file_, resolv_conf_;
  std::vector<std::string> default_search_;
  PodDns dns_;
  bool own_ = false;  // the pod's file is in it
  std::optional<event::TimePoint> looked_;
};

}  // namespace qanat::ztunnel::dns
