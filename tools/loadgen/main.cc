// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/base/program.h"
#include "tools/loadgen/loadgen.h"

namespace {

int Usage() {
  std::fputs(
      "usage: qanat-loadgen server --port P          echo on P, sink on P+1, HTTP on P+2\n"
      "       qanat-loadgen MODE --to IP:PORT [--connections N] [--seconds S] [--warmup S]\n"
      "                     [--size BYTES] [--rate R] [--host NAME] [--path PATH]\n"
      "MODE: bulk, rr, connect, http, idle. Prints one line of JSON.\n",
      stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return Usage();
  qanat::RaiseFileLimit(1 << 20);
  qanat::loadgen::Load load;
  load.mode = argv[1];
  long port = 0;
  for (int i = 2; i < argc; i += 2) {
    std::string_view flag = argv[i];
    if (i + 1 >= argc) return Usage();
    const char* value = argv[i + 1];
    if (flag == "--port") {
      port = std::atol(value);
    } else if (flag == "--to") {
      auto to = qanat::net::SocketAddress::Parse(value);
      if (!to) {
        std::fprintf(stderr, "%s\n", to.error().message.c_str());
        return 2;
      }
      load.to = *to;
    } else if (flag == "--connections") {
      load.connections = std::atoi(value);
    } else if (flag == "--seconds") {
      load.seconds = std::atof(value);
    } else if (flag == "--warmup") {
      load.warmup = std::atof(value);
    } else if (flag == "--size") {
      load.size = static_cast<size_t>(std::atol(value));
    } else if (flag == "--rate") {
      load.rate = std::atof(value);
    } else if (flag == "--host") {
      load.host = value;
    } else if (flag == "--path") {
      load.path = value;
    } else {
      return Usage();
    }
  }
  if (load.mode == "server") {
    if (port < 1 || port > 65533) return Usage();
    auto status = qanat::loadgen::RunServer(static_cast<uint16_t>(port));
    if (status) return 0;
    std::fprintf(stderr, "qanat-loadgen: %s\n", status.error().message.c_str());
    return 1;
  }
  if (!load.to.is_set() || load.connections < 1 || load.seconds <= 0 || load.seconds > 600 ||
      load.size < 1) {
    return Usage();
  }
  auto report = qanat::loadgen::RunLoad(load);
  if (!report) {
    std::fprintf(stderr, "qanat-loadgen: %s\n", report.error().message.c_str());
    return 1;
  }
  std::puts(report->c_str());
  return 0;
}
