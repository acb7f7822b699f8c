// SPDX-License-Identifier: Apache-2.0
// A workload's addresses. Nearly all have one, which is in here; several are shared by copies.
#pragma once

#include <initializer_list>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "common/model/shared_value.h"
#include "common/net/address.h"

namespace qanat::model {

class AddressList {
 public:
  AddressList() = default;
  AddressList(const std::vector<net::IpAddress>& list) {
    if (list.size() == 1) addresses_ = list[0];
    if (list.size() > 1) addresses_ = SharedList<net::IpAddress>(list);
  }
  AddressList(std::initializer_list<net::IpAddress> list)
      : AddressList(std::vector<net::IpAddress>(list)) {}

  std::span<const net::IpAddress> all() const {
    if (const auto* one = std::get_if<net::IpAddress>(&addresses_)) return {one, 1};
    if (const auto* more = std::get_if<SharedList<net::IpAddress>>(&addresses_)) {
      return more->whole();
    }
    return {};
  }
  auto begin() const { return all().begin(); }
  auto end() const { return all().end(); }
  bool empty() const { return all().empty(); }
  size_t size() const { return all().size(); }
  const net::IpAddress& front() const { return all().front(); }
  const net::IpAddress& operator[](size_t index) const { return all()[index]; }
  bool operator==(const AddressList&) const = default;

 private:
  std::variant<std::monostate, net::IpAddress, SharedList<net::IpAddress>> addresses_;
};

}  // namespace qanat::model
