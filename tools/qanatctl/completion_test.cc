// SPDX-License-Identifier: Apache-2.0
// The bash script is run in bash; the others share its table and walk.
#include "tools/qanatctl/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "tools/qanatctl/cli.h"

namespace qanat::ctl {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

using Words = std::vector<std::string>;

class Bash : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "qanatctl-completion";
    mkdir(dir_.c_str(), 0755);
    std::ofstream(dir_ + "/completion") << CompletionScript("bash", CommandShapes());
    // Stands in for the program that is asked for words.
    std::ofstream(dir_ + "/qanatctl") << "#!/bin/sh\n[ $1 = words ] || exit 1\n"
                                         "echo $2-of-$4\necho shop/web\n";
    chmod((dir_ + "/qanatctl").c_str(), 0755);
    std::ofstream(dir_ + "/folder.yaml") << "\n";
  }

  // What TAB offers at the end of this line; the last word may be empty.
  Words Complete(const Words& words) {
    std::string command = "cd " + dir_ + " && bash -c '. ./completion; COMP_WORDS=(./qanatctl";
    for (const std::string& word : words) command += " \"" + word + "\"";
    command += "); COMP_CWORD=" + std::to_string(words.size()) +
               "; _qanatctl; printf \"%s\\n\" \"${COMPREPLY[@]}\"' 2>&1";
    Words out;
    FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) return out;
    char line[4096];
    while (fgets(line, sizeof line, pipe) != nullptr) {
      std::string text = line;
      text.pop_back();
      if (!text.empty()) out.push_back(text);
    }
    pclose(pipe);
    return out;
  }

  std::string dir_;
};

TEST_F(Bash, Subcommands) {
  EXPECT_THAT(Complete({"st"}), ElementsAre("status"));
  EXPECT_THAT(Complete({""}), Contains("why"));
  EXPECT_THAT(Complete({""}), Not(Contains("words"))) << "hidden";
  EXPECT_THAT(Complete({"local", ""}),
              UnorderedElementsAre("up", "down", "status", "exec", "logs"));
  EXPECT_THAT(Complete({"local", "--name", "x", "s"}), ElementsAre("status"));
}

TEST_F(Bash, OptionsAreThoseOfTheCommand) {
  EXPECT_THAT(Complete({"local", "up", "--no"}),
              UnorderedElementsAre("--nodes", "--no-mesh", "--no-detach"));
  EXPECT_THAT(Complete({"local", "status", "--no"}), IsEmpty());
  EXPECT_THAT(Complete({"status", "--o"}), ElementsAre("--output"));
  // An argument that is called as a command is called does not change the command.
  EXPECT_THAT(Complete({"local", "up", "status", "--mt"}), ElementsAre("--mtu"));
}

TEST_F(Bash, ValuesOfOptions) {
  EXPECT_THAT(Complete({"status", "-o", ""}), ElementsAre("table", "json", "yaml"));
  EXPECT_THAT(Complete({"status", "--output", "=", "y"}), ElementsAre("yaml")) << "as bash splits";
  EXPECT_THAT(Complete({"status", "--output", "="}), ElementsAre("table", "json", "yaml"));
  EXPECT_THAT(Complete({"local", "up", "--mtu", ""}), IsEmpty());
  EXPECT_THAT(Complete({"workloads", "--node", ""}), Contains("nodes-of-local"));
}

TEST_F(Bash, ArgumentsAreAskedOfTheMesh) {
  EXPECT_THAT(Complete({"local", "up", "fol"}), ElementsAre("folder.yaml"));
  EXPECT_THAT(Complete({"local", "exec", ""}), Contains("pods-of-local"));
  EXPECT_THAT(Complete({"local", "logs", "--name", "test", ""}), Contains("targets-of-test"));
  EXPECT_THAT(Complete({"why", "sh"}), ElementsAre("shop/web"));
  EXPECT_THAT(Complete({"why", "--path", "/x", "shop/web", ""}), Contains("services-of-local"));
  EXPECT_THAT(Complete({"why", "shop/web", "web", ":", "80", ""}), IsEmpty()) << "both are given";
  EXPECT_THAT(Complete({"local", "exec", "shop/web", "--", ""}), IsEmpty()) << "another program's";
  EXPECT_THAT(Complete({"completion", "f"}), ElementsAre("fish"));
}

TEST(Completion, EveryShellKnowsEveryCommand) {
  const std::vector<CommandShape> commands = CommandShapes();
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = CompletionScript(shell, commands);
    for (const char* word : {"certificates", "why", "exec", "no-mesh", "words pods"}) {
      if (std::string(shell) != "fish" && std::string(word) == "words pods") continue;
      EXPECT_THAT(script, HasSubstr(word)) << shell;
    }
    EXPECT_THAT(script, Not(HasSubstr("supervise"))) << "hidden";
    for (const char* place : {"%FIRST%", "%CURRENT%", "%WORDS%", "%PLACES%"}) {
      EXPECT_THAT(script, Not(HasSubstr(place))) << "not filled in";
    }
  }
  EXPECT_EQ(CompletionScript("tcsh", commands), "");
}

}  // namespace
}  // namespace qanat::ctl
