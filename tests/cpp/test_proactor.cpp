// The proactor on the simulated kernel: what goes wrong here goes wrong on demand.
#include "proactor.hpp"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <memory>
#include <thread>
#include <vector>

#include "support.hpp"

namespace uring::test {
namespace {

constexpr std::int64_t kMillisecond = 1000000;

// -- sends --

TEST_CASE("start_send: bytes that fit go out in one turn") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    auto [ours, theirs] = simulation.kernel.stream_pair();
    const std::string bytes = some_bytes(1000);
    const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    REQUIRE(key > 0);
    CHECK(simulation.state(key) == State::kQueued);
    CHECK(simulation.proactor.in_flight() == 0);
    CHECK(simulation.turn() == 0);
    CHECK(simulation.collector[key].error == 0);
    CHECK(simulation.collector[key].result == 1000);
    CHECK(simulation.collector[key].kind == Kind::kSend);
    CHECK_FALSE(simulation.collector[key].abandoned);
    CHECK(simulation.kernel.take(theirs) == bytes);
  }
}

TEST_CASE("start_send: short sends are resumed until all is out") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    auto [ours, theirs] = simulation.kernel.stream_pair(64);
    simulation.kernel.largest_transfer = 7;
    const std::string bytes = some_bytes(1000);
    std::string received;
    const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    CHECK(simulation.collector.until([&, peer = theirs] {
      received += simulation.kernel.take(peer, 13);
      return simulation.collector.has(key);
    }));
    received += simulation.kernel.take(theirs);
    CHECK(received == bytes);
    CHECK(simulation.collector[key].error == 0);
    CHECK(simulation.collector[key].result == 1000);
  }
}

TEST_CASE("extend: as long as the kernel has not seen it") {
  for (bool pipe : {false, true}) {
    CAPTURE(pipe);
    Simulation simulation;
    Proactor& proactor = simulation.proactor;
    const auto [ours, theirs] =
        pipe ? simulation.kernel.pipe(4, true) : simulation.kernel.stream_pair(4);
    const std::string first = "ab", second = "abcd", third = "abcdefgh", fourth = "abcdefghij";
    const std::int64_t key = pipe ? proactor.start_write(ours, first.data(), first.size())
                                  : proactor.start_send(ours, first.data(), first.size(), 0);
    const std::uint64_t operation = static_cast<std::uint64_t>(key);
    proactor.extend(operation, second.data(), second.size());
    proactor.extend(operation, third.data(), third.size());
    simulation.turn();
    // Four are out; it waits for room by a poll.
    while (simulation.state(key) == State::kQueued) simulation.turn();
    proactor.extend(operation, fourth.data(), fourth.size());
    std::string received;
    CHECK(simulation.collector.until([&] {
      received += simulation.kernel.take(theirs);
      return simulation.collector.has(key);
    }));
    CHECK(received + simulation.kernel.take(theirs) == third);
    CHECK(simulation.collector[key].result == 8);
    proactor.extend(operation, fourth.data(), fourth.size());  // it is gone
  }
}

TEST_CASE("extend: what did not get into a submission") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::string first = "ab", second = "abcd";
  const std::int64_t key = simulation.proactor.start_send(ours, first.data(), first.size(), 0);
  simulation.kernel.fail(Call::kEnter, -EAGAIN);
  simulation.turn();
  REQUIRE(simulation.state(key) == State::kQueued);
  simulation.proactor.extend(static_cast<std::uint64_t>(key), second.data(), second.size());
  CHECK(simulation.collector.until_all({key}));
  CHECK(simulation.kernel.take(theirs) == second);
}

TEST_CASE("start_send: a full socket is slept for") {
  for (bool full : {false, true}) {
    CAPTURE(full);
    Simulation simulation;
    auto [ours, theirs] = simulation.kernel.stream_pair(10);
    const std::string bytes = some_bytes(full ? 20 : 30);
    std::string received;
    std::string before;
    if (full) {
      before = std::string(10, '-');
      simulation.kernel.put(ours, before);
    }
    int slept = 0;
    simulation.kernel.while_asleep = [&, peer = theirs] {
      ++slept;
      received += simulation.kernel.take(peer);
      return true;
    };
    const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    CHECK(simulation.collector.until([&] { return simulation.collector.has(key); }, 10, -1));
    received += simulation.kernel.take(theirs);
    CHECK(received == before + bytes);
    CHECK(slept == 2);
  }
}

TEST_CASE("start_send: one that ends with nothing done goes on") {
  for (int result : {0, -EAGAIN, -EINTR, -ECANCELED}) {
    CAPTURE(result);
    Simulation simulation;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    simulation.kernel.force_result(IORING_OP_SEND, result);
    simulation.kernel.force_result(IORING_OP_SEND, result);
    const std::string bytes = some_bytes(100);
    const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    CHECK(simulation.collector.until_all({key}, 10));
    CHECK(simulation.collector[key].error == 0);
    CHECK(simulation.kernel.take(theirs) == bytes);
  }
}

TEST_CASE("start_send: a poll for room that is interrupted goes on") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  simulation.kernel.force_result(IORING_OP_SEND, -EAGAIN);
  simulation.turn();  // the wake-up's poll is armed
  simulation.kernel.force_result(IORING_OP_POLL_ADD, -ECANCELED);
  const std::string bytes = some_bytes(100);
  const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  CHECK(simulation.collector.until_all({key}, 10));
  CHECK(simulation.collector[key].error == 0);
  CHECK(simulation.kernel.take(theirs) == bytes);
}

TEST_CASE("start_send: no room is waited for however often it is said") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  for (int count = 0; count < 300; ++count)
    simulation.kernel.force_result(IORING_OP_SEND, -EAGAIN);
  const std::int64_t key = simulation.proactor.start_send(ours, "abc", 3, 0);
  CHECK(simulation.collector.until_all({key}, 700));
  CHECK(simulation.collector[key].error == 0);
  CHECK(simulation.kernel.take(theirs) == "abc");
}

TEST_CASE("start_send: an end without progress again and again is an error in the end") {
  for (int result : {0, -EINTR, -ECANCELED}) {
    CAPTURE(result);
    Simulation simulation;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    simulation.kernel.put(theirs, "x");
    for (int count = 0; count < 1000; ++count)
      simulation.kernel.force_result(IORING_OP_SEND, result);
    const std::int64_t key = simulation.proactor.start_send(ours, "abc", 3, 0);
    CHECK(simulation.collector.until_all({key}, 300));
    CHECK(simulation.collector[key].error == (result == 0 ? -EAGAIN : result));
    CHECK(simulation.collector[key].result == 0);
  }
}

TEST_CASE("start_send: progress gives patience back") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  simulation.kernel.largest_transfer = 1;
  const std::string bytes = some_bytes(5);
  const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  for (std::size_t out = 0; out < bytes.size(); ++out) {
    for (int count = 0; count < 60; ++count)
      simulation.kernel.force_result(IORING_OP_SEND, -EINTR);
    CHECK(simulation.collector.until(
        [&] {
          return simulation.collector.has(key) || simulation.operation(key)->done == out + 1;
        },
        100));
  }
  CHECK(simulation.collector[key].error == 0);
  CHECK(simulation.kernel.take(theirs) == bytes);
}

TEST_CASE("start_send: an error tells how much is out") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair(10);
  const std::string bytes = some_bytes(100);
  const std::int64_t key = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  simulation.turn();
  simulation.turn();
  CHECK_FALSE(simulation.collector.has(key));
  SUBCASE("reset by the peer") {
    simulation.kernel.reset(theirs);
    CHECK(simulation.collector.until_all({key}, 10));
    CHECK(simulation.collector[key].error == -ECONNRESET);
  }
  SUBCASE("closed by the peer") {
    simulation.kernel.close_file(theirs);
    CHECK(simulation.collector.until_all({key}, 10));
    CHECK(simulation.collector[key].error == -EPIPE);
  }
  SUBCASE("no buffer space") {
    simulation.kernel.force_result(IORING_OP_SEND, -ENOBUFS);
    simulation.kernel.take(theirs);
    CHECK(simulation.collector.until_all({key}, 10));
    CHECK(simulation.collector[key].error == -ENOBUFS);
  }
  CHECK(simulation.collector[key].result == 10);
}

TEST_CASE("start_send: nothing to send completes") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t key = simulation.proactor.start_send(ours, "", 0, 0);
  CHECK(simulation.turn() == 0);
  CHECK(simulation.collector[key].error == 0);
  CHECK(simulation.collector[key].result == 0);
  CHECK(simulation.kernel.take(theirs).empty());
}

TEST_CASE("start_send: a descriptor that is none") {
  Simulation simulation;
  CHECK(simulation.proactor.start_send(-1, "abc", 3, 0) == -EBADF);
  CHECK(simulation.proactor.start_write(-1, "abc", 3) == -EBADF);
  CHECK(simulation.proactor.start_sendto(-1, "abc", 3, 0, nullptr, 0) == -EBADF);
  CHECK(simulation.proactor.start_poll(Kind::kPoll, -1, POLLIN) == -EBADF);
  CHECK(simulation.proactor.start_sendfile(-1, 0, 0, 1) == -EBADF);
  CHECK(simulation.proactor.start_sendfile(0, -1, 0, 1) == -EBADF);
  CHECK(simulation.proactor.operations() == 0);
  for (int fd : {999, 0x7fffffff}) {
    CAPTURE(fd);
    const std::int64_t send = simulation.proactor.start_send(fd, "abc", 3, 0);
    const std::int64_t poll = simulation.proactor.start_poll(Kind::kReceive, fd, POLLIN);
    CHECK(simulation.collector.until_all({send, poll}, 5));
    CHECK(simulation.collector[send].error == -EBADF);
    CHECK(simulation.collector[poll].error == -EBADF);
  }
}

TEST_CASE("start_write: a full pipe is waited for whatever its mode") {
  for (bool nonblocking : {true, false}) {
    for (bool fifo : {true, false}) {
      CAPTURE(nonblocking);
      CAPTURE(fifo);
      Simulation simulation;
      auto [writer, reader] = simulation.kernel.pipe(16, nonblocking, fifo);
      const std::string bytes = some_bytes(100);
      std::string received;
      const std::int64_t key = simulation.proactor.start_write(writer, bytes.data(), bytes.size());
      CHECK(simulation.collector.until([&] {
        received += simulation.kernel.take(reader, 5);
        return simulation.collector.has(key);
      }));
      received += simulation.kernel.take(reader);
      CHECK(received == bytes);
      CHECK(simulation.collector[key].result == 100);
    }
  }
}

TEST_CASE("start_write: what waits for room waits by a poll and has not lent its buffer") {
  for (Rung rung : kRungs) {
    for (bool nonblocking : {true, false}) {
      CAPTURE(rung_name(rung));
      CAPTURE(nonblocking);
      Simulation simulation(rung);
      auto [writer, reader] = simulation.kernel.pipe(4, nonblocking);
      simulation.kernel.put(writer, "----");
      auto bytes = std::make_unique<std::string>(some_bytes(10));
      const std::int64_t key = simulation.proactor.start_write(writer, bytes->data(), bytes->size());
      for (int turns = 0; turns < 5; ++turns) simulation.turn();
      CHECK((simulation.operation(key)->flags & kPolling) != 0);
      SUBCASE("cancelled") {
        // Of a poll the kernel can always let go, and nothing is out behind the cancel's back.
        simulation.proactor.cancel(static_cast<std::uint64_t>(key));
        CHECK(simulation.collector.until_all({key}, 3));
      }
      SUBCASE("closed") {
        simulation.proactor.close();
        simulation.collector.collect();
      }
      CHECK(simulation.collector[key].error == -ECANCELED);
      CHECK(simulation.collector[key].result == 0);
      CHECK_FALSE(simulation.collector[key].abandoned);
      bytes.reset();
      CHECK(simulation.kernel.take(reader) == "----");
      if (simulation.proactor.is_open()) simulation.turn();
      CHECK(simulation.kernel.take(reader).empty());
    }
  }
}

