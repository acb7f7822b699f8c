// SPDX-License-Identifier: Apache-2.0
// The layouts that both compilers must agree on. A change here is a change of QANAT_ABI_VERSION.
#include <cstddef>
#include <type_traits>

#include "bpf/include/abi.h"

static_assert(QANAT_ABI_VERSION == 3 && QANAT_ABI_OLDEST == 3);
static_assert(sizeof(qanat_abi) == 8 && offsetof(qanat_abi, version) == 0);
static_assert(sizeof(qanat_ip) == 16);
static_assert(sizeof(qanat_tuple) == 36 && offsetof(qanat_tuple, dst) == 16 &&
              offsetof(qanat_tuple, sport) == 32 && offsetof(qanat_tuple, dport) == 34);
static_assert(sizeof(qanat_pod) == 44 && offsetof(qanat_pod, serial) == 8 &&
              offsetof(qanat_pod, ip4) == 12);
static_assert(sizeof(qanat_pod_state) == 28 && offsetof(qanat_pod_state, workers) == 8 &&
              offsetof(qanat_pod_state, flags) == 20);
static_assert(sizeof(qanat_grant) == 40 && offsetof(qanat_grant, pod_id) == 24 &&
              offsetof(qanat_grant, kind) == 32);
static_assert(QANAT_MAX_PODS * QANAT_BUDGET_DEFAULT <= QANAT_MAX_GRANTS);
static_assert(sizeof(qanat_direct) == 24 && offsetof(qanat_direct, generation) == 8);
static_assert(sizeof(qanat_verdict_key) == 12 && offsetof(qanat_verdict_key, family) == 10);
static_assert(sizeof(qanat_verdict) == 12);
static_assert(sizeof(qanat_miss) == 28 && offsetof(qanat_miss, dst) == 12);
static_assert(sizeof(qanat_flow) == 40 && offsetof(qanat_flow, src_serial) == 24);
static_assert(sizeof(qanat_vip_key) == 24 && offsetof(qanat_vip_key, port) == 20);
static_assert(sizeof(qanat_vip_endpoint) == 32 && offsetof(qanat_vip_endpoint, ip) == 16);
static_assert(sizeof(qanat_vip) == 8 + 32 * QANAT_VIP_ENDPOINTS);
static_assert(sizeof(qanat_suspended_key) == 12 && sizeof(qanat_suspended) == 16);
static_assert(sizeof(qanat_direct_sk) == 72 && offsetof(qanat_direct_sk, path) == 44 &&
              offsetof(qanat_direct_sk, start_ns) == 56);
static_assert(sizeof(qanat_record) == 152 && offsetof(qanat_record, start_ns) == 48 &&
              offsetof(qanat_record, connect_us) == 80 && offsetof(qanat_record, busy) == 124);
static_assert(sizeof(qanat_own_ip) == 20 && offsetof(qanat_own_ip, ip) == 4);
static_assert(sizeof(qanat_budget) == 8);
static_assert(sizeof(qanat_origin_record) == 8);
static_assert(sizeof(qanat_probe) == 16);
static_assert(sizeof(qanat_host_end) == 48 && offsetof(qanat_host_end, ip4) == 16);
static_assert(sizeof(qanat_config) == 8 + 8 * (QANAT_MAX_PEERS + QANAT_MAX_POD_ROOTS));
static_assert(sizeof(qanat_dns_server) == 32 && offsetof(qanat_dns_server, used_ns) == 16);
static_assert(sizeof(qanat_dns_table) == 32 + 32 * QANAT_DNS_SERVERS &&
              offsetof(qanat_dns_table, servers) == 32);
static_assert(QANAT_DNS_SERVERS * QANAT_DNS_GENERATIONS == 1 << 16);
static_assert(sizeof(qanat_counters) == 8 * QANAT_COUNTERS);
static_assert(std::is_trivially_copyable_v<qanat_config>);
