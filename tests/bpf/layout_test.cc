// SPDX-License-Identifier: Apache-2.0
// Entries of one layout become entries of another by the names of their fields.
#include "bpf/user/layout.h"

#include <bpf/bpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "bpf/user/map.h"

namespace qanat::bpf {
namespace {

using ::testing::HasSubstr;
using Leaves = std::vector<Leaf>;

MapLayout Hash(Leaves value, uint32_t size) {
  return {BPF_MAP_TYPE_HASH, 4, size, 8, 0, Leaves{{"", 0, 4}}, std::move(value)};
}

TEST(LayoutTest, FieldsKeepTheirValueWhereverTheyAre) {
  const auto spans = Convert(Leaves{{"id", 0, 4}, {"gone", 4, 4}, {"low", 8, 2}}, 12,
                             Leaves{{"fresh", 0, 8}, {"low", 8, 4}, {"id", 12, 4}}, 16);
  ASSERT_TRUE(spans);
  ASSERT_EQ(spans->size(), 2u);
  EXPECT_EQ((*spans)[0].from, 8u);
  EXPECT_EQ((*spans)[0].to, 8u);
  EXPECT_EQ((*spans)[0].size, 2u) << "a wider field: the number is the same";
  EXPECT_EQ((*spans)[1].from, 0u);
  EXPECT_EQ((*spans)[1].to, 12u);
}

TEST(LayoutTest, WhatWouldLoseSomethingIsRefused) {
  const auto narrow = Convert(Leaves{{"time", 0, 8}}, 8, Leaves{{"time", 0, 4}}, 4);
  ASSERT_FALSE(narrow);
  EXPECT_THAT(narrow.error().message, HasSubstr("time has 8 bytes and would get 4"));
  EXPECT_FALSE(Convert(std::nullopt, 8, Leaves{{"time", 0, 4}}, 4)) << "nobody knows what is in it";
  EXPECT_TRUE(Convert(std::nullopt, 8, Leaves{{"time", 0, 8}}, 8));
}

TEST(LayoutTest, AnotherNameOfTheSameSizeIsAnotherLayout) {
  const MapLayout a = Hash({{"until", 0, 8}}, 8), b = Hash({{"since", 0, 8}}, 8);
  EXPECT_TRUE(SameLayout(a, a));
  EXPECT_FALSE(SameLayout(a, b));
  MapLayout bigger = a;
  bigger.max_entries = 9;
  EXPECT_FALSE(SameLayout(a, bigger));
}

TEST(LayoutTest, MapsOfSocketsCannotBeCopied) {
  MapLayout storage = Hash({{"origin", 0, 4}}, 4), wider = Hash({{"origin", 0, 8}}, 8);
  EXPECT_TRUE(CheckConvertible(storage, wider));
  storage.type = wider.type = BPF_MAP_TYPE_SK_STORAGE;
  EXPECT_FALSE(CheckConvertible(storage, wider));
  storage.type = wider.type = BPF_MAP_TYPE_SOCKMAP;
  EXPECT_FALSE(CheckConvertible(storage, wider));
  wider.type = BPF_MAP_TYPE_HASH;
  EXPECT_FALSE(CheckConvertible(storage, wider)) << "nor become another kind";
}

TEST(LayoutTest, EntriesAreCarriedOver) {
  const MapLayout from = Hash({{"a", 0, 4}, {"b", 4, 4}}, 8);
  const MapLayout to = Hash({{"c", 0, 4}, {"b", 4, 4}, {"a", 8, 4}}, 12);
  const Fd old(bpf_map_create(BPF_MAP_TYPE_HASH, "qanat_t", 4, 8, 8, nullptr));
  const Fd fresh(bpf_map_create(BPF_MAP_TYPE_HASH, "qanat_t", 4, 12, 8, nullptr));
  ASSERT_TRUE(old && fresh);
  for (uint32_t key : {7u, 9u}) {
    const uint32_t value[] = {key + 1, key + 2};
    ASSERT_TRUE(UpdateRaw(old.get(), &key, value, 0));
  }
  const uint32_t nine = 9, kept[] = {1, 2, 3};
  ASSERT_TRUE(UpdateRaw(fresh.get(), &nine, kept, 0));
  ASSERT_TRUE(CopyEntries(old.get(), from, fresh.get(), to, /*only_absent=*/true));
  const uint32_t seven = 7;
  uint32_t got[3];
  ASSERT_TRUE(LookupRaw(fresh.get(), &seven, got).value_or(false));
  EXPECT_THAT(got, ::testing::ElementsAre(0, 9, 8));
  ASSERT_TRUE(LookupRaw(fresh.get(), &nine, got).value_or(false));
  EXPECT_THAT(got, ::testing::ElementsAre(1, 2, 3)) << "there before";
  ASSERT_TRUE(CopyEntries(old.get(), from, fresh.get(), to));
  ASSERT_TRUE(LookupRaw(fresh.get(), &nine, got).value_or(false));
  EXPECT_THAT(got, ::testing::ElementsAre(0, 11, 10));
}

TEST(LayoutTest, CountersOfEveryCpuAreCarriedOver) {
  MapLayout from = Hash({{"value[0]", 0, 8}}, 8),
            to = Hash({{"value[0]", 0, 8}, {"value[1]", 8, 8}}, 16);
  from.type = to.type = BPF_MAP_TYPE_PERCPU_ARRAY;
  const Fd old(bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "qanat_t", 4, 8, 8, nullptr));
  const Fd fresh(bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, "qanat_t", 4, 16, 8, nullptr));
  ASSERT_TRUE(old && fresh);
  const auto cpus = static_cast<size_t>(PossibleCpus());
  std::vector<uint64_t> values(cpus), got(2 * cpus);
  for (size_t i = 0; i < cpus; ++i) values[i] = 100 + i;
  const uint32_t five = 5;
  ASSERT_TRUE(UpdateRaw(old.get(), &five, values.data(), 0));
  ASSERT_TRUE(CopyEntries(old.get(), from, fresh.get(), to));
  ASSERT_TRUE(LookupRaw(fresh.get(), &five, got.data()).value_or(false));
  for (size_t i = 0; i < cpus; ++i) EXPECT_EQ(got[2 * i], 100 + i);
}

}  // namespace
}  // namespace qanat::bpf