TEST_CASE("start_write: a file that is always ready and never writes without a wait") {
  Simulation simulation;
  Kernel table = simulation.kernel.table();
  const int event = table.eventfd(table.self, 0, 0);
  const std::uint64_t number = 7;
  const std::int64_t key = simulation.proactor.start_write(event, &number, sizeof(number));
  CHECK(simulation.collector.until_all({key}, 100));
  CHECK(simulation.collector[key].error == 0);
  CHECK(simulation.collector[key].result == sizeof(number));
  std::uint64_t counted = 0;
  CHECK(table.read(table.self, event, &counted, sizeof(counted)) == sizeof(counted));
  CHECK(counted == number);
}

TEST_CASE("start_write: two writers of a pipe and whoever finds room waits for it again") {
  Simulation simulation;
  auto [writer, reader] = simulation.kernel.pipe(4, false);
  const std::int64_t key = simulation.proactor.start_write(writer, "abcdefgh", 8);
  std::string received;
  // Polled, it is told of room; then there is none.
  for (int times = 0; times < 3; ++times) simulation.kernel.force_result(IORING_OP_WRITE, -EAGAIN);
  CHECK(simulation.collector.until([&] {
    if (simulation.collector.has(key)) return true;
    CHECK((simulation.operation(key)->flags & kMayWait) == 0);
    received += simulation.kernel.take(reader);
    return false;
  }));
  CHECK(received + simulation.kernel.take(reader) == "abcdefgh");
}

TEST_CASE("start_write: a pipe whose reader goes away is an error") {
  Simulation simulation;
  auto [writer, reader] = simulation.kernel.pipe(16, true);
  const std::string bytes = some_bytes(100);
  const std::int64_t key = simulation.proactor.start_write(writer, bytes.data(), bytes.size());
  for (int turns = 0; turns < 5; ++turns) simulation.turn();
  CHECK_FALSE(simulation.collector.has(key));
  simulation.kernel.close_file(reader);
  CHECK(simulation.collector.until_all({key}, 10));
  CHECK(simulation.collector[key].error == -EPIPE);
  CHECK(simulation.collector[key].result == 16);
}

TEST_CASE("start_sendto: address and buffer stay put until the datagram is out") {
  Simulation simulation;
  const int ours = simulation.kernel.datagram_socket("us");
  const int theirs = simulation.kernel.datagram_socket("them", 10);
  std::vector<std::int64_t> keys;
  for (std::string bytes : {"0123456", "abcdefg", "ABCDEFG"}) {
    // What the caller passes as address may be gone when the call returns.
    auto address = std::make_unique<std::string>("them");
    auto buffer = std::make_unique<std::string>(bytes);
    keys.push_back(simulation.proactor.start_sendto(ours, buffer->data(), buffer->size(), 0,
                                                    address->data(), 4));
    REQUIRE(keys.back() > 0);
    address->assign("gone");
    address.reset();
    simulation.turn();
    if (!simulation.collector.has(keys.back())) {
      CHECK(keys.size() > 1);  // no room beside the one before
      simulation.kernel.take(theirs);
      CHECK(simulation.collector.until_all({keys.back()}, 10));
    }
    CHECK(simulation.collector[keys.back()].error == 0);
    CHECK(simulation.collector[keys.back()].result == 7);
  }
  CHECK(simulation.kernel.take(theirs) == "ABCDEFG");
}

TEST_CASE("start_sendto: an empty datagram is a datagram") {
  Simulation simulation;
  const int ours = simulation.kernel.datagram_socket("us");
  const std::int64_t key = simulation.proactor.start_sendto(ours, "", 0, 0, "us", 2);
  CHECK(simulation.collector.until_all({key}, 5));
  CHECK(simulation.collector[key].error == 0);
  CHECK(simulation.kernel.take(ours).empty());
  char byte;
  CHECK(simulation.proactor.receive(ours, &byte, 1, 0) == -EAGAIN);
}

TEST_CASE("start_sendto: addresses that are none") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::string large(sizeof(sockaddr_storage) + 1, 'a');
  CHECK(simulation.proactor.start_sendto(ours, "abc", 3, 0, large.data(),
                                         static_cast<unsigned>(large.size())) == -EINVAL);
  CHECK(simulation.proactor.operations() == 0);
  const std::int64_t key = simulation.proactor.start_sendto(ours, "abc", 3, 0, nullptr, 0);
  CHECK(simulation.collector.until_all({key}, 5));
  CHECK(simulation.collector[key].error == 0);
  CHECK(simulation.kernel.take(theirs) == "abc");
}

TEST_CASE("send_now: sends what fits and leaves the rest to the ring") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair(20000);
  const std::string bytes = some_bytes(100000);
  Proactor& proactor = simulation.proactor;
  CHECK(proactor.send_now(ours, bytes.data(), 100, 0) == 0);  // cheaper in a batch
  CHECK(proactor.send_now(ours, bytes.data(), bytes.size(), 0) == 20000);
  CHECK(simulation.kernel.take(theirs) == bytes.substr(0, 20000));

  // Never past a send that is in the table.
  const std::int64_t first = proactor.start_send(ours, bytes.data(), 30000, 0);
  CHECK(proactor.send_now(ours, bytes.data(), bytes.size(), 0) == 0);
  simulation.turn();
  CHECK(proactor.send_now(ours, bytes.data(), bytes.size(), 0) == 0);
  CHECK(simulation.kernel.take(theirs) == bytes.substr(0, 20000));
  CHECK(simulation.collector.until_all({first}, 5));
  CHECK(simulation.kernel.take(theirs) == bytes.substr(20000, 10000));

  // A receive on the same descriptor does not count.
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  CHECK(proactor.send_now(ours, bytes.data(), bytes.size(), 0) == 20000);
  CHECK(proactor.send_now(ours, bytes.data(), bytes.size(), 0) == 0);  // full
  simulation.kernel.close_file(theirs);
  CHECK(proactor.send_now(ours, bytes.data(), bytes.size(), 0) == -EPIPE);
  CHECK(proactor.send_now(-1, bytes.data(), bytes.size(), 0) == -EBADF);
  simulation.kernel.fail(Call::kSend, -EINTR);
  CHECK(proactor.send_now(ours, bytes.data(), bytes.size(), 0) == 0);
  CHECK(simulation.collector.until_all({poll}, 5));
}

TEST_CASE("send_now: one that is over is in nobody's way though its owner has not looked yet") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::string large(Proactor::kSendNow, 'l');
  const std::int64_t size = static_cast<std::int64_t>(large.size());
  Completion completion;
  proactor.start_send(ours, "ab", 2, 0);
  CHECK(proactor.send_now(ours, large.data(), large.size(), 0) == 0);  // queued
  REQUIRE(proactor.prepare() == 0);
  CHECK(proactor.send_now(ours, large.data(), large.size(), 0) == 0);  // in flight
  REQUIRE(proactor.enter(false, 0) == 0);
  proactor.reap();
  CHECK(proactor.send_now(ours, large.data(), large.size(), 0) == size);  // completed
  REQUIRE(proactor.next(&completion));
  CHECK(proactor.send_now(ours, large.data(), large.size(), 0) == size);  // taken
  proactor.release(completion.key);
  CHECK(simulation.kernel.take(theirs) == "ab" + large + large);
  // Cancelled before the kernel saw it.
  proactor.cancel(static_cast<std::uint64_t>(proactor.start_send(ours, "gh", 2, 0)));
  CHECK(proactor.send_now(ours, large.data(), large.size(), 0) == size);
  CHECK(simulation.kernel.take(theirs) == large);
}

// -- readiness --

TEST_CASE("start_poll: completes with what is ready and takes nothing") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    auto [ours, theirs] = simulation.kernel.stream_pair();
    const std::int64_t key = simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN);
    simulation.turn();
    simulation.turn();
    CHECK(simulation.state(key) == State::kInFlight);
    CHECK(simulation.operation(key)->started_ns > 0);
    simulation.kernel.put(theirs, "abc");
    CHECK_FALSE(simulation.proactor.quiet());
    CHECK(simulation.collector.until_all({key}, 2));
    CHECK(simulation.collector[key].error == 0);
    CHECK(simulation.collector[key].result == POLLIN);
    char buffer[8];
    CHECK(simulation.proactor.receive(ours, buffer, sizeof(buffer), 0) == 3);
    CHECK(simulation.proactor.receive(ours, buffer, sizeof(buffer), 0) == -EAGAIN);
    simulation.kernel.close_file(theirs);
    CHECK(simulation.proactor.receive(ours, buffer, sizeof(buffer), 0) == 0);
  }
}

TEST_CASE("start_poll: one that ends without a reason is armed again") {
  for (int result : {-EINTR, -ECANCELED}) {
    CAPTURE(result);
    Simulation simulation;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    simulation.turn();
    simulation.kernel.force_result(IORING_OP_POLL_ADD, result);
    const std::int64_t key = simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN);
    for (int turns = 0; turns < 5; ++turns) simulation.turn();
    CHECK(simulation.state(key) == State::kInFlight);
    simulation.kernel.put(theirs, "abc");
    CHECK(simulation.collector.until_all({key}, 2));
    CHECK(simulation.collector[key].error == 0);
  }
}

TEST_CASE("receive: a signal in the middle of the call is not the caller's affair") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  simulation.kernel.put(theirs, "abc");
  simulation.kernel.fail(Call::kReceive, -EINTR, 1, 3);
  simulation.kernel.fail(Call::kRead, -EINTR, 1, 3);
  char buffer[2];
  CHECK(simulation.proactor.receive(ours, buffer, sizeof(buffer), 0) == 2);
  CHECK(simulation.proactor.read(ours, buffer, sizeof(buffer)) == 1);
  sockaddr_storage address;
  unsigned length = 77;
  CHECK(simulation.proactor.receive_from(ours, buffer, sizeof(buffer), 0, &address, &length) ==
        -EAGAIN);
  CHECK(length == 0);
}

TEST_CASE("again: ends without a reason count from the last readiness on") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  Proactor& proactor = simulation.proactor;
  simulation.turn();
  simulation.kernel.put(theirs, "abc");
  const std::int64_t key = proactor.start_poll(Kind::kPoll, ours, POLLIN);
  Completion completion;
  for (int round = 0; round < 400; ++round) {
    simulation.kernel.force_result(IORING_OP_POLL_ADD, round % 2 == 0 ? -EINTR : -ECANCELED);
    for (int turns = 0; turns < 3 && !proactor.has_completions(); ++turns) proactor.turn(0);
    REQUIRE(proactor.next(&completion));
    REQUIRE(completion.error == 0);
    REQUIRE(proactor.again(completion.key) == 0);
  }
  for (int count = 0; count < 1000; ++count)
    simulation.kernel.force_result(IORING_OP_POLL_ADD, -ECANCELED);
  CHECK(simulation.collector.until_all({key}, 300));
  CHECK(simulation.collector[key].error == -ECANCELED);
}

TEST_CASE("again: what somebody else took is waited for once more") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  Proactor& proactor = simulation.proactor;
  const std::int64_t key = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  const std::uint64_t operation = static_cast<std::uint64_t>(key);
  Completion completion;
  for (int round = 0; round < 3; ++round) {
    CHECK(proactor.again(operation) == (round == 0 ? -EBADF : 0));  // only when it was taken
    proactor.turn(0);
    CHECK_FALSE(proactor.next(&completion));
    simulation.kernel.put(theirs, "abc");
    proactor.turn(0);
    REQUIRE(proactor.next(&completion));
    CHECK(completion.key == operation);
    CHECK(simulation.kernel.take(ours) == "abc");
    CHECK_FALSE(proactor.has_completions());
  }
  SUBCASE("cancelled meanwhile") {
    proactor.cancel(operation, -EBADF);
    CHECK(proactor.again(operation) == -EBADF);
  }
  SUBCASE("closed meanwhile") {
    proactor.close();
    CHECK(proactor.again(operation) == -ECANCELED);
  }
  proactor.release(operation);
  CHECK(proactor.again(operation) == -EBADF);
  CHECK(proactor.operations() == 0);
}

