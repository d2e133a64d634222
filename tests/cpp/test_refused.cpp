// Operations that the kernel refuses one by one: each goes another way, and no other does.
//
// On the simulated kernel, and on the running one with rings that are really restricted
// (IORING_REGISTER_RESTRICTIONS).
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proactor.hpp"
#include "support.hpp"

namespace uring::test {
namespace {

constexpr unsigned kSending[] = {IORING_OP_SEND, IORING_OP_SENDMSG, IORING_OP_WRITE};

// A proactor on a simulated kernel without some operations; as Simulation, which knows them all.
struct Refusing {
  explicit Refusing(std::initializer_list<unsigned> operations) : proactor(kernel.table()), collector(&proactor) {
    kernel.refused_operations = operations;
    REQUIRE(probe_features(kernel.table(), &features) == 0);
    REQUIRE(proactor.init(features, 8, 32) == 0);
    REQUIRE(proactor.bind_thread() == 0);
  }
  ~Refusing() {
    proactor.close();
    collector.collect();
    CHECK(proactor.operations() == 0);
    CHECK(proactor.abandoned() == 0);
    kernel.end_closed_rings();
    for (const std::string& violation : kernel.violations) FAIL_CHECK(violation);
  }
  // What arrives at `peer` until an operation is over.
  std::string received(std::int64_t key, int peer) {
    std::string bytes;
    CHECK(collector.until([&] {
      bytes += kernel.take(peer);
      return collector.has(key);
    }));
    return bytes + kernel.take(peer);
  }

