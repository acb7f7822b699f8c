// SPDX-License-Identifier: Apache-2.0
// The DNS proxy of one pod: takes its questions by UDP and TCP, answers those about the mesh and
// has the others answered by the pod's name servers, byte for byte. Owned by a worker (one for each
// pod), lives on its thread.
#pragma once

#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <unordered_map>
#include <vector>

#include "common/net/socket.h"
#include "ztunnel/config.h"
#include "ztunnel/dns/forwarder.h"
#include "ztunnel/dns/listeners.h"
#include "ztunnel/dns/names.h"
#include "ztunnel/route/identify.h"
#include "ztunnel/telemetry/worker_metrics.h"

namespace qanat::ztunnel::dns {

class TcpClient;

class Server {
 public:
  struct Hooks {
    const Config& config;
    WorkerMetrics& metrics;
    std::function<const state::MeshSnapshot&()> snapshot;
    std::function<Identified(const Pod&)> identify;
    std::function<void(const Error&)> exhausted;      // no descriptor for another TCP client
    int kept_from = std::numeric_limits<int>::max();  // see BoundDescriptors()
  };
  Server(event::EventLoop& loop, PodPtr pod, Sockets sockets, Hooks hooks);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  void Update(PodPtr pod);
  void OnSnapshot();  // questions that wait for the pod's identity
  // No new TCP connections; UDP goes on until the end, since clients do not see who answers.
  void Drain();
  // While paused no new questions are taken: another process has the same sockets.
  void SetPaused(bool paused);
  // Series were removed from the metrics: a handle kept here would count where nobody looks.
  void ForgetSeries() { series_.clear(); }
  std::vector<int> udp_sockets() const;
  std::vector<int> tcp_sockets() const;

 private:
  friend class TcpClient;
  using Reply = std::function<void(::qanat::dns::Bytes)>;
  struct Held {
    std::vector<uint8_t> message;
    bool tcp;
    Reply reply;
    event::TimePoint until;
  };
  struct Series {
    std::shared_ptr<metrics::Counter> requests, upstream, failures;
    std::shared_ptr<metrics::Histogram> duration;
  };

  void OnUdp(int socket);
  void OnTcp(Fd fd);
  void Remove(uint64_t client);
  // `reply` is called once, perhaps at once; with nothing for what is no question.
  void Handle(::qanat::dns::Bytes message, bool tcp, Reply reply);
  void AnswerKnown(::qanat::dns::Bytes message, const ::qanat::dns::Query& query, bool tcp,
                   const model::Workload& client, const Reply& reply);
  void AnswerFromMesh(::qanat::dns::Bytes message, const ::qanat::dns::Query& query, bool tcp,
                      Match match, const Reply& reply);
  void Forward(::qanat::dns::Bytes message, const ::qanat::dns::Query& query, bool tcp, bool known,
               const Reply& reply);
  void Hold(::qanat::dns::Bytes message, bool tcp, Reply reply);
  void RetryHeld();
  void ReplyError(::qanat::dns::Bytes message, const ::qanat::dns::Query& query,
                  ::qanat::dns::Rcode rcode, const Reply& reply);
  Series& SeriesFor(uint16_t type, bool tcp);
  void CountAnswer(const char* origin);

  event::EventLoop& loop_;
  PodPtr pod_;
  Sockets sockets_;
  Hooks hooks_;
  PodDnsSettings settings_;
  bool inside_only_;         // see listeners.h
  std::minstd_rand random_;  // the order of addresses
  std::unordered_map<uint64_t, std::unique_ptr<TcpClient>> clients_;
  uint64_t next_client_ = 1;
  std::vector<Held> held_;
  event::Timer held_timer_;
  std::string canonical_name_, canonical_revision_;             // that series_ belongs to
  std::map<std::pair<std::string_view, bool>, Series> series_;  // by type and transport
  std::map<std::string_view, std::shared_ptr<metrics::Counter>> answers_;
  std::vector<std::unique_ptr<event::IoWatch>> udp_watches_;
  std::vector<std::unique_ptr<net::Acceptor>> acceptors_;
  Forwarder forwarder_;  // last: its callbacks use the rest
};

}  // namespace qanat::ztunnel::dns