TEST_CASE("send_file: step by step and the file is closed at release") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair(10);
  const std::string content = some_bytes(100);
  const int file = simulation.kernel.regular_file(content);
  std::uint64_t offset = 0, count = 100;
  SUBCASE("all of it") {}
  SUBCASE("a part") { offset = 20, count = 33; }
  SUBCASE("more than there is") { offset = 50, count = 1000; }
  SUBCASE("nothing") { count = 0; }
  SUBCASE("behind the end") { offset = 200, count = 10; }
  const std::string expected = offset > 100 ? "" : content.substr(offset, count);
  const std::int64_t key =
      proactor.start_sendfile(ours, file, static_cast<std::int64_t>(offset), count);
  std::string received;
  std::int64_t result = -EAGAIN;
  for (int turns = 0; turns < 100 && result == -EAGAIN; ++turns) {
    if (turns % 3 == 0) simulation.kernel.fail(Call::kSendfile, -EINTR);
    proactor.turn(0);
    Completion completion;
    if (proactor.next(&completion)) {
      CHECK(completion.kind == Kind::kSendfile);
      CHECK((completion.result & POLLOUT) != 0);
      result = proactor.send_file(completion.key);
      if (result == -EAGAIN) CHECK(proactor.again(completion.key) == 0);
    }
    received += simulation.kernel.take(theirs, 7);
  }
  received += simulation.kernel.take(theirs);
  CHECK(result == static_cast<std::int64_t>(expected.size()));
  CHECK(received == expected);
  CHECK(simulation.kernel.is_open(file));
  proactor.release(static_cast<std::uint64_t>(key));
  CHECK_FALSE(simulation.kernel.is_open(file));
  CHECK(proactor.send_file(static_cast<std::uint64_t>(key)) == -EBADF);
}

TEST_CASE("send_file: an error is handed on") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair(10);
  const std::int64_t key = simulation.proactor.start_sendfile(
      ours, simulation.kernel.regular_file("abc"), 0, 3);
  simulation.kernel.close_file(theirs);
  simulation.proactor.turn(0);
  Completion completion;
  REQUIRE(simulation.proactor.next(&completion));
  CHECK(simulation.proactor.send_file(completion.key) == -EPIPE);
  simulation.proactor.release(static_cast<std::uint64_t>(key));
}

TEST_CASE("look_at_next: the watched operations, in turn, and of those the ones in flight") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t plain = proactor.start_poll(Kind::kPoll, ours, POLLIN);
  const std::int64_t first = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  const std::int64_t second = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  const std::int64_t waiting = proactor.start_wait(Kind::kPoll, ours, POLLIN);
  for (std::int64_t key : {first, second, first, waiting})
    proactor.watch(static_cast<std::uint64_t>(key));
  CHECK(proactor.watched() == 3);
  // The others are not in flight yet.
  CHECK(proactor.look_at_next() == kNoSlot);
  CHECK(proactor.look_at_next() == kNoSlot);
  CHECK(proactor.look_at_next() == static_cast<std::uint32_t>(waiting));
  simulation.turn();
  for (std::int64_t key : {first, second, waiting, first})
    CHECK(proactor.look_at_next() == static_cast<std::uint32_t>(key));
  simulation.kernel.put(theirs, "x");
  CHECK(simulation.collector.until_all({plain, first, second, waiting}, 5));
  CHECK(proactor.watched() == 0);
  CHECK(proactor.look_at_next() == kNoSlot);
}

// -- completions of no operation, or not the last of one --

TEST_CASE("dispatch: a stale key is counted and never followed") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  Proactor& proactor = simulation.proactor;
  const std::int64_t old_key = proactor.start_poll(Kind::kPoll, ours, POLLOUT);
  CHECK(simulation.collector.until_all({old_key}, 3));
  std::vector<std::int64_t> keys;
  for (std::uint32_t count = 0; count < OperationTable::kSlabSize; ++count) {
    keys.push_back(proactor.start_poll(Kind::kReceive, ours, POLLIN));
    if (static_cast<std::uint32_t>(keys.back()) == static_cast<std::uint32_t>(old_key)) break;
  }
  REQUIRE(static_cast<std::uint32_t>(keys.back()) == static_cast<std::uint32_t>(old_key));
  simulation.turn();
  const std::uint64_t stale = proactor.stale_keys();
  const std::uint64_t bogus[] = {static_cast<std::uint64_t>(old_key), 0,
                                 (std::uint64_t{5} << 32) | 0x00ffffff, 0x7f001234567890};
  for (std::uint64_t user_data : bogus)
    simulation.kernel.post(proactor.ring_fd(), user_data, POLLIN);
  simulation.turn();
  CHECK(proactor.stale_keys() == stale + 4);
  CHECK(simulation.collector.count() == 1);
  CHECK(simulation.state(keys.back()) == State::kInFlight);
  CHECK(proactor.in_flight() == keys.size());
  simulation.kernel.put(theirs, "x");
  CHECK(simulation.collector.until(
      [&] { return simulation.collector.count() == keys.size() + 1; }));
}

TEST_CASE("cancel: a stale key does nothing") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t old_key = simulation.proactor.start_poll(Kind::kPoll, ours, POLLOUT);
  CHECK(simulation.collector.until_all({old_key}, 3));
  std::vector<std::int64_t> keys;
  for (std::uint32_t count = 0; count < OperationTable::kSlabSize; ++count)
    keys.push_back(simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN));
  for (std::uint64_t key : {static_cast<std::uint64_t>(old_key), std::uint64_t{0},
                            ~std::uint64_t{0}, std::uint64_t{OperationTable::kReservedSlot}})
    simulation.proactor.cancel(key);
  simulation.proactor.release(static_cast<std::uint64_t>(old_key));
  for (int turns = 0; turns < 100; ++turns) simulation.turn();
  CHECK(simulation.collector.count() == 1);
  CHECK(simulation.proactor.in_flight() == keys.size());
  CHECK(simulation.kernel.put(theirs, "x") == 1);
}

TEST_CASE("dispatch: while F_MORE is set the kernel is not done") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair(10);
  const std::string bytes = some_bytes(30);
  Proactor& proactor = simulation.proactor;
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  simulation.turn();
  simulation.turn();
  for (std::int64_t key : {poll, send}) {
    for (int result : {1, -ECANCELED, -EPIPE}) {
      simulation.kernel.post(proactor.ring_fd(), static_cast<std::uint64_t>(key), result,
                             IORING_CQE_F_MORE);
      simulation.turn();
      CHECK_FALSE(simulation.collector.has(key));
      CHECK(simulation.state(key) == State::kInFlight);
    }
  }
  CHECK(proactor.in_flight() == 2);
  CHECK(proactor.stale_keys() == 0);
  std::string received;
  simulation.kernel.put(theirs, "x");
  CHECK(simulation.collector.until([&] {
    received += simulation.kernel.take(theirs);
    return simulation.collector.has(send) && simulation.collector.has(poll);
  }));
  CHECK(received + simulation.kernel.take(theirs) == bytes);
}

// -- cancelling --

TEST_CASE("cancel: before submission nothing reaches the kernel") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  Proactor& proactor = simulation.proactor;
  simulation.turn();
  const std::size_t requests = simulation.kernel.requests(proactor.ring_fd());
  auto buffer = std::make_unique<std::string>("abc");
  const std::int64_t send = proactor.start_send(ours, buffer->data(), buffer->size(), 0);
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  proactor.cancel(static_cast<std::uint64_t>(send));
  proactor.cancel(static_cast<std::uint64_t>(poll), -EBADF);
  CHECK(proactor.has_completions());
  simulation.collector.collect();
  CHECK(simulation.collector[send].error == -ECANCELED);
  CHECK(simulation.collector[send].result == 0);
  CHECK(simulation.collector[poll].error == -EBADF);
  buffer.reset();
  CHECK(proactor.operations() == 0);
  for (int turns = 0; turns < 3; ++turns) simulation.turn();
  CHECK(simulation.kernel.requests(proactor.ring_fd()) == requests);
  CHECK(simulation.kernel.take(theirs).empty());
}

TEST_CASE("cancel: in flight it stays in the table until its own completion") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    auto [ours, theirs] = simulation.kernel.stream_pair(4);
    Proactor& proactor = simulation.proactor;
    const std::string bytes = some_bytes(10);
    const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
    auto [writer, reader] = simulation.kernel.pipe(4, false, true);
    simulation.kernel.put(writer, "----");
    auto buffer = std::make_unique<std::string>(bytes);
    const std::int64_t write = proactor.start_write(writer, buffer->data(), buffer->size());
    simulation.turn();
    simulation.turn();
    // The cancels' own completions come, those of their targets are held back.
    simulation.kernel.chances.hold_back = 1000;
    for (int times = 0; times < 2; ++times) {
      proactor.cancel(static_cast<std::uint64_t>(send));
      proactor.cancel(static_cast<std::uint64_t>(write));
      proactor.cancel(static_cast<std::uint64_t>(poll), -EBADF);
      proactor.cancel(static_cast<std::uint64_t>(poll), -EPIPE);  // the first word counts
      CHECK(simulation.turn() == 0);
      CHECK(simulation.collector.count() == 0);
      for (std::int64_t key : {send, write, poll}) CHECK(simulation.state(key) == State::kInFlight);
      CHECK(proactor.in_flight() == 3);
    }
    simulation.kernel.chances.hold_back = 0;
    CHECK(simulation.collector.until([&] { return simulation.collector.count() == 3; }, 3, -1));
    buffer.reset();
    CHECK(simulation.collector[send].error == -ECANCELED);
    CHECK(simulation.collector[send].result == 4);
    CHECK(simulation.collector[write].error == -ECANCELED);
    CHECK(simulation.collector[write].result == 0);
    CHECK(simulation.collector[poll].error == -EBADF);
    CHECK(simulation.kernel.take(theirs) == bytes.substr(0, 4));
    CHECK(simulation.kernel.take(reader) == "----");
    CHECK(proactor.stale_keys() == 0);
  }
}

TEST_CASE("cancel: an SQE that is written but not consumed is cancelled behind it") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  Proactor& proactor = simulation.proactor;
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  REQUIRE(proactor.prepare() == 0);
  CHECK(simulation.state(poll) == State::kInFlight);
  CHECK(simulation.kernel.requests(proactor.ring_fd()) == 0);
  proactor.cancel(static_cast<std::uint64_t>(poll));
  CHECK_FALSE(simulation.collector.has(poll));
  CHECK(simulation.collector.until_all({poll}, 3));
  CHECK(simulation.collector[poll].error == -ECANCELED);
  // The wake-up's, and the readiness set's.
  CHECK(simulation.kernel.requests(proactor.ring_fd()) == 2);
  CHECK(simulation.kernel.put(theirs, "x") == 1);
}

TEST_CASE("cancel: one that comes too late loses no result") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  simulation.kernel.late_cancels = true;
  const std::string bytes = some_bytes(8);
  SUBCASE("of a write that waits in the kernel") {
    auto [writer, reader] = simulation.kernel.pipe(10, false, true);
    simulation.kernel.put(writer, "0123456789");
    const std::int64_t write = proactor.start_write(writer, bytes.data(), bytes.size());
    for (int turns = 0; turns < 2; ++turns) simulation.turn();
    CHECK(simulation.state(write) == State::kInFlight);
    std::size_t room = 0;
    SUBCASE("all was out before") { room = 10; }
    SUBCASE("some was out before") { room = 3; }
    SUBCASE("it was being worked on") {}
    simulation.kernel.take(reader, room);
    proactor.cancel(static_cast<std::uint64_t>(write));
    CHECK(simulation.collector.until_all({write}, 3));
    const std::size_t out = std::min<std::size_t>(room, 8);
    CHECK(simulation.collector[write].error == (room == 10 ? 0 : -ECANCELED));
    CHECK(simulation.collector[write].result == static_cast<std::int64_t>(out));
    CHECK(simulation.kernel.take(reader).substr(10 - room) == bytes.substr(0, out));
  }
  SUBCASE("of a send whose poll found room") {
    auto [ours, theirs] = simulation.kernel.stream_pair(5);
    const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    simulation.turn();
    simulation.turn();
    const std::string received = simulation.kernel.take(theirs);
    proactor.cancel(static_cast<std::uint64_t>(send));
    CHECK(simulation.collector.until_all({send}, 3));
    CHECK(simulation.collector[send].error == -ECANCELED);
    CHECK(simulation.collector[send].result == 5);
    CHECK(received + simulation.kernel.take(theirs) == bytes.substr(0, 5));
  }
}

