// SPDX-License-Identifier: Apache-2.0
// Maps of another layout, older or newer, that an earlier agent left. What lives in them is carried
// over, and the programs behind the pinned links are replaced one by one, so that at every moment,
// and also if we are killed in between, each link runs a program whose maps say the same as the
// others'.
//
//   DIR/maps  the layout in force        DIR/next  ours, until all links run our programs
//
// 1. Stage: DIR/next gets the maps that are the same in both layouts (the very same maps: sockets
//    and what is stored with them need no copy), then, made by libbpf, those that differ.
// 2. Fill: what the agent wrote is copied. Nothing is in force yet.
// 3. BeginSwap, then the caller replaces programs: the pods' first (their lookups read the grants
// of
//    both layouts), the node's last.
// 4. Commit: what old programs wrote meanwhile is copied, DIR/next and DIR/maps change places at
//    once, and the old maps' pins are removed.
//
// Killed before 4, the next agent of our layout goes on from DIR/next if a swap had begun; an agent
// of the old one finds DIR/maps as it was and replaces what we replaced. Killed after it, DIR/next
// is only something to remove.
#pragma once

#include <bpf/libbpf.h>

#include <memory>
#include <string>
#include <vector>

#include "bpf/include/abi.h"
#include "bpf/user/fence.h"
#include "bpf/user/layout.h"
#include "common/base/fd.h"
#include "common/base/result.h"

namespace qanat::agent {

class Migration {
 public:
  // What lies in DIR/maps against the maps of these objects (opened, not loaded). None: nothing is
  // to be done. An error: somebody else's layout that must not be touched; all stays in force.
  static Result<std::unique_ptr<Migration>> Plan(const std::string& dir,
                                                 const std::vector<const bpf_object*>& objects);

  std::string next_dir() const { return dir_ + "/next"; }
  Status Stage();
  Status Fill();  // all of the objects' maps are pinned in next_dir()
  Status BeginSwap();
  Status Commit();

  uint32_t version() const { return version_; }  // of what was found
  const std::vector<std::string>& changed() const { return changed_; }
  // For sk_lookup: the grants of the old layout; -1 when they are the same map.
  int grants_before() const { return grants_before_.get(); }
  qanat_before before() const { return before_; }

 private:
  struct Item {
    std::string name;
    bpf::MapLayout wanted;
    bpf::MapLayout found;
    Fd map;  // in force; invalid: there was none
    bool same = false;
  };
  explicit Migration(std::string dir) : dir_(std::move(dir)) {}
  Status Look(const std::vector<const bpf_object*>& objects);
  Status CheckVersion();
  Status EndLease();
  bool MayGoOn() const;
  Status Copy(const Item& item, bool only_absent) const;
  std::string NextPath(const std::string& name) const { return next_dir() + "/" + name; }

  std::string dir_;
  std::vector<Item> items_;
  std::vector<std::string> changed_;
  uint32_t version_ = 0;
  bool goes_on_ = false;  // with what an earlier agent began
  Fd grants_before_;
  qanat_before before_{};
};

}  // namespace qanat::agent
