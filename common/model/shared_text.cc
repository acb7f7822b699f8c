// SPDX-License-Identifier: Apache-2.0
#include "common/model/shared_text.h"

#include <atomic>
#include <mutex>
#include <unordered_set>

namespace qanat::model {

struct SharedText::Node {
  explicit Node(std::string_view t) : text(t) {}
  const std::string text;
  std::atomic<uint32_t> owners{1};

  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view of) const { return std::hash<std::string_view>()(of); }
    size_t operator()(const Node* node) const { return (*this)(std::string_view(node->text)); }
  };
  struct Equal {
    using is_transparent = void;
    static std::string_view Of(std::string_view of) { return of; }
    static std::string_view Of(const Node* node) { return node->text; }
    bool operator()(const auto& a, const auto& b) const { return Of(a) == Of(b); }
  };
  struct Table {
    std::mutex mutex;
    std::unordered_set<Node*, Hash, Equal> nodes;  // each with an owner or more
  };
  static Table& All() {
    static Table& table = *new Table;  // for ever: texts may be let go of after main()
    return table;
  }
};

SharedText::Node* SharedText::Find(std::string_view text) {
  if (text.empty()) return nullptr;
  Node::Table& all = Node::All();
  const std::lock_guard lock(all.mutex);
  if (const auto it = all.nodes.find(text); it != all.nodes.end()) {
    (*it)->owners.fetch_add(1, std::memory_order_relaxed);
    return *it;
  }
  return *all.nodes.insert(new Node(text)).first;
}

void SharedText::Keep() const {
  if (node_ != nullptr) node_->owners.fetch_add(1, std::memory_order_relaxed);
}

// From one to none only with the lock: under it somebody may find the text meanwhile.
void SharedText::Release(Node* node) {
  uint32_t owners = node->owners.load(std::memory_order_relaxed);
  while (owners > 1) {
    if (node->owners.compare_exchange_weak(owners, owners - 1, std::memory_order_acq_rel)) return;
  }
  Node::Table& all = Node::All();
  const std::lock_guard lock(all.mutex);
  if (node->owners.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  all.nodes.erase(node);
  delete node;
}

const std::string& SharedText::str() const {
  static const std::string& empty = *new std::string;
  return node_ == nullptr ? empty : node_->text;
}

}  // namespace qanat::model