TEST_CASE("cancel: after completion the result stands") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  Proactor& proactor = simulation.proactor;
  const std::int64_t send = proactor.start_send(ours, "abc", 3, 0);
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  simulation.kernel.put(theirs, "x");
  REQUIRE(proactor.turn(0) == 0);
  for (std::int64_t key : {send, poll}) {
    CHECK(simulation.state(key) == State::kCompleted);
    proactor.cancel(static_cast<std::uint64_t>(key));
  }
  simulation.collector.collect();
  CHECK(simulation.collector[send].error == 0);
  CHECK(simulation.collector[send].result == 3);
  CHECK(simulation.collector[poll].error == 0);
  CHECK(simulation.collector[poll].result == POLLIN);
}

TEST_CASE("cancel: between two steps of a send the next is not taken") {
  // A completion is in the CQ when the cancel comes: the rest must not be armed.
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair(4);
  Proactor& proactor = simulation.proactor;
  const std::string bytes = some_bytes(10);
  const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  REQUIRE(proactor.prepare() == 0);
  REQUIRE(proactor.enter(false, 0) == 0);
  bool reaped = false;
  SUBCASE("before the completion is read") {}
  SUBCASE("when the rest is queued") {
    proactor.reap();
    CHECK(simulation.state(send) == State::kQueued);
    reaped = true;
  }
  proactor.cancel(static_cast<std::uint64_t>(send));
  if (!reaped) proactor.reap();
  simulation.kernel.take(theirs);
  CHECK(simulation.collector.until_all({send}, 3));
  CHECK(simulation.collector[send].error == -ECANCELED);
  CHECK(simulation.collector[send].result == 4);  // what is out is told
  for (int turns = 0; turns < 3; ++turns) simulation.turn();
  CHECK(simulation.kernel.take(theirs).empty());
}

TEST_CASE("cancel: while a blocked send polls for room") {
  Simulation simulation;
  auto [writer, reader] = simulation.kernel.pipe(4, true);
  const std::string bytes = some_bytes(10);
  const std::int64_t key = simulation.proactor.start_write(writer, bytes.data(), bytes.size());
  for (int turns = 0; turns < 5; ++turns) simulation.turn();
  CHECK((simulation.operation(key)->flags & kPolling) != 0);
  simulation.proactor.cancel(static_cast<std::uint64_t>(key));
  CHECK(simulation.collector.until_all({key}, 3));
  CHECK(simulation.collector[key].error == -ECANCELED);
  CHECK(simulation.collector[key].result == 4);
  CHECK(simulation.kernel.take(reader) == bytes.substr(0, 4));
}

TEST_CASE("cancel_fd: what is on the descriptor and nothing else") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair(4);
  auto [other, their_other] = simulation.kernel.stream_pair(4);
  const std::string bytes = some_bytes(10);
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  const std::int64_t other_poll = proactor.start_poll(Kind::kReceive, other, POLLIN);
  simulation.turn();
  simulation.turn();
  const std::int64_t queued = proactor.start_poll(Kind::kPoll, ours, POLLIN);
  proactor.cancel_fd(ours, -EBADF);
  proactor.cancel_fd(-1);
  proactor.cancel_fd(12345);
  proactor.cancel_fd(0x7fffffff);
  simulation.collector.collect();
  CHECK(simulation.collector.has(queued));  // at once: the kernel does not know it
  CHECK(simulation.collector.until_all({poll, send, queued}, 3));
  for (std::int64_t key : {poll, send, queued}) CHECK(simulation.collector[key].error == -EBADF);
  CHECK_FALSE(simulation.collector.has(other_poll));
  CHECK(simulation.kernel.put(their_other, "x") == 1);
  CHECK(simulation.kernel.take(theirs) == bytes.substr(0, 4));
  CHECK(simulation.collector.until_all({other_poll}, 3));
  CHECK(simulation.collector[other_poll].error == 0);
}

TEST_CASE("cancel_all: more cancels than SQ entries") {
  Simulation simulation(Rung::kDeferTaskrun, 4, 512);
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::vector<std::int64_t> keys;
  for (int count = 0; count < 100; ++count)
    keys.push_back(simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN));
  simulation.turn();
  CHECK(simulation.proactor.in_flight() == 100);
  keys.push_back(simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN));
  simulation.proactor.cancel_all();
  CHECK(simulation.collector.until([&] { return simulation.collector.count() == 101; }, 10));
  for (std::int64_t key : keys) CHECK(simulation.collector[key].error == -ECANCELED);
  CHECK(simulation.kernel.put(theirs, "x") == 1);
}

TEST_CASE("cancel: what ends before its cancel is submitted is not cancelled") {
  for (std::size_t ended : {0u, 1u, 2u}) {
    CAPTURE(ended);
    Simulation simulation;
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    std::vector<std::int64_t> keys;
    for (int count = 0; count < 3; ++count)
      keys.push_back(proactor.start_poll(Kind::kReceive, ours, POLLIN));
    simulation.turn();
    for (std::int64_t key : keys) proactor.cancel(static_cast<std::uint64_t>(key));
    simulation.kernel.post(proactor.ring_fd(), static_cast<std::uint64_t>(keys[ended]), POLLIN);
    proactor.reap();
    simulation.collector.collect();
    CHECK(simulation.collector.count() == 1);
    // The kernel, which believes that it has all three, hears of two.
    const std::int64_t next = proactor.start_poll(Kind::kReceive, ours, POLLIN);
    CHECK(simulation.collector.until([&] { return simulation.collector.count() == 3; }, 3));
    CHECK(simulation.kernel.requests(proactor.ring_fd()) == 4);  // with the wake-up's and the next
    CHECK(simulation.state(next) == State::kInFlight);
    CHECK(proactor.stale_keys() == 0);
    simulation.kernel.put(theirs, "x");
    CHECK(simulation.collector.until_all({next}, 3));
  }
}

TEST_CASE("cancel: a turn does not sleep over cancels that found the SQ full") {
  Simulation simulation(Rung::kDeferTaskrun, 4, 64);
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t victim = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  simulation.turn();
  // Four SQEs that fill the SQ, and a kernel that takes none for now.
  for (int count = 0; count < 4; ++count) proactor.start_poll(Kind::kReceive, ours, POLLIN);
  REQUIRE(proactor.prepare() == 0);
  proactor.cancel(static_cast<std::uint64_t>(victim));
  simulation.kernel.fail(Call::kEnter, -EAGAIN);
  CHECK(simulation.turn(-1) == 0);
  CHECK(simulation.turn(-1) == 0);
  CHECK(simulation.collector.until_all({victim}, 2));
  CHECK(simulation.collector[victim].error == -ECANCELED);
  CHECK(simulation.kernel.put(theirs, "x") == 1);
}

// -- turns --

TEST_CASE("turn: more operations than SQ entries") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung, 4, 16);
    auto [ours, theirs] = simulation.kernel.stream_pair();
    std::vector<std::int64_t> keys;
    for (int count = 0; count < 1000; ++count)
      keys.push_back(simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN));
    CHECK(simulation.turn() == 0);
    CHECK(simulation.proactor.in_flight() == 1000);
    simulation.kernel.put(theirs, "x");
    CHECK(simulation.collector.until([&] { return simulation.collector.count() == 1000; }, 200));
    for (std::int64_t key : keys) CHECK(simulation.collector[key].error == 0);
  }
}

TEST_CASE("turn: completions that overflow the CQ all come") {
  for (Rung rung : kRungs) {
    for (bool busy : {false, true}) {
      CAPTURE(rung_name(rung));
      CAPTURE(busy);
      Simulation simulation(rung, 4, 8);
      simulation.kernel.busy_on_overflow = busy;
      auto [ours, theirs] = simulation.kernel.stream_pair();
      std::vector<std::int64_t> keys;
      for (int count = 0; count < 100; ++count)
        keys.push_back(simulation.proactor.start_send(ours, "x", 1, 0));
      CHECK(simulation.collector.until([&] { return simulation.collector.count() == 100; }, 100));
      for (std::int64_t key : keys) CHECK(simulation.collector[key].error == 0);
      CHECK(simulation.kernel.take(theirs) == std::string(100, 'x'));
    }
  }
}

TEST_CASE("turn: SQEs that are not consumed are submitted before a sleep") {
  Simulation simulation;
  simulation.kernel.largest_submit = 1;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::vector<std::int64_t> keys;
  for (int count = 0; count < 5; ++count)
    keys.push_back(simulation.proactor.start_send(ours, "x", 1, 0));
  CHECK(simulation.collector.until([&] { return simulation.collector.count() == 5; }, 20, -1));
  CHECK(simulation.kernel.take(theirs) == "xxxxx");
}

TEST_CASE("turn: SQEs that are not consumed name no descriptor until the next turn") {
  for (int error : {-EAGAIN, -EBUSY, -EINTR, 0}) {
    CAPTURE(error);
    Simulation simulation;
    SimulatedKernel& kernel = simulation.kernel;
    Proactor& proactor = simulation.proactor;
    simulation.turn();  // the wake-up's SQE
    auto [ours, theirs] = kernel.stream_pair();
    auto [first, other_first] = kernel.stream_pair();
    const std::int64_t poll = proactor.start_poll(Kind::kReceive, first, POLLIN);
    const std::int64_t send = proactor.start_send(ours, "secret", 6, 0);
    if (error == 0)
      kernel.largest_submit = 1;  // the poll, and not the send
    else
      kernel.fail(Call::kEnter, error);
    simulation.turn();
    CHECK(simulation.state(send) == State::kQueued);
    CHECK(simulation.state(poll) == (error == 0 ? State::kInFlight : State::kQueued));
    // Its owner closes it, and is asked for its number before the next turn.
    kernel.close_file(ours);
    auto [next, their_next] = kernel.stream_pair();
    CHECK(next == ours);
    proactor.cancel(static_cast<std::uint64_t>(send), -EBADF);
    CHECK(simulation.collector.until_all({send}));
    CHECK(simulation.collector[send].error == -EBADF);
    CHECK(kernel.take(their_next).empty());
    CHECK(kernel.at_end(theirs));
    // The other goes on.
    CHECK(kernel.put(other_first, "x") == 1);
    CHECK(simulation.collector.until_all({poll}));
    CHECK(simulation.collector[poll].error == 0);
  }
}

TEST_CASE("turn: what was not consumed keeps its place before what did not fit") {
  Simulation simulation(Rung::kDeferTaskrun, 4);
  simulation.turn();
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::string letters = "abcdefghij";
  for (const char& letter : letters) simulation.proactor.start_send(ours, &letter, 1, 0);
  simulation.kernel.fail(Call::kEnter, -EAGAIN, 1, 3);
  CHECK(simulation.collector.until([&] { return simulation.collector.count() == letters.size(); }));
  CHECK(simulation.kernel.take(theirs) == letters);
}

TEST_CASE("turn: a cancel that was not consumed is submitted again") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t poll = simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN);
  simulation.turn();
  simulation.proactor.cancel(static_cast<std::uint64_t>(poll));
  simulation.kernel.fail(Call::kEnter, -EAGAIN, 1, 3);
  CHECK(simulation.collector.until_all({poll}, 6));
  CHECK(simulation.collector[poll].error == -ECANCELED);
  CHECK(simulation.kernel.calls(Call::kEnter) > 4);
}

TEST_CASE("turn: an interrupted wait is reported and nothing is lost") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t send = simulation.proactor.start_send(ours, "abc", 3, 0);
  const std::int64_t poll = simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN);
  simulation.kernel.fail(Call::kEnter, -EINTR, 1, 2);
  CHECK(simulation.turn(-1) == -EINTR);
  CHECK(simulation.turn(-1) == -EINTR);
  CHECK(simulation.turn() == 0);
  CHECK(simulation.collector[send].error == 0);
  CHECK(simulation.kernel.take(theirs) == "abc");
  simulation.kernel.put(theirs, "x");
  simulation.kernel.fail(Call::kEnter, -EINTR);
  CHECK(simulation.turn() == -EINTR);
  CHECK(simulation.collector.until_all({poll}, 2));
}

