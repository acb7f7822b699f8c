// SPDX-License-Identifier: Apache-2.0
// The admin server with a hostile client: raw bytes over a unix socket, in pieces.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "common/admin/server.h"
#include "common/base/log.h"
#include "common/http/client.h"

namespace {

struct Bed {
  qanat::event::EventLoop loop;
  qanat::admin::Server server{loop};
  std::string path = "/tmp/qanat-fuzz-admin-" + std::to_string(::getpid());
  Bed() {
    (void)qanat::log::SetLevels("off");
    if (!server.ListenUnix(path)) abort();
    server.Route("GET", "/", [](const auto&) { return qanat::admin::Text(200, "ok"); });
    server.Route("POST", "/logging", [](const auto& r) {
      return qanat::admin::Text(200, r.Parameter("level").value_or("") + r.body);
    });
    server.RoutePrefix("GET", "/debug/",
                       [](const auto& r) { return qanat::admin::Json(200, r.path + r.query); });
    server.RouteDeferred("POST", "/never", [](const auto&, auto) {});
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Bed bed;  // one server for all inputs, as in life
  if (size < 2) return 0;
  auto fd = qanat::http::ConnectUnix(bed.path);
  if (!fd) return 0;
  const size_t step = 1 + data[0];
  for (size_t i = 1; i < size; i += step) {
    const size_t n = std::min(step, size - i);
    if (::send(fd->get(), data + i, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
    bed.loop.RunOnce({});
    char buffer[4096];
    while (::recv(fd->get(), buffer, sizeof buffer, MSG_DONTWAIT) > 0) {
    }
  }
  fd->Reset();
  for (int i = 0; i < 100 && bed.server.connections() > 0; ++i) bed.loop.RunOnce({});
  return 0;
}
