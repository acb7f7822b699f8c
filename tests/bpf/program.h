// SPDX-License-Identifier: Apache-2.0
// Programs loaded from their object file, as those of one pod, but attached to nothing: run on
// made-up packets and lookups (BPF_PROG_TEST_RUN). Their maps are their own.
#pragma once

#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bpf/include/abi.h"
#include "common/base/fd.h"
#include "common/net/address.h"

namespace qanat::test {

class Programs {
 public:
  static constexpr uint32_t kPod = 3;
  static constexpr const char* kIp4 = "10.0.0.5";
  static constexpr const char* kIp6 = "fd00::5";

  explicit Programs(const std::string& object);  // not loaded yet

  void SetState(uint32_t mode, uint32_t generation = 1, uint32_t workers = 1);
  static qanat_tuple Tuple(const std::string& from, const std::string& to);
  static qanat_ip Ip(const std::string& ip);
  void Put(const char* map, const void* key, const void* value);
  bool Get(const char* map, const void* key, void* value);
  void Delete(const char* map, const void* key);
  uint64_t Counter(qanat_counter which);
  // Nanoseconds for one packet, on average of many.
  uint32_t Cost(const char* program, const std::vector<uint8_t>& packet);

 protected:
  void Load();
  // What a program answers to a packet from its Ethernet header on: a TCX_ code.
  int Run(const char* program, const std::vector<uint8_t>& packet, uint32_t ingress_ifindex = 0);
  int MapFd(const char* name) const;
  int ProgramFd(const char* name) const;
  bpf_object* object() const { return object_.get(); }

 private:
  struct Close {
    void operator()(bpf_object* object) const { bpf_object__close(object); }
  };
  std::unique_ptr<bpf_object, Close> object_;
};

// In each pod.
class PodPrograms : public Programs {
 public:
  explicit PodPrograms(const std::string& object);

  int Guard(const std::vector<uint8_t>& packet) { return Run("qanat_guard", packet); }
  int Ingress(const std::vector<uint8_t>& packet) { return Run("qanat_ingress", packet); }
  // sk_lookup in the calling thread's network namespace, until the descriptor is closed.
  Fd AttachLookup();

  struct Lookup {
    std::string from, to;  // "10.0.0.9:4000", "[fd00::5]:80"
    uint8_t protocol = 6;  // TCP
  };
  struct Found {
    int verdict = -1;     // SK_DROP or SK_PASS
    uint64_t cookie = 0;  // of the socket that was assigned, 0: none
  };
  Found Find(const Lookup& lookup);

  // A listening socket in that slot; its cookie.
  uint64_t Listen(uint32_t role, uint32_t worker = 0);
  void CloseListener(uint32_t role, uint32_t worker = 0);

 private:
  Fd listeners_[QANAT_ROLES][4];
};

// At the node's end of the pod's veth, which is interface 1 here.
class HostPrograms : public Programs {
 public:
  static constexpr uint32_t kDevice = 1;
  static constexpr uint64_t kNetns = 77;
  explicit HostPrograms(const std::string& object);

  void SetEnd(uint32_t flags, uint32_t device = kDevice, uint64_t netns = kNetns);
  int In(const std::vector<uint8_t>& packet) { return Run("qanat_host_in", packet); }
  // A packet that came in by that interface; 0: the node's own.
  int Out(const std::vector<uint8_t>& packet, uint32_t from) {
    return Run("qanat_host_out", packet, from);
  }
};

}  // namespace qanat::test