TEST_CASE("turn: interrupted while the SQ is full") {
  Simulation simulation(Rung::kDeferTaskrun, 4, 64);
  auto [ours, theirs] = simulation.kernel.stream_pair();
  std::vector<std::int64_t> keys;
  for (int count = 0; count < 20; ++count)
    keys.push_back(simulation.proactor.start_send(ours, "x", 1, 0));
  simulation.kernel.fail(Call::kEnter, -EINTR, 2);
  CHECK(simulation.proactor.prepare() == -EINTR);
  CHECK(simulation.collector.until([&] { return simulation.collector.count() == 20; }, 10));
  CHECK(simulation.kernel.take(theirs) == std::string(20, 'x'));
}

TEST_CASE("turn: a kernel that is busy or out of memory for now is no error") {
  for (int error : {-EBUSY, -EAGAIN}) {
    CAPTURE(error);
    Simulation simulation(Rung::kDeferTaskrun, 4, 64);
    auto [ours, theirs] = simulation.kernel.stream_pair();
    std::vector<std::int64_t> keys;
    for (int count = 0; count < 20; ++count)
      keys.push_back(simulation.proactor.start_send(ours, "x", 1, 0));
    simulation.kernel.fail(Call::kEnter, error, 2, 5);
    CHECK(simulation.collector.until([&] { return simulation.collector.count() == 20; }, 20));
    CHECK(simulation.kernel.take(theirs) == std::string(20, 'x'));
  }
}

TEST_CASE("turn: a kernel that is never entered is told of, and soon") {
  for (Rung rung : kRungs) {
    for (int error : {-EBUSY, -EAGAIN, -EINTR, -EBADR}) {
      // With nothing to submit; with a send, and with more of them than the SQ holds.
      for (unsigned operations : {0u, 1u, 20u}) {
        CAPTURE(rung_name(rung));
        CAPTURE(error);
        CAPTURE(operations);
        Simulation simulation(rung, 4, 64);
        Proactor& proactor = simulation.proactor;
        auto [ours, theirs] = simulation.kernel.stream_pair();
        simulation.turn();
        for (unsigned count = 0; count < operations; ++count) proactor.start_send(ours, "x", 1, 0);
        simulation.kernel.fail(Call::kEnter, error, 1, 1000000);
        const std::int64_t before = proactor.now();
        for (int turns = 0; turns < 5000 && proactor.refused_to_enter() == 0; ++turns) simulation.turn(-1);
        CHECK(simulation.turn(-1) == error);
        CHECK(proactor.refused_to_enter() == error);
        // A pause is made after each: nobody spins.
        CHECK(simulation.kernel.calls(Call::kEnter) < 10000);
        CHECK(proactor.now() - before > 1000 * kMillisecond);
        // It is known from here on, and nobody waits for it again.
        const std::int64_t then = proactor.now();
        CHECK(proactor.drain(1000 * kMillisecond) == proactor.in_flight());
        proactor.settle(ours);
        CHECK(proactor.now() - then < 100 * kMillisecond);
        // Until the kernel has thought better of it.
        simulation.kernel.fail(Call::kEnter, 0, 1, 1000000);
        CHECK(simulation.turn() == 0);
        CHECK(proactor.refused_to_enter() == 0);
        CHECK(simulation.collector.count() == operations);
        CHECK(simulation.kernel.take(theirs).empty());
        const std::int64_t late = proactor.start_send(ours, "late", 4, 0);
        CHECK(simulation.collector.until_all({late}));
        CHECK(simulation.kernel.take(theirs) == "late");
      }
    }
  }
}

TEST_CASE("turn: signals may come as often as they like") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  simulation.turn();
  const std::int64_t before = proactor.now();
  // An enter that does not wait is not interrupted.
  simulation.kernel.interrupt_waits = true;
  for (int turns = 0; turns < 10000; ++turns) {
    CHECK(simulation.turn(-1) == -EINTR);
    simulation.kernel.now += kMillisecond;
  }
  CHECK(proactor.now() - before > 10000 * kMillisecond);
  CHECK(proactor.refused_to_enter() == 0);
  CHECK_FALSE(proactor.stalled());
  simulation.kernel.interrupt_waits = false;
  CHECK(simulation.kernel.put(theirs, "x") == 1);
  CHECK(simulation.collector.until_all({poll}, 3));
}

TEST_CASE("turn: a kernel that refuses for a long time, and takes something now and then, is no error") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  simulation.turn();
  for (int times = 0; times < 20; ++times) {
    const std::int64_t send = proactor.start_send(ours, "x", 1, 0);
    simulation.kernel.fail(Call::kEnter, -EAGAIN, 1, 1000);
    const std::int64_t before = proactor.now();
    while (!simulation.collector.has(send)) {
      REQUIRE(simulation.turn(-1) == 0);
      REQUIRE(proactor.now() - before < 2000 * kMillisecond);
    }
  }
  CHECK(simulation.kernel.take(theirs).size() == 20);
}

// More than the SQ holds, and a kernel that takes nothing.
template <typename Test>
void while_refused(Test test) {
  for (Rung rung : kRungs) {
    for (int error : {-EBUSY, -EAGAIN}) {
      for (unsigned operations : {2u, 20u}) {
        CAPTURE(rung_name(rung));
        CAPTURE(error);
        CAPTURE(operations);
        Simulation simulation(rung, 4, 64);
        auto [ours, theirs] = simulation.kernel.stream_pair();
        auto [other, their_other] = simulation.kernel.stream_pair();
        simulation.proactor.start_poll(Kind::kReceive, other, POLLIN);
        simulation.turn();
        for (unsigned count = 0; count < operations; ++count)
          simulation.proactor.start_send(ours, "x", 1, 0);
        simulation.kernel.submit_error = error;
        test(simulation, their_other);
        simulation.kernel.submit_error = 0;
        CHECK(simulation.collector.until([&] { return simulation.proactor.in_flight() <= 1; }, 30));
        CHECK(simulation.kernel.take(theirs).size() <= operations);
      }
    }
  }
}

TEST_CASE("turn: a kernel that takes nothing is asked about once a millisecond") {
  while_refused([](Simulation& simulation, int) {
    const std::int64_t before = simulation.proactor.now();
    const unsigned enters = simulation.kernel.calls(Call::kEnter);
    for (int turns = 0; turns < 10; ++turns) {
      CHECK(simulation.turn(-1) == 0);
      CHECK(simulation.proactor.stalled());
      CHECK_FALSE(simulation.proactor.idle());
    }
    CHECK(simulation.proactor.now() - before >= 10 * kMillisecond);
    CHECK(simulation.kernel.calls(Call::kEnter) - enters <= 30);
    // Who may wait less waits less, and who may not wait does not.
    const std::int64_t later = simulation.proactor.now();
    CHECK(simulation.turn(kMillisecond / 10) == 0);
    CHECK(simulation.turn(0) == 0);
    CHECK(simulation.proactor.now() - later < kMillisecond / 2);
  });
}

TEST_CASE("turn: what completes ends the wait for a kernel that takes nothing") {
  while_refused([](Simulation& simulation, int their_other) {
    CHECK(simulation.turn(-1) == 0);
    CHECK(simulation.proactor.stalled());
    simulation.kernel.while_asleep = [&] { return simulation.kernel.put(their_other, "x") == 1; };
    const std::int64_t before = simulation.proactor.now();
    CHECK(simulation.collector.until([&] { return simulation.collector.count() == 1; }, 3, -1));
    CHECK(simulation.proactor.now() - before < kMillisecond);
    CHECK_FALSE(simulation.proactor.stalled());
    simulation.kernel.while_asleep = nullptr;
  });
}

TEST_CASE("wake: is heard though the kernel does not take the poll for it") {
  while_refused([](Simulation& simulation, int) {
    CHECK(simulation.turn(-1) == 0);
    CHECK_FALSE(simulation.proactor.take_wake());
    // The poll for it has ended, and is not taken again.
    simulation.proactor.wake();
    for (int turns = 0; turns < 2 && !simulation.proactor.take_wake(); ++turns) simulation.turn(-1);
    simulation.turn(-1);
    simulation.proactor.wake();
    CHECK(simulation.turn(-1) == 0);
    CHECK(simulation.proactor.take_wake());
    CHECK(simulation.turn(-1) == 0);
    CHECK_FALSE(simulation.proactor.take_wake());
  });
}

TEST_CASE("drain: sleeps while the kernel takes nothing") {
  while_refused([](Simulation& simulation, int) {
    const unsigned enters = simulation.kernel.calls(Call::kEnter);
    CHECK(simulation.proactor.drain(20 * kMillisecond) == 1);
    CHECK(simulation.kernel.calls(Call::kEnter) - enters <= 80);
  });
}

TEST_CASE("settle: sleeps for a short time while the kernel takes nothing") {
  while_refused([](Simulation& simulation, int their_other) {
    const std::int64_t before = simulation.proactor.now();
    simulation.proactor.settle(their_other - 1);
    CHECK(simulation.proactor.now() - before >= kMillisecond);
    CHECK(simulation.proactor.now() - before <= 20 * kMillisecond);
  });
}

TEST_CASE("turn: other errors are reported") {
  Simulation simulation;
  simulation.kernel.fail(Call::kEnter, -ENXIO);
  CHECK(simulation.turn() == -ENXIO);
  CHECK(simulation.turn() == 0);
}

TEST_CASE("turn: a wait ends with its time") {
  Simulation simulation;
  const std::int64_t before = simulation.proactor.now();
  CHECK(simulation.turn(5 * kMillisecond) == 0);
  CHECK(simulation.proactor.now() >= before + 5 * kMillisecond);
  CHECK(simulation.proactor.now() < before + 6 * kMillisecond);
}

TEST_CASE("turn: with nothing to do it does not enter") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t poll = simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN);
  simulation.turn();
  const unsigned enters = simulation.kernel.calls(Call::kEnter);
  for (int turns = 0; turns < 5; ++turns) CHECK(simulation.turn() == 0);
  CHECK(simulation.kernel.calls(Call::kEnter) == enters);
  CHECK(simulation.proactor.idle());
  simulation.kernel.put(theirs, "x");
  CHECK_FALSE(simulation.proactor.idle());
  CHECK(simulation.proactor.must_enter());
  CHECK(simulation.collector.until_all({poll}, 2));
}

TEST_CASE("turn: a flag that outlives its task work keeps nobody from sleeping") {
  for (Rung rung : {Rung::kDeferTaskrun, Rung::kCoopTaskrun}) {
    Simulation simulation(rung);
    auto [ours, theirs] = simulation.kernel.stream_pair();
    simulation.kernel.chances.stale_flag = 1000;
    const std::int64_t poll = simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN);
    simulation.turn();
    simulation.kernel.put(theirs, "x");
    CHECK(simulation.collector.until_all({poll}, 3));
    const std::int64_t before = simulation.proactor.now();
    for (int turns = 0; turns < 3; ++turns) CHECK(simulation.turn(5 * kMillisecond) == 0);
    CHECK(simulation.proactor.now() >= before + 5 * kMillisecond);
    // What comes then is seen at once.
    const std::int64_t next = simulation.proactor.start_poll(Kind::kReceive, ours, POLLIN);
    simulation.turn();
    simulation.kernel.put(theirs, "x");
    CHECK(simulation.collector.until_all({next}, 3));
  }
}

TEST_CASE("turn: it does not sleep over a completion that nobody has taken") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t send = simulation.proactor.start_send(ours, "abc", 3, 0);
  simulation.turn();
  CHECK(simulation.collector.has(send));
  const std::int64_t second = simulation.proactor.start_send(ours, "abc", 3, 0);
  REQUIRE(simulation.proactor.turn(0) == 0);
  CHECK(simulation.proactor.turn(-1) == 0);  // would be for ever: a violation
  simulation.collector.collect();
  CHECK(simulation.collector.has(second));
  CHECK(simulation.kernel.take(theirs) == "abcabc");
}