  SimulatedKernel kernel;
  Features features;
  Proactor proactor;
  Collector collector;
};

TEST_CASE("refused: a send and a write are made by their calls, and wait for room by a poll") {
  const std::string bytes = some_bytes(50);
  for (bool writing : {false, true}) {
    CAPTURE(writing);
    Refusing all{IORING_OP_SEND, IORING_OP_SENDMSG, IORING_OP_WRITE};
    const auto [ours, theirs] = writing ? all.kernel.pipe(16, true) : all.kernel.stream_pair(16);
    const std::int64_t key = writing ? all.proactor.start_write(ours, bytes.data(), bytes.size())
                                     : all.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    CHECK(all.received(key, theirs) == bytes);
    CHECK(all.collector[key].error == 0);
    CHECK(all.collector[key].result == 50);
    CHECK(all.kernel.calls(writing ? Call::kWrite : Call::kSend) >= 4);
  }
}

TEST_CASE("refused: a send whose peer is gone ends with the call's error") {
  Refusing all{IORING_OP_SEND};
  const auto [ours, theirs] = all.kernel.stream_pair();
  all.kernel.reset(theirs);
  const std::string bytes = "lost";
  const std::int64_t key = all.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  REQUIRE(all.collector.until_all({key}));
  CHECK(all.collector[key].error < 0);
}

TEST_CASE("refused: one operation, and the others are the ring's as before") {
  for (unsigned refused : kSending) {
    CAPTURE(refused);
    Refusing one{refused};
    const auto [stream, stream_peer] = one.kernel.stream_pair();
    const auto [pipe, pipe_peer] = one.kernel.pipe(4096, true);
    const std::string bytes = "abc";
    const unsigned sends = one.kernel.calls(Call::kSend);
    const unsigned writes = one.kernel.calls(Call::kWrite);
    const std::int64_t send = one.proactor.start_send(stream, bytes.data(), bytes.size(), 0);
    const std::int64_t write = one.proactor.start_write(pipe, bytes.data(), bytes.size());
    REQUIRE(one.collector.until_all({send, write}));
    CHECK(one.kernel.take(stream_peer) == bytes);
    CHECK(one.kernel.take(pipe_peer) == bytes);
    CHECK(one.kernel.calls(Call::kSend) - sends == (refused == IORING_OP_SEND));
    CHECK(one.kernel.calls(Call::kWrite) - writes == (refused == IORING_OP_WRITE));
  }
}

TEST_CASE("refused: a refusal that comes with the completion is of that operation only") {
  for (int error : {-EACCES, -EPERM}) {
    CAPTURE(error);
    Simulation simulation;
    const auto [ours, theirs] = simulation.kernel.stream_pair();
    const std::string bytes = "abc";
    simulation.kernel.force_result(IORING_OP_SEND, error);
    const unsigned sends = simulation.kernel.calls(Call::kSend);
    for (unsigned expected : {1u, 1u}) {
      const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
      REQUIRE(simulation.collector.until_all({key}));
      CHECK(simulation.collector[key].error == 0);
      CHECK(simulation.kernel.take(theirs) == bytes);
      CHECK(simulation.kernel.calls(Call::kSend) - sends == expected);
    }
  }
}

TEST_CASE("refused: what the call refuses as well is the operation's error, told once") {
  Simulation simulation;
  const auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::string bytes = "abc";
  simulation.kernel.force_result(IORING_OP_SEND, -EPERM);
  simulation.kernel.fail(Call::kSend, -EPERM);
  const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  REQUIRE(simulation.collector.until_all({key}));
  CHECK(simulation.collector[key].error == -EPERM);
  CHECK(simulation.kernel.take(theirs).empty());
}

TEST_CASE("refused: a part that is out is not sent again") {
  Simulation simulation;
  const auto [ours, theirs] = simulation.kernel.stream_pair(4);
  const std::string bytes = "abcdefgh";
  const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  simulation.turn();
  simulation.kernel.force_result(IORING_OP_SEND, -EACCES);
  std::string received;
  REQUIRE(simulation.collector.until([&] {
    received += simulation.kernel.take(theirs);
    return simulation.collector.has(key);
  }));
  CHECK(received + simulation.kernel.take(theirs) == bytes);
}

TEST_CASE("refused: without ASYNC_CANCEL a poll is ended by POLL_REMOVE") {
  Refusing all{IORING_OP_ASYNC_CANCEL};
  const auto [ours, theirs] = all.kernel.stream_pair(4);
  const std::string bytes = "abcdefgh";
  const std::int64_t poll = all.proactor.start_poll(Kind::kPoll, ours, POLLIN);
  const std::int64_t send = all.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  for (int turns = 0; turns < 5; ++turns) all.collector.turn();
  all.proactor.cancel(static_cast<std::uint64_t>(poll));
  all.proactor.cancel(static_cast<std::uint64_t>(send));
  REQUIRE(all.collector.until_all({poll, send}));
  CHECK(all.collector[poll].error == -ECANCELED);
  CHECK(all.collector[send].error == -ECANCELED);
  CHECK(all.collector[send].result == 4);
}

TEST_CASE("refused: a poll of the proactor's own is an error of the turn, and no spin") {
  Simulation simulation;
  simulation.kernel.force_result(IORING_OP_POLL_ADD, -EACCES);
  CHECK(simulation.collector.turn() == 0);
  CHECK(simulation.collector.turn() == -EACCES);
  CHECK(simulation.proactor.refused_to_poll() == -EACCES);
  const unsigned enters = simulation.kernel.calls(Call::kEnter);
  CHECK(simulation.collector.turn(-1) == -EACCES);
  CHECK(simulation.proactor.drain(1000000) == simulation.proactor.in_flight());
  CHECK(simulation.kernel.calls(Call::kEnter) == enters);
}

// -- the running kernel --

thread_local unsigned forbidden;

// A ring on which all but `forbidden` is allowed.
int restricted_setup(void*, unsigned entries, io_uring_params* params) {
  const bool disabled = (params->flags & IORING_SETUP_R_DISABLED) != 0;
  params->flags |= IORING_SETUP_R_DISABLED;
  const int fd = real_kernel().setup(nullptr, entries, params);
  if (fd < 0) return fd;
  io_uring_restriction rules[48];
  memset(rules, 0, sizeof(rules));
  unsigned count = 0;
  for (unsigned opcode = 0; opcode < 40; ++opcode) {
    if (opcode == forbidden) continue;
    rules[count].opcode = IORING_RESTRICTION_SQE_OP;
    rules[count++].sqe_op = static_cast<std::uint8_t>(opcode);
  }
  for (unsigned opcode : {IORING_REGISTER_ENABLE_RINGS, IORING_REGISTER_PROBE}) {
    rules[count].opcode = IORING_RESTRICTION_REGISTER_OP;
    rules[count++].register_op = static_cast<std::uint8_t>(opcode);
  }
  int error = real_kernel().register_(nullptr, fd, IORING_REGISTER_RESTRICTIONS, rules, count);
  if (error >= 0 && !disabled) {
    params->flags &= ~IORING_SETUP_R_DISABLED;
    error = real_kernel().register_(nullptr, fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  }
  if (error >= 0) return fd;
  real_kernel().close(nullptr, fd);
  return error;
}

TEST_CASE("refused: rings of the running kernel that are restricted") {
  Kernel kernel = real_kernel();
  kernel.setup = restricted_setup;
  const std::string bytes = some_bytes(3000);
  for (Rung rung : kRungs) {
    for (unsigned opcode : {IORING_OP_SEND, IORING_OP_SENDMSG, IORING_OP_WRITE, IORING_OP_ASYNC_CANCEL}) {
      CAPTURE(rung_name(rung));
      CAPTURE(opcode);
      forbidden = opcode;
      Features features;
      REQUIRE(probe_features(kernel, &features, rung) == 0);
      CHECK(features.refused == (opcode == IORING_OP_SEND      ? kNoSend
                                 : opcode == IORING_OP_SENDMSG ? kNoSendmsg
                                 : opcode == IORING_OP_WRITE   ? kNoWrite
                                                               : kNoCancel));
      Proactor proactor(kernel);
      Collector collector(&proactor);
      REQUIRE(proactor.init(features, 8, 32) == 0);
      REQUIRE(proactor.bind_thread() == 0);
      int stream[2], pipe[2];
      REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream) == 0);
      REQUIRE(::pipe2(pipe, O_CLOEXEC) == 0);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      socklen_t length = sizeof(address);
      const int from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
      const int to = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
      REQUIRE(bind(to, reinterpret_cast<sockaddr*>(&address), length) == 0);
      REQUIRE(getsockname(to, reinterpret_cast<sockaddr*>(&address), &length) == 0);

      const std::int64_t poll = proactor.start_poll(Kind::kPoll, stream[0], POLLIN);
      const std::int64_t send = proactor.start_send(stream[0], bytes.data(), bytes.size(), 0);
      const std::int64_t sendto = proactor.start_sendto(from, bytes.data(), 1000, 0, &address, length);
      const std::int64_t write = proactor.start_write(pipe[1], bytes.data(), bytes.size());
      REQUIRE(collector.until_all({send, sendto, write}));
      std::string got(4000, '\0');
      CHECK((read(stream[1], got.data(), got.size()) == 3000 && got.compare(0, 3000, bytes) == 0));
      CHECK((read(pipe[0], got.data(), got.size()) == 3000 && got.compare(0, 3000, bytes) == 0));
      CHECK(recv(to, got.data(), got.size(), MSG_DONTWAIT) == 1000);
      for (std::int64_t key : {send, sendto, write}) CHECK(collector[key].error == 0);
      proactor.cancel(static_cast<std::uint64_t>(poll));
      REQUIRE(collector.until_all({poll}));
      CHECK(collector[poll].error == -ECANCELED);
      proactor.close();
      collector.collect();
      CHECK(proactor.operations() == 0);
      for (int fd : {stream[0], stream[1], pipe[0], pipe[1], from, to}) close(fd);
    }
  }
}

TEST_CASE("refused: rings of the running kernel that may not poll") {
  Kernel kernel = real_kernel();
  kernel.setup = restricted_setup;
  forbidden = IORING_OP_POLL_ADD;
  Features features;
  const char* call = nullptr;
  CHECK(probe_features(kernel, &features, Rung::kDeferTaskrun, &call) == -EACCES);
  CHECK(std::string(call) == "IORING_OP_POLL_ADD");
}

}  // namespace
}  // namespace uring::test
