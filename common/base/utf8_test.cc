// SPDX-License-Identifier: Apache-2.0
#include "common/base/utf8.h"

#include <gtest/gtest.h>

namespace qanat {
namespace {

TEST(Utf8, WhatIsText) {
  for (const std::string_view good :
       {"", "plain", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(FirstNotUtf8(good), std::string_view::npos) << good;
  }
}

TEST(Utf8, WhatIsNotAndWhere) {
  for (const std::string_view bad :
       {"ab\x80", "ab\xc1\xbf", "ab\xc2", "ab\xc2x", "ab\xe0\x9f\xbf", "ab\xed\xa0\x80",
        "ab\xe2\x82", "ab\xf0\x8f\xbf\xbf", "ab\xf4\x90\x80\x80", "ab\xf5\x80\x80\x80", "ab\xff"}) {
    EXPECT_EQ(FirstNotUtf8(bad), 2u) << bad;
  }
}

}  // namespace
}  // namespace qanat