TEST_CASE("reap: at most kReapLimit completions a turn; the rest is not slept over") {
  Simulation simulation(Rung::kDeferTaskrun, 512, 2048);
  auto [ours, theirs] = simulation.kernel.stream_pair();
  for (unsigned count = 0; count < 3 * Proactor::kReapLimit; ++count)
    simulation.proactor.start_send(ours, "x", 1, 0);
  CHECK(simulation.turn(-1) == 0);
  CHECK(simulation.collector.count() <= Proactor::kReapLimit);
  CHECK(simulation.turn(-1) == 0);
  CHECK(simulation.collector.count() <= 2 * Proactor::kReapLimit);
  CHECK(simulation.collector.until(
      [&] { return simulation.collector.count() == 3 * Proactor::kReapLimit; }, 4, -1));
  CHECK(simulation.kernel.take(theirs).size() == 3 * Proactor::kReapLimit);
}

TEST_CASE("large_copy: true when the SQEs written copy a lot") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::string bytes(Proactor::kLargeCopy + 1, 'x');
  simulation.proactor.start_send(ours, bytes.data(), 1000, 0);
  REQUIRE(simulation.proactor.prepare() == 0);
  CHECK_FALSE(simulation.proactor.large_copy());
  const std::int64_t large = simulation.proactor.start_send(ours, bytes.data(), bytes.size(), 0);
  REQUIRE(simulation.proactor.prepare() == 0);
  CHECK(simulation.proactor.large_copy());
  CHECK(simulation.collector.until([&] {
    simulation.kernel.take(theirs);
    return simulation.collector.has(large);
  }));
  REQUIRE(simulation.proactor.prepare() == 0);
  CHECK_FALSE(simulation.proactor.large_copy());
}

TEST_CASE("wake: ends a sleep and is seen once") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    Proactor& proactor = simulation.proactor;
    CHECK_FALSE(proactor.take_wake());
    for (int round = 0; round < 5; ++round) {
      if (round % 2 == 0) {
        simulation.kernel.while_asleep = [&] {
          proactor.wake();
          proactor.wake();
          return true;
        };
      } else {
        // Before the sleep: it must not begin.
        simulation.kernel.while_asleep = nullptr;
        proactor.wake();
      }
      for (int turns = 0; turns < 3 && !proactor.take_wake(); ++turns)
        CHECK(simulation.turn(-1) == 0);
      for (int turns = 0; turns < 3; ++turns) {
        CHECK_FALSE(proactor.take_wake());
        CHECK(simulation.turn() == 0);
      }
    }
    CHECK(proactor.operations() == 0);
  }
}

TEST_CASE("wake: the poll for it survives an end without a reason") {
  Simulation simulation;
  simulation.kernel.force_result(IORING_OP_POLL_ADD, -ECANCELED);
  simulation.turn();
  simulation.proactor.take_wake();
  simulation.kernel.while_asleep = [&] {
    simulation.proactor.wake();
    return true;
  };
  CHECK(simulation.turn(-1) == 0);
  CHECK(simulation.proactor.take_wake());
}

TEST_CASE("wake: while F_MORE is set the poll for it goes on") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  simulation.turn();
  for (int count = 0; count < 3; ++count) {
    simulation.kernel.post(proactor.ring_fd(), OperationTable::kReservedSlot + 1, POLLIN,
                           IORING_CQE_F_MORE);
    simulation.turn();
    CHECK(proactor.take_wake());
    CHECK(simulation.kernel.requests(proactor.ring_fd()) == 2);
  }
  proactor.wake();
  CHECK(simulation.turn(-1) == 0);
  CHECK(proactor.take_wake());
}

// -- threads --

TEST_CASE("bind_thread: before the first run operations queue in the table") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    SimulatedKernel kernel;
    Proactor proactor(kernel.table());
    Collector collector(&proactor);
    Features features;
    REQUIRE(probe_features(kernel.table(), &features, rung) == 0);
    CHECK(proactor.bind_thread() == -EBADF);
    REQUIRE(proactor.init(features, 8, 32) == 0);
    CHECK(proactor.rung() == rung);
    CHECK_FALSE(proactor.bound_here());
    auto [ours, theirs] = kernel.stream_pair();
    const std::int64_t send = proactor.start_send(ours, "abc", 3, 0);
    kernel.thread = 2;
    REQUIRE(proactor.bind_thread() == 0);
    CHECK(proactor.bound_here());
    CHECK(collector.until_all({send}, 3));
    CHECK(kernel.take(theirs) == "abc");
    CHECK(kernel.violations.empty());
  }
}

TEST_CASE("bind_thread: a second run in the same thread costs nothing") {
  Simulation simulation;
  const int fd = simulation.proactor.ring_fd();
  const unsigned setups = simulation.kernel.calls(Call::kSetup);
  for (int run = 0; run < 3; ++run) CHECK(simulation.proactor.bind_thread() == 0);
  CHECK(simulation.kernel.calls(Call::kSetup) == setups);
  CHECK(simulation.proactor.ring_fd() == fd);
}

TEST_CASE("bind_thread: everything moves to another thread and nothing is sent twice") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    Proactor& proactor = simulation.proactor;
    SimulatedKernel& kernel = simulation.kernel;
    const std::size_t files = kernel.open_files();
    auto [ours, theirs] = kernel.stream_pair(10);
    auto [other, their_other] = kernel.stream_pair();
    const std::string bytes = some_bytes(25);
    const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
    const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    const std::int64_t cancelled = proactor.start_poll(Kind::kReceive, other, POLLIN);
    simulation.turn();
    simulation.turn();
    proactor.cancel(static_cast<std::uint64_t>(cancelled), -EBADF);
    const std::int64_t posted = proactor.start_send(other, "abc", 3, 0);
    const std::int64_t written = proactor.start_send(other, "def", 3, 0);
    kernel.largest_submit = 3;  // the cancel, the first send; not the second
    REQUIRE(proactor.prepare() == 0);
    kernel.largest_submit = 2;
    REQUIRE(proactor.enter(false, 0) == 0);
    kernel.largest_submit = 1000;
    const std::int64_t queued = proactor.start_poll(Kind::kReceive, other, POLLIN);

    kernel.thread = 2;
    kernel.exit_thread(1);
    CHECK(proactor.bound_here() == (rung != Rung::kDeferTaskrun));
    REQUIRE(proactor.bind_thread() == 0);
    CHECK(proactor.bound_here());
    kernel.end_closed_rings();
    std::string received = kernel.take(theirs);
    kernel.put(theirs, "x");
    CHECK(simulation.collector.until([&] {
      received += kernel.take(theirs);
      return simulation.collector.has(send);
    }));
    CHECK(simulation.collector.until_all({poll, posted, written, cancelled}, 10));
    received += kernel.take(theirs);
    CHECK(received == bytes);
    CHECK(kernel.take(their_other) == "abcdef");
    for (std::int64_t key : {poll, send, posted, written})
      CHECK(simulation.collector[key].error == 0);
    CHECK(simulation.collector[cancelled].error == -EBADF);
    CHECK_FALSE(simulation.collector.has(queued));
    kernel.put(their_other, "x");
    CHECK(simulation.collector.until_all({queued}, 5));
    proactor.wake();
    CHECK(simulation.turn(-1) == 0);
    CHECK(proactor.take_wake());
    CHECK(kernel.open_files() == files + 4);
    CHECK(proactor.stale_keys() == 0);
    CHECK(proactor.abandoned() == 0);
  }
}

TEST_CASE("bind_thread: who moves once keeps the best rung and who keeps moving pays twice") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    Proactor& proactor = simulation.proactor;
    SimulatedKernel& kernel = simulation.kernel;
    auto [ours, theirs] = kernel.stream_pair(10);
    const std::string bytes = some_bytes(400);
    const std::int64_t silent = proactor.start_poll(Kind::kReceive, theirs, POLLPRI);
    const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    std::string received;
    const unsigned setups = kernel.calls(Call::kSetup);
    for (int move = 1; move <= 20; ++move) {
      CAPTURE(move);
      simulation.turn();
      if (move % 3 == 0) kernel.exit_thread(kernel.thread);
      kernel.thread = move + 1;
      REQUIRE(proactor.bind_thread() == 0);
      CHECK(proactor.bound_here());
      const int made = rung == Rung::kDeferTaskrun ? std::min(move, 2) : 0;
      CHECK(kernel.calls(Call::kSetup) - setups == static_cast<unsigned>(made));
      CHECK(proactor.rung() == (made == 2 ? Rung::kCoopTaskrun : rung));
      CHECK(rung_of(kernel.ring_flags(proactor.ring_fd())) == proactor.rung());
      CHECK(proactor.in_flight() + (proactor.first_queued() != kNoSlot) >= 1);
      received += kernel.take(theirs);
      // Another thread's turn has its wake-up, too.
      proactor.wake();
      for (int turns = 0; turns < 3 && !proactor.take_wake(); ++turns) simulation.turn(kMillisecond);
    }
    CHECK(simulation.collector.until([&] {
      received += kernel.take(theirs);
      return simulation.collector.has(send);
    }));
    CHECK(received + kernel.take(theirs) == bytes);
    CHECK_FALSE(simulation.collector.has(silent));
    CHECK(proactor.abandoned() == 0);
    CHECK(kernel.mappings() == 2);
  }
}

TEST_CASE("bind_thread: a silent poll outlives hundreds of threads") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    SimulatedKernel& kernel = simulation.kernel;
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = kernel.stream_pair();
    const std::int64_t key = proactor.start_poll(Kind::kPoll, ours, POLLIN);
    simulation.turn();
    for (int thread = 1; thread <= 300; ++thread) {
      // As the kernel ends what an ending thread has in flight.
      kernel.end_requests(proactor.ring_fd(), -ECANCELED);
      kernel.thread = thread + 1;
      REQUIRE(proactor.bind_thread() == 0);
      CHECK(simulation.turn() == 0);
      CHECK(simulation.turn() == 0);
      REQUIRE_FALSE(simulation.collector.has(key));
    }
    kernel.put(theirs, "x");
    CHECK(simulation.collector.until_all({key}, 5));
    CHECK(simulation.collector[key].error == 0);
  }
}

TEST_CASE("bind_thread: completions that overflowed are not lost with the ring") {
  // They are in the kernel's hands; another thread could not get them, and would send again.
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung, 4, 8);
    auto [ours, theirs] = simulation.kernel.stream_pair();
    std::vector<std::int64_t> keys;
    for (int count = 0; count < 50; ++count)
      keys.push_back(simulation.proactor.start_send(ours, "x", 1, 0));
    CHECK(simulation.proactor.turn(0) == 0);
    simulation.kernel.thread = 2;
    REQUIRE(simulation.proactor.bind_thread() == 0);
    CHECK(simulation.collector.until([&] { return simulation.collector.count() == 50; }, 50));
    CHECK(simulation.kernel.take(theirs) == std::string(50, 'x'));
  }
}

TEST_CASE("bind_thread: a cancelled write that can't be seen to end is given up with its buffer") {
  Simulation simulation;
  auto [writer, reader] = simulation.kernel.pipe(4, false, true);
  Proactor& proactor = simulation.proactor;
  const std::string bytes = some_bytes(10);
  simulation.kernel.put(writer, "----");
  const std::int64_t write = proactor.start_write(writer, bytes.data(), bytes.size());
  for (int turns = 0; turns < 2; ++turns) simulation.turn();
  proactor.cancel(static_cast<std::uint64_t>(write));
  simulation.kernel.thread = 2;
  REQUIRE(proactor.bind_thread() == 0);
  simulation.collector.collect();
  CHECK(simulation.collector[write].error == -ECANCELED);
  CHECK(simulation.collector[write].result == 0);
  CHECK(simulation.collector[write].abandoned);
  CHECK(proactor.abandoned() == 1);
  CHECK(simulation.kernel.take(reader) == "----");
}

