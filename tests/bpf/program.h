// SPDX-License-Identifier: Apache-2.0
// The per-pod programs, loaded from their object file as one pod's but attached to nothing: run on
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

class PodPrograms {
 public:
  static constexpr uint32_t kPod = 3;
  static constexpr const char* kIp4 = "10.0.0.5";
  static constexpr const char* kIp6 = "fd00::5";

  explicit PodPrograms(const std::string& object);

  // What the guard answers to a packet from its Ethernet header on: a TCX_ code.
  int Guard(const std::vector<uint8_t>& packet);

  struct Lookup {
    std::string from, to;  // "10.0.0.9:4000", "[fd00::5]:80"
    uint8_t protocol = 6;  // TCP
  };
  struct Found {
    int verdict = -1;     // SK_DROP or SK_PASS
    uint64_t cookie = 0;  // of the socket that was assigned, 0: none
  };
  Found Find(const Lookup& lookup);

  void SetState(uint32_t mode, uint32_t generation = 1, uint32_t workers = 1);
  // A listening socket in that slot; its cookie.
  uint64_t Listen(uint32_t role, uint32_t worker = 0);
  void CloseListener(uint32_t role, uint32_t worker = 0);
  static qanat_tuple Tuple(const std::string& from, const std::string& to);
  void Put(const char* map, const void* key, const void* value);
  bool Get(const char* map, const void* key, void* value);
  uint64_t Counter(qanat_counter which);

 private:
  struct Close {
    void operator()(bpf_object* object) const { bpf_object__close(object); }
  };
  int MapFd(const char* name) const;
  int ProgramFd(const char* name) const;

  std::unique_ptr<bpf_object, Close> object_;
  Fd listeners_[QANAT_ROLES][4];
};

}  // namespace qanat::test
