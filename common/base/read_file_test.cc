// SPDX-License-Identifier: Apache-2.0
#include "common/base/read_file.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <thread>

namespace qanat {
namespace {

using testing::HasSubstr;

class ReadFileTest : public ::testing::Test {
 protected:
  ~ReadFileTest() override { unlink(path.c_str()); }
  void Write(const std::string& text) const { std::ofstream(path, std::ios::binary) << text; }
  const std::string path = testing::TempDir() + "read-file-" + std::to_string(getpid());
};

TEST_F(ReadFileTest, AllOfItWhateverItsSize) {
  for (const size_t size : {0u, 1u, 16383u, 16384u, 16385u, 100'000u}) {
    std::string text(size, 'x');
    if (size > 2) text[size / 2] = '\0';
    Write(text);
    const auto read = ReadFile(path);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(*read, text);
  }
}

TEST_F(ReadFileTest, ItsBound) {
  Write(std::string(1000, 'x'));
  EXPECT_TRUE(ReadFile(path, 1000));
  const auto read = ReadFile(path, 999);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Code::kInvalidArgument);
  EXPECT_THAT(read.error().message, HasSubstr(path));
}

TEST_F(ReadFileTest, WhatIsNotThereOrNoFile) {
  const auto absent = ReadFile(path);
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().sys_errno, ENOENT);
  EXPECT_THAT(absent.error().message, HasSubstr(path));
  EXPECT_EQ(ReadFile("/tmp").error().sys_errno, EISDIR);
  EXPECT_EQ(ReadFile("/tmp", 100, FileKind::kRegular).error().code, Code::kInvalidArgument);
}

TEST_F(ReadFileTest, APipeOnlyWhereOneMayWait) {
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const auto refused = ReadFile(path, 100, FileKind::kRegular);  // with nobody who writes
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("is no file"));
  std::thread writer([this] { Write("through a pipe"); });
  const auto read = ReadFile(path);
  writer.join();
  ASSERT_TRUE(read);
  EXPECT_EQ(*read, "through a pipe");
}

}  // namespace
}  // namespace qanat
