// SPDX-License-Identifier: Apache-2.0
#include "common/tls/tickets.h"

#include <openssl/rand.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "common/tls/ticket_state.h"
#include "common/tls/tls_transport.h"

namespace qanat::tls {
namespace {

// A ticket: this, a nonce, the sealed session. The name is how a client of ours knows one of ours.
constexpr uint8_t kName[8] = {'q', 'a', 'n', 'a', 't', '-', 't', '1'};
constexpr size_t kNonce = 12;
constexpr size_t kTag = 16;
constexpr uint32_t kLifetime = 24 * 3600;  // seconds; certificates end sooner as a rule
// The client's certificates make most of it. It comes back in a ClientHello, whose sender waits for
// a round trip where it is larger than TCP's first flight; and clients (ours too) read no handshake
// message of more than 16 KiB. Whoever has a chain that long does without.
constexpr size_t kMostTicket = 8192;

// ---- the server's side

int JudgeIndex() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

const ContextImpl& ContextOf(const SSL* ssl) {
  return *static_cast<const ContextImpl*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
}

size_t Overhead(SSL*) { return sizeof kName + kNonce + kTag; }

int Seal(SSL* ssl, uint8_t* out, size_t* out_size, size_t room, const uint8_t* in, size_t size) {
  *out_size = 0;
  if (size + Overhead(ssl) > kMostTicket) return 1;  // nothing: no ticket is sent
  if (room < size + Overhead(ssl)) return 0;
  uint8_t nonce[kNonce];
  RAND_bytes(nonce, sizeof nonce);
  size_t sealed = 0;
  const size_t head = sizeof kName + kNonce;
  std::memmove(out + head, in, size);  // they may be the same
  if (EVP_AEAD_CTX_seal(ContextOf(ssl).ticket_key.get(), out + head, &sealed, room - head, nonce,
                        sizeof nonce, out + head, size, kName, sizeof kName) != 1) {
    return 0;
  }
  std::memcpy(out, kName, sizeof kName);
  std::memcpy(out + sizeof kName, nonce, sizeof nonce);
  *out_size = head + sealed;
  return 1;
}

// Every doubt is a full handshake.
ssl_ticket_aead_result_t Open(SSL* ssl, uint8_t* out, size_t* out_size, size_t room,
                              const uint8_t* in, size_t size) {
  const size_t head = sizeof kName + kNonce;
  auto* const judge = static_cast<TicketJudge*>(SSL_get_ex_data(ssl, JudgeIndex()));
  const ContextImpl& context = ContextOf(ssl);
  const Time now = std::chrono::system_clock::now();
  if (judge == nullptr || size < head + kTag || std::memcmp(in, kName, sizeof kName) != 0 ||
      now > context.options.chain.front().not_after() ||
      EVP_AEAD_CTX_open(context.ticket_key.get(), out, out_size, room, in + sizeof kName, kNonce,
                        in + head, size - head, kName, sizeof kName) != 1) {
    ERR_clear_error();
    return ssl_ticket_aead_ignore_ticket;
  }
  bssl::UniquePtr<SSL_SESSION> session(
      SSL_SESSION_from_bytes(out, *out_size, SSL_get_SSL_CTX(ssl)));
  const STACK_OF(CRYPTO_BUFFER)* chain =
      session ? SSL_SESSION_get0_peer_certificates(session.get()) : nullptr;
  ERR_clear_error();
  return chain != nullptr && judge->MayResume(chain) ? ssl_ticket_aead_success
                                                     : ssl_ticket_aead_ignore_ticket;
}

constexpr SSL_TICKET_AEAD_METHOD kMethod = {Overhead, Seal, Open};

}  // namespace

Status EnableTickets(ContextImpl& context) {
  uint8_t key[32];
  RAND_bytes(key, sizeof key);
  context.ticket_key.reset(EVP_AEAD_CTX_new(EVP_aead_aes_256_gcm(), key, sizeof key, kTag));
  OPENSSL_cleanse(key, sizeof key);
  SSL_CTX* ctx = context.ctx.get();
  // Beside the key: who the server is to whom the session belongs.
  uint8_t id[SHA256_DIGEST_LENGTH];
  const std::vector<uint8_t> leaf = context.options.chain.front().ToDer();
  SHA256_CTX sha;
  SHA256_Init(&sha);
  SHA256_Update(&sha, context.roots_hash.data(), context.roots_hash.size());
  SHA256_Update(&sha, leaf.data(), leaf.size());
  SHA256_Final(id, &sha);
  if (!context.ticket_key || SSL_CTX_set_session_id_context(ctx, id, sizeof id) != 1) {
    return Fail(Code::kInternal, "session tickets: " + TakeSslError());
  }
  SSL_CTX_set_app_data(ctx, &context);
  SSL_CTX_clear_options(ctx, SSL_OP_NO_TICKET);
  SSL_CTX_set_ticket_aead_method(ctx, &kMethod);
  SSL_CTX_set_num_tickets(ctx, 1);  // a resumption brings the next one
  SSL_CTX_set_session_psk_dhe_timeout(ctx, kLifetime);
  SSL_CTX_set_reverify_on_resume(ctx, 1);  // clients ask our verifier again, too
  static std::atomic<uint64_t> serial{0};
  context.serial = ++serial;
  return {};
}

void SetTicketJudge(SSL* ssl, TicketJudge* judge) { SSL_set_ex_data(ssl, JudgeIndex(), judge); }

// ---- the client's side

bssl::UniquePtr<SSL_SESSION> TicketStore::State::Take(
    const std::string& key, Time now, const std::function<bool(const VerifiedPeer&)>& good) {
  for (Map* map : {&recent, &older}) {
    const auto found = map->find(key);
    if (found == map->end()) continue;
    auto& tickets = found->second;
    size_t none = 0;
    size_t& bytes = map == &recent ? recent_bytes : none;
    bssl::UniquePtr<SSL_SESSION> session;
    while (!tickets.empty() && !session) {
      Ticket ticket = std::move(tickets.back());
      tickets.pop_back();
      bytes -= std::min(bytes, ticket.bytes);
      if (now <= ticket.not_after && good(*ticket.peer)) session = std::move(ticket.session);
    }
    if (tickets.empty()) map->erase(found);
    if (session) return session;
  }
  return nullptr;
}

void TicketStore::State::Keep(const std::string& key, Ticket ticket) {
  if ((recent.size() >= (most + 1) / 2 && !recent.contains(key)) ||
      recent_bytes + ticket.bytes > most_bytes / 2) {
    older = std::move(recent);
    recent.clear();
    recent_bytes = 0;
  }
  if (ticket.bytes > most_bytes / 2) return;
  auto& tickets = recent[key];
  if (tickets.size() >= kPerPeer) {
    recent_bytes -= tickets.front().bytes;
    tickets.erase(tickets.begin());
  }
  recent_bytes += ticket.bytes;
  tickets.push_back(std::move(ticket));
}

TicketStore::TicketStore(size_t most_peers, size_t most_bytes) : state_(std::make_shared<State>()) {
  state_->most = most_peers;
  state_->most_bytes = most_bytes;
}
TicketStore::~TicketStore() = default;

void TicketStore::Clear() {
  state_->recent.clear();
  state_->older.clear();
  state_->recent_bytes = 0;
}

size_t TicketStore::size() const {
  size_t all = 0;
  for (const auto* map : {&state_->recent, &state_->older}) {
    for (const auto& [key, tickets] : *map) all += tickets.size();
  }
  return all;
}

namespace {

// About what it takes: the ticket, the server's chain (each session has its own copy) and itself.
size_t SizeOf(const SSL_SESSION& session, size_t ticket) {
  size_t bytes = ticket + 1024;
  const STACK_OF(CRYPTO_BUFFER)* chain = SSL_SESSION_get0_peer_certificates(&session);
  for (size_t i = 0; chain != nullptr && i < sk_CRYPTO_BUFFER_num(chain); ++i) {
    bytes += CRYPTO_BUFFER_len(sk_CRYPTO_BUFFER_value(chain, i));
  }
  return bytes;
}

}  // namespace

void TicketTaker::Hold(bssl::UniquePtr<SSL> ssl) {
  ssl_ = std::move(ssl);
  SSL_set_app_data(ssl_.get(), nullptr);
  SSL_set_bio(ssl_.get(), nullptr, nullptr);  // it will read and write nothing any more
}

bool TicketTaker::Take(std::span<const uint8_t> message) {
  const auto store = store_.lock();
  if (store == nullptr || !ssl_) return true;
  ERR_clear_error();
  TicketStore::State::Ticket ticket;
  ticket.session.reset(
      SSL_process_tls13_new_session_ticket(ssl_.get(), message.data(), message.size()));
  ERR_clear_error();
  if (!ticket.session) return false;
  const uint8_t* bytes = nullptr;
  size_t size = 0;
  SSL_SESSION_get0_ticket(ticket.session.get(), &bytes, &size);
  if (size < sizeof kName || std::memcmp(bytes, kName, sizeof kName) != 0) return true;
  if (size > kMostTicket) return true;
  ticket.bytes = SizeOf(*ticket.session, size) + key_.size();
  ticket.peer = peer_;
  ticket.not_after = not_after_;
  store->Keep(key_, std::move(ticket));
  return true;
}

std::string TicketKey(const TlsContext& context, const std::string& address,
                      const std::string& server_name, const PeerPolicy& policy) {
  std::string key = std::to_string(context.impl().serial);
  const auto add = [&key](const std::string& text) {
    key += '\n';
    key += std::to_string(text.size());
    key += ':';
    key += text;
  };
  add(address);
  add(server_name);
  for (const auto* list : {&policy.uris, &policy.names}) {
    std::vector<std::string> sorted = *list;
    std::sort(sorted.begin(), sorted.end());
    key += '\n';
    for (const std::string& name : sorted) add(name);
  }
  return key;
}

}  // namespace qanat::tls