TEST_CASE("bind_thread: without a fresh ring the old one stays") {
  struct Step {
    Call call;
    unsigned nth;
  };
  for (Step step : {Step{Call::kSetup, 1}, Step{Call::kMmap, 1}, Step{Call::kMmap, 2},
                    Step{Call::kRegister, 1}}) {
    Simulation simulation;
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
    simulation.turn();
    const std::size_t files = simulation.kernel.open_files();
    simulation.kernel.thread = 2;
    simulation.kernel.fail(step.call, -EMFILE, step.nth);
    CHECK(proactor.bind_thread() == -EMFILE);
    CHECK(simulation.kernel.open_files() == files);
    CHECK(simulation.kernel.mappings() == 2);
    CHECK_FALSE(proactor.bound_here());
    simulation.kernel.thread = 1;
    CHECK(proactor.bound_here());
    CHECK(proactor.bind_thread() == 0);
    simulation.kernel.put(theirs, "x");
    CHECK(simulation.collector.until_all({poll}, 3));
  }
}

TEST_CASE("bind_thread: by force when a new thread has the old one's number") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  simulation.turn();
  simulation.kernel.put(theirs, "x");
  simulation.kernel.fail(Call::kEnter, -EEXIST);
  CHECK(simulation.turn() == -EEXIST);
  const unsigned setups = simulation.kernel.calls(Call::kSetup);
  CHECK(proactor.bind_thread() == 0);
  CHECK(simulation.kernel.calls(Call::kSetup) == setups);
  CHECK(proactor.bind_thread(true) == 0);
  CHECK(simulation.kernel.calls(Call::kSetup) == setups + 1);
  CHECK(simulation.collector.until_all({poll}, 3));
}

TEST_CASE("bind_thread: what ends because its thread has ended goes on") {
  for (Rung rung : {Rung::kCoopTaskrun, Rung::kPlain}) {
    for (int result : {-EFAULT, -ECANCELED}) {
      CAPTURE(rung_name(rung));
      CAPTURE(result);
      Simulation simulation(rung);
      Proactor& proactor = simulation.proactor;
      auto [ours, theirs] = simulation.kernel.stream_pair(4);
      const std::string bytes = some_bytes(10);
      const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
      const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
      simulation.turn();
      simulation.turn();
      simulation.kernel.orphan_result = result;
      simulation.kernel.exit_thread(1);
      simulation.kernel.thread = 2;
      REQUIRE(proactor.bind_thread() == 0);
      simulation.kernel.put(theirs, "x");
      std::string received;
      CHECK(simulation.collector.until([&] {
        received += simulation.kernel.take(theirs);
        return simulation.collector.has(send) && simulation.collector.has(poll);
      }));
      CHECK(simulation.collector[poll].error == 0);
      CHECK(simulation.collector[send].error == 0);
      CHECK(received + simulation.kernel.take(theirs) == bytes);
    }
  }
}

TEST_CASE("bind_thread: a poll outlives hundreds of threads") {
  for (Rung rung : {Rung::kCoopTaskrun, Rung::kPlain}) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    SimulatedKernel& kernel = simulation.kernel;
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = kernel.stream_pair();
    const std::int64_t key = proactor.start_poll(Kind::kPoll, ours, POLLIN);
    simulation.turn();
    kernel.orphan_result = -ECANCELED;
    Completion completion;
    for (int thread = 1; thread <= 300; ++thread) {
      kernel.exit_thread(thread);
      kernel.thread = thread + 1;
      REQUIRE(proactor.bind_thread() == 0);
      kernel.put(theirs, "x");
      for (int turns = 0; turns < 5 && !proactor.has_completions(); ++turns) proactor.turn(0);
      REQUIRE(proactor.next(&completion));
      REQUIRE(completion.error == 0);
      kernel.take(ours);
      REQUIRE(proactor.again(static_cast<std::uint64_t>(key)) == 0);
      proactor.turn(0);
    }
    proactor.cancel(static_cast<std::uint64_t>(key));
    CHECK(simulation.collector.until_all({key}, 5));
  }
}

TEST_CASE("finish: EFAULT in the thread that submitted is the caller's fault") {
  Simulation simulation;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  simulation.kernel.force_result(IORING_OP_SEND, -EFAULT);
  const std::int64_t send = simulation.proactor.start_send(ours, "abc", 3, 0);
  CHECK(simulation.collector.until_all({send}, 3));
  CHECK(simulation.collector[send].error == -EFAULT);
  CHECK(simulation.kernel.take(theirs).empty());
}

TEST_CASE("settle: from another thread it marks and enters nothing") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
    simulation.turn();
    const unsigned enters = simulation.kernel.calls(Call::kEnter);
    // The loop's thread may be in enter() without the GIL at this moment.
    simulation.kernel.thread = 2;
    proactor.settle(ours);
    CHECK(simulation.kernel.calls(Call::kEnter) == enters);
    CHECK(simulation.state(poll) == State::kInFlight);
    CHECK((simulation.operation(poll)->flags & kCancelWanted) != 0);
    simulation.kernel.thread = 1;
    CHECK(simulation.collector.until_all({poll}, 3));
    CHECK(simulation.collector[poll].error == -ECANCELED);
    CHECK(simulation.kernel.put(theirs, "x") == 1);
  }
}

TEST_CASE("drain: from another thread where the ring takes it") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
    simulation.turn();
    simulation.kernel.thread = 2;
    CHECK(proactor.bound_here() == (rung != Rung::kDeferTaskrun));
    CHECK(proactor.drain(kMillisecond) == (rung == Rung::kDeferTaskrun ? 1 : 0));
    proactor.close();
    simulation.collector.collect();
    CHECK(simulation.collector[poll].error == -ECANCELED);
    CHECK(simulation.kernel.put(theirs, "x") == 1);
  }
}

// -- completions that the kernel drops --

TEST_CASE("dropped: polls go on and a send in doubt ends with EBADR") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    SimulatedKernel& kernel = simulation.kernel;
    Proactor& proactor = simulation.proactor;
    const std::size_t files = kernel.open_files();
    auto [ours, theirs] = kernel.stream_pair(4);
    auto [other, their_other] = kernel.stream_pair();
    const std::string bytes = some_bytes(10);
    const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
    const std::int64_t silent = proactor.start_poll(Kind::kReceive, other, POLLIN);
    const std::int64_t polling = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    simulation.turn();
    simulation.turn();
    CHECK((simulation.operation(polling)->flags & kPolling) != 0);
    // A send that is out, one that was cancelled, a readiness, and a cancel's answer: all are lost.
    const std::int64_t lost = proactor.start_send(other, "abc", 3, 0);
    const std::int64_t cancelled = proactor.start_poll(Kind::kReceive, other, POLLIN);
    simulation.turn();
    kernel.put(theirs, "x");
    proactor.cancel(static_cast<std::uint64_t>(cancelled), -EBADF);
    const std::int64_t also_lost = proactor.start_send(other, "def", 3, 0);
    CHECK(simulation.collector.has(lost));
    kernel.chances.dropped = 1000;
    CHECK(simulation.turn(-1) == 0);
    kernel.chances.dropped = 0;
    CHECK(kernel.taken.dropped >= 3);
    CHECK(simulation.collector.until_all({also_lost, poll, cancelled}, 3));
    CHECK(simulation.collector[also_lost].error == -EBADR);
    CHECK(simulation.collector[also_lost].result == 0);
    CHECK(simulation.collector[also_lost].abandoned);
    CHECK(kernel.take(their_other) == "abcdef");
    CHECK(simulation.collector[poll].error == 0);
    CHECK(simulation.collector[cancelled].error == -EBADF);
    CHECK_FALSE(simulation.collector[cancelled].abandoned);
    // What has not ended goes on as if nothing had been.
    std::string received;
    CHECK(simulation.collector.until([&] {
      received += kernel.take(theirs);
      return simulation.collector.has(polling);
    }));
    CHECK(received + kernel.take(theirs) == bytes);
    kernel.put(their_other, "x");
    proactor.wake();
    CHECK(simulation.collector.until_all({silent}, 3));
    CHECK(proactor.take_wake());
    CHECK(proactor.abandoned() == 1);
    CHECK(proactor.stale_keys() == 0);
    CHECK(kernel.open_files() == files + 4);
  }
}

TEST_CASE("dropped: a wake-up that is lost is not slept over") {
  Simulation simulation;
  simulation.turn();
  simulation.proactor.wake();
  simulation.kernel.chances.dropped = 1000;
  CHECK(simulation.turn(-1) == 0);
  simulation.kernel.chances.dropped = 0;
  // The descriptor is readable still, and its poll queued.
  CHECK(simulation.turn(-1) == 0);
  CHECK(simulation.proactor.take_wake());
}

TEST_CASE("dropped: a fresh ring that can't be had is asked for again") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  simulation.turn();
  simulation.kernel.put(theirs, "x");
  const int fd = proactor.ring_fd();
  simulation.kernel.chances.dropped = 1000;
  simulation.kernel.fail(Call::kSetup, -ENOMEM, 1, 5);
  const std::int64_t before = proactor.now();
  CHECK(simulation.turn(-1) == 0);
  CHECK(proactor.stalled());
  CHECK_FALSE(proactor.idle());
  simulation.kernel.chances.dropped = 0;
  CHECK(simulation.collector.until_all({poll}, 10));
  CHECK(simulation.collector[poll].error == 0);
  CHECK(proactor.ring_fd() != fd);
  CHECK(proactor.now() > before);
  CHECK(simulation.kernel.mappings() == 2);
}

TEST_CASE("dropped: another thread that takes over does not send again") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t send = proactor.start_send(ours, "abc", 3, 0);
  simulation.kernel.chances.dropped = 1000;
  REQUIRE(proactor.prepare() == 0);
  REQUIRE(proactor.enter(false, 0) == 0);
  simulation.kernel.chances.dropped = 0;
  simulation.kernel.thread = 2;
  REQUIRE(proactor.bind_thread() == 0);
  CHECK(simulation.collector.until_all({send}, 3));
  CHECK(simulation.collector[send].error == -EBADR);
  CHECK(simulation.kernel.take(theirs) == "abc");
}

TEST_CASE("dropped: drain, settle and close come to their ends") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    auto [other, their_other] = simulation.kernel.stream_pair();
    std::vector<std::int64_t> keys;
    for (int fd : {ours, other, ours, other})
      keys.push_back(proactor.start_poll(Kind::kReceive, fd, POLLIN));
    simulation.turn();
    simulation.kernel.chances.dropped = 500;
    proactor.settle(ours);
    CHECK(proactor.drain(1000 * kMillisecond) == 0);
    proactor.close();
    simulation.collector.collect();
    for (std::int64_t key : keys) CHECK(simulation.collector[key].error == -ECANCELED);
    CHECK(simulation.kernel.taken.dropped > 0);
    CHECK(simulation.kernel.put(theirs, "x") + simulation.kernel.put(their_other, "x") == 2);
  }
}

// -- the end --

TEST_CASE("settle: a close that follows really closes") {
  for (Rung rung : kRungs) {
    for (bool late : {false, true}) {
      CAPTURE(rung_name(rung));
      CAPTURE(late);
      Simulation simulation(rung);
      Proactor& proactor = simulation.proactor;
      auto [ours, theirs] = simulation.kernel.stream_pair(4);
      const std::string bytes = some_bytes(10);
      const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
      const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
      simulation.turn();
      simulation.turn();
      CHECK_FALSE(simulation.collector.has(send));
      const std::int64_t queued = proactor.start_poll(Kind::kReceive, ours, POLLIN);
      simulation.kernel.late_cancels = late;
      proactor.settle(ours);
      simulation.kernel.close_file(ours);
      CHECK(simulation.kernel.take(theirs) == bytes.substr(0, 4));
      CHECK(simulation.kernel.at_end(theirs));
      simulation.collector.collect();
      for (std::int64_t key : {poll, send, queued})
        CHECK(simulation.collector[key].error == -ECANCELED);
    }
  }
}

