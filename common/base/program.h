// SPDX-License-Identifier: Apache-2.0
// What the main() of several programs does first. Called once, before there are threads.
#pragma once

#include <sys/resource.h>

#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qanat {

// Lifts the limit of open files to what the process may have; with `wanted`, that is also the hard
// limit's new value where the process is allowed to raise it (root). Best effort.
void RaiseFileLimit(rlim_t wanted = 0);

// Up to which descriptor users' connections may go, so that probes, metrics, certificates, the
// control plane's stream and files go on when connections have taken all others. Descriptors are
// given out lowest first, so one's number says how many there are.
struct DescriptorBounds {
  int accepted = std::numeric_limits<int>::max();  // no connection is taken with one from here on
  int made = std::numeric_limits<int>::max();      // nor one made for those that were taken
};
// By the limit of open files as it is now: a sixteenth of it is kept, from 64 to 4096, and half of
// that from connections that were taken.
DescriptorBounds BoundDescriptors();

// The version that this program was built as, "0.1.0".
std::string_view Version();

// The arguments of a program that is configured by its environment: --version and --help, and the
// words that stock manifests pass to it ("proxy ztunnel"), which mean nothing here. The exit code
// if the program is to end now, after something was printed; nullopt to go on.
std::optional<int> HandleArguments(int argc, char** argv, std::string_view program,
                                   std::string_view usage,
                                   std::initializer_list<std::string_view> ignored);

// Overwrites what a secret's text held, in a way that no optimiser leaves out.
void Wipe(std::string& secret);

// All of the environment as NAME=value.
std::vector<std::string> EnvironmentEntries();

}  // namespace qanat