TEST_CASE("settle: an SQE that names the descriptor is not left behind for the next owner") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t send = proactor.start_send(ours, "secret", 6, 0);
  REQUIRE(proactor.prepare() == 0);
  proactor.settle(ours);
  simulation.kernel.close_file(ours);
  auto [next, their_next] = simulation.kernel.stream_pair();
  CHECK(next == ours);  // the number's next owner
  for (int turns = 0; turns < 5; ++turns) simulation.turn();
  CHECK(simulation.collector.has(send));
  CHECK(simulation.kernel.take(their_next).empty());
  const std::string received = simulation.kernel.take(theirs);
  CHECK(received == std::string("secret").substr(0, received.size()));
  CHECK(received.size() == static_cast<std::size_t>(simulation.collector[send].result));
  CHECK(simulation.kernel.at_end(theirs));
}

TEST_CASE("settle: a kernel that refuses does not hold it up for ever") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair();
  const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
  simulation.turn();
  for (int error : {-EINTR, -EBUSY, -ENXIO}) {
    const unsigned enters = simulation.kernel.calls(Call::kEnter);
    simulation.kernel.fail(Call::kEnter, error, 1, 20);
    proactor.settle(ours);
    CHECK(simulation.kernel.calls(Call::kEnter) - enters <= 20);
    while (proactor.turn(0) != 0 || simulation.kernel.calls(Call::kEnter) < enters + 21)
      REQUIRE(proactor.enter(false, 0) <= 0);
  }
  CHECK(simulation.collector.until_all({poll}, 3));
  CHECK(simulation.kernel.put(theirs, "x") == 1);
}

TEST_CASE("drain: everything ends") {
  for (Rung rung : kRungs) {
    for (bool late : {false, true}) {
      CAPTURE(rung_name(rung));
      CAPTURE(late);
      Simulation simulation(rung, 4, 8);
      Proactor& proactor = simulation.proactor;
      auto [ours, theirs] = simulation.kernel.stream_pair(4);
      const std::string bytes = some_bytes(100);
      std::vector<std::int64_t> keys;
      for (int count = 0; count < 20; ++count)
        keys.push_back(proactor.start_poll(Kind::kReceive, ours, POLLIN));
      keys.push_back(proactor.start_send(ours, bytes.data(), bytes.size(), 0));
      simulation.turn();
      simulation.turn();
      keys.push_back(proactor.start_poll(Kind::kReceive, ours, POLLIN));
      simulation.kernel.late_cancels = late;
      simulation.kernel.fail(Call::kEnter, -EINTR, 2);
      CHECK(proactor.drain(1000 * kMillisecond) == 0);
      proactor.close();
      simulation.collector.collect();
      for (std::int64_t key : keys) {
        CHECK(simulation.collector[key].error == -ECANCELED);
        CHECK_FALSE(simulation.collector[key].abandoned);
      }
      CHECK(proactor.abandoned() == 0);
      CHECK(simulation.kernel.take(theirs) == bytes.substr(0, 4));
    }
  }
}

TEST_CASE("drain: bounded by its time whatever the kernel does") {
  for (int error : {-EBUSY, -EINTR, -EAGAIN, -ENXIO}) {
    CAPTURE(error);
    Simulation simulation;
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = simulation.kernel.stream_pair();
    const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
    simulation.turn();
    simulation.kernel.fail(Call::kEnter, error, 1, 1000000);
    const std::int64_t before = proactor.now();
    CHECK(proactor.drain(kMillisecond) == 1);
    CHECK(proactor.now() - before <= 2 * kMillisecond);
    proactor.close();
    simulation.collector.collect();
    CHECK(simulation.collector[poll].error == -ECANCELED);
    CHECK(simulation.kernel.put(theirs, "x") == 1);
  }
}

TEST_CASE("close: what is in flight completes and buffers that the kernel may read are named") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    Simulation simulation(rung);
    Proactor& proactor = simulation.proactor;
    auto [ours, theirs] = simulation.kernel.stream_pair(4);
    auto [writer, reader] = simulation.kernel.pipe(4, false, true);
    const std::string bytes = some_bytes(10);
    simulation.kernel.put(writer, "----");
    const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
    const std::int64_t polling = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    const std::int64_t waiting = proactor.start_write(writer, bytes.data(), bytes.size());
    for (int turns = 0; turns < 5; ++turns) simulation.turn();
    const std::int64_t queued = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
    proactor.close();
    CHECK_FALSE(proactor.is_open());
    CHECK(proactor.in_flight() == 0);
    proactor.close();
    simulation.collector.collect();
    for (std::int64_t key : {poll, polling, waiting, queued}) {
      CHECK(simulation.collector[key].error == -ECANCELED);
      CHECK(simulation.collector[key].abandoned == (key == waiting));
    }
    CHECK(simulation.collector[polling].result == 4);
    CHECK(simulation.collector[waiting].result == 0);
    CHECK(proactor.abandoned() == 1);
    CHECK(simulation.kernel.take(theirs) == bytes.substr(0, 4));
    CHECK(simulation.kernel.take(reader) == "----");
    CHECK(proactor.prepare() == -EBADF);
    CHECK(proactor.bind_thread() == -EBADF);
    CHECK(proactor.drain(kMillisecond) == 0);
    proactor.settle(ours);
    proactor.wake();
  }
}

TEST_CASE("close: completions that are posted are read first") {
  Simulation simulation;
  Proactor& proactor = simulation.proactor;
  auto [ours, theirs] = simulation.kernel.stream_pair(5);
  const std::int64_t whole = proactor.start_send(ours, "abc", 3, 0);
  const std::int64_t part = proactor.start_send(ours, "defgh", 5, 0);
  REQUIRE(proactor.prepare() == 0);
  REQUIRE(proactor.enter(false, 0) == 0);
  proactor.close();
  simulation.collector.collect();
  CHECK(simulation.collector[whole].error == 0);
  CHECK(simulation.collector[whole].result == 3);
  CHECK(simulation.collector[part].error == -ECANCELED);
  CHECK(simulation.collector[part].result == 2);
  // The kernel has let go of both buffers.
  CHECK(proactor.abandoned() == 0);
  CHECK(simulation.kernel.take(theirs) == "abcde");
}

TEST_CASE("close: the block of an abandoned sendto is not used again") {
  // Held here, so that a leak check finds it.
  static const AddressBlock* block;
  SimulatedKernel kernel;
  const int ours = kernel.datagram_socket("us");
  {
    Proactor proactor(kernel.table());
    Collector collector(&proactor);
    Features features;
    REQUIRE(probe_features(kernel.table(), &features) == 0);
    REQUIRE(proactor.init(features, 8, 32) == 0);
    REQUIRE(proactor.bind_thread() == 0);
    const std::int64_t key = proactor.start_sendto(ours, "abc", 3, 0, "them", 4);
    block = proactor.peek(static_cast<std::uint32_t>(key))->address;
    // Its SQE is written; for all that is known here the kernel has it.
    REQUIRE(proactor.prepare() == 0);
    proactor.close();
    collector.collect();
    CHECK(collector[key].abandoned);
    const std::int64_t another = proactor.start_sendto(ours, "xyz", 3, 0, "else", 4);
    CHECK(proactor.peek(static_cast<std::uint32_t>(another))->address != block);
    proactor.cancel(static_cast<std::uint64_t>(another));
    collector.collect();
  }
  // Not freed either.
  CHECK(memcmp(&block->address, "them", 4) == 0);
  CHECK(kernel.violations.empty());
}

TEST_CASE("init: a refusal at any step leaves nothing behind") {
  struct Step {
    Call call;
    unsigned nth;
  };
  for (Step step : {Step{Call::kSetup, 1}, Step{Call::kMmap, 1}, Step{Call::kMmap, 2},
                    Step{Call::kEpollCreate, 1}, Step{Call::kEventfd, 1}}) {
    SimulatedKernel kernel;
    Features features;
    REQUIRE(probe_features(kernel.table(), &features) == 0);
    const std::size_t files = kernel.open_files();
    Proactor proactor(kernel.table());
    kernel.fail(step.call, -EMFILE, step.nth);
    CHECK(proactor.init(features) == -EMFILE);
    CHECK_FALSE(proactor.is_open());
    CHECK(kernel.open_files() == files);
    CHECK(kernel.mappings() == 0);
    CHECK(proactor.init(features) == 0);
    CHECK(kernel.open_files() == files + 3);
    CHECK(kernel.violations.empty());
  }
}

TEST_CASE("init: waits for the memory of closed rings") {
  SimulatedKernel kernel;
  Features features;
  REQUIRE(probe_features(kernel.table(), &features) == 0);
  Proactor proactor(kernel.table());
  kernel.fail(Call::kSetup, -ENOMEM, 1, 5);
  CHECK(proactor.init(features) == 0);
  CHECK(kernel.slept > 0);
}

TEST_CASE("forked: a child touches nothing but its own descriptors") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    SimulatedKernel kernel;
    Features features;
    REQUIRE(probe_features(kernel.table(), &features, rung) == 0);
    const std::size_t files = kernel.open_files();
    const unsigned unmapped = kernel.calls(Call::kMunmap);
    {
      Proactor proactor(kernel.table());
      Collector collector(&proactor);
      REQUIRE(proactor.init(features, 8, 32) == 0);
      REQUIRE(proactor.bind_thread() == 0);
      auto [ours, theirs] = kernel.stream_pair(4);
      const std::string bytes = some_bytes(10);
      const std::int64_t poll = proactor.start_poll(Kind::kReceive, ours, POLLIN);
      const std::int64_t send = proactor.start_send(ours, bytes.data(), bytes.size(), 0);
      collector.turn();
      collector.turn();
      const std::int64_t queued = proactor.start_poll(Kind::kReceive, ours, POLLIN);
      CHECK_FALSE(proactor.forked());
      const unsigned enters = kernel.calls(Call::kEnter);

      kernel.fork();
      CHECK(proactor.forked());
      CHECK_FALSE(proactor.bound_here());
      CHECK(proactor.bind_thread() == -EOWNERDEAD);
      CHECK(proactor.bind_thread(true) == -EOWNERDEAD);
      CHECK(proactor.prepare() == -EOWNERDEAD);
      CHECK(proactor.turn(0) == -EOWNERDEAD);
      CHECK(proactor.drain(kMillisecond) == 2);
      proactor.settle(ours);
      CHECK(kernel.calls(Call::kEnter) == enters);
      proactor.close();
      CHECK(kernel.calls(Call::kMunmap) == unmapped);
      collector.collect();
      for (std::int64_t key : {poll, send, queued}) {
        CHECK(collector[key].error == -ECANCELED);
        CHECK_FALSE(collector[key].abandoned);  // a child has nothing in the kernel
      }
      CHECK(proactor.abandoned() == 0);
      kernel.close_file(ours);
      kernel.close_file(theirs);
      CHECK(kernel.open_files() == files);

      // A fresh one is the child's own.
      Proactor fresh(kernel.table());
      REQUIRE(fresh.init(features, 8, 32) == 0);
      REQUIRE(fresh.bind_thread() == 0);
      CHECK(fresh.turn(0) == 0);
    }
    CHECK(kernel.open_files() == files);
    for (const std::string& violation : kernel.violations) FAIL_CHECK(violation);
  }
}

TEST_CASE("Proactor: destroyed without close it gives everything back") {
  SimulatedKernel kernel;
  Features features;
  REQUIRE(probe_features(kernel.table(), &features) == 0);
  auto [ours, theirs] = kernel.stream_pair();
  const std::size_t files = kernel.open_files();
  {
    Proactor proactor(kernel.table());
    REQUIRE(proactor.init(features, 8, 32) == 0);
    REQUIRE(proactor.bind_thread() == 0);
    proactor.start_poll(Kind::kReceive, ours, POLLIN);
    REQUIRE(proactor.turn(0) == 0);
  }
  {
    Proactor never_made(kernel.table());
    never_made.wake();
    never_made.close();
  }
  CHECK(kernel.open_files() == files);
  CHECK(kernel.mappings() == 0);
  CHECK(kernel.violations.empty());
  CHECK(kernel.put(theirs, "x") == 1);
}

}  // namespace
}  // namespace uring::test
