// What several test files use: rungs, taking turns, and a proactor on a simulated kernel.
#pragma once

#include <doctest/doctest.h>
#include <string.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <random>
#include <string>

#include "proactor.hpp"
#include "simulated_kernel.hpp"

namespace uring::test {

constexpr Rung kRungs[] = {Rung::kDeferTaskrun, Rung::kCoopTaskrun, Rung::kPlain};

inline std::string rung_name(Rung rung) {
  switch (rung) {
    case Rung::kDeferTaskrun: return "DEFER_TASKRUN";
    case Rung::kCoopTaskrun: return "COOP_TASKRUN";
    case Rung::kPlain: break;
  }
  return "plain";
}

// Bytes of which no part resembles another.
inline std::string some_bytes(std::size_t size, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (std::size_t index = 0; index < size; index += sizeof(std::uint64_t)) {
    const std::uint64_t number = random();
    memcpy(&bytes[index], &number, std::min(sizeof(number), size - index));
  }
  return bytes;
}

// Takes completions out of a proactor, and remembers them.
class Collector {
 public:
  explicit Collector(Proactor* proactor) : proactor_(proactor) {}

  void collect() {
    Completion completion;
    while (proactor_->next(&completion)) {
      CHECK_MESSAGE(seen_.count(completion.key) == 0, "an operation completed twice");
      seen_[completion.key] = completion;
      proactor_->release(completion.key);
    }
  }
  bool has(std::int64_t key) const { return seen_.count(static_cast<std::uint64_t>(key)) != 0; }
  Completion operator[](std::int64_t key) const {
    auto found = seen_.find(static_cast<std::uint64_t>(key));
    if (found != seen_.end()) return found->second;
    FAIL_CHECK("the operation has not completed");
    return Completion{};
  }
  std::size_t count() const { return seen_.size(); }
  std::size_t errors() const {
    std::size_t errors = 0;
    for (auto& entry : seen_) errors += entry.second.error != 0;
    return errors;
  }

  // A turn that does not sleep, or sleeps so long; what completed is collected.
  int turn(std::int64_t timeout_ns = 0) {
    const int error = proactor_->turn(timeout_ns);
    collect();
    return error;
  }
  // Turns until `done()`; false after `limit` of them.
  template <typename Done>
  bool until(Done done, int limit = 1000, std::int64_t timeout_ns = 0) {
    for (int turns = 0; turns < limit; ++turns) {
      if (done()) return true;
      const int error = turn(timeout_ns);
      if (error < 0 && error != -EINTR) {
        FAIL_CHECK("turn: " << error);
        return false;
      }
    }
    return done();
  }
  bool until_all(std::initializer_list<std::int64_t> keys, int limit = 1000) {
    return until(
        [&] {
          for (std::int64_t key : keys) {
            if (!has(key)) return false;
          }
          return true;
        },
        limit);
  }

 private:
  Proactor* proactor_;
  std::map<std::uint64_t, Completion> seen_;
};

// A proactor on a simulated kernel, bound to the simulated thread 1.  At its end everything is
// given back, and no rule was broken.
struct Simulation {
  explicit Simulation(Rung rung = Rung::kDeferTaskrun, unsigned submission_entries = 8,
                      unsigned completion_entries = 32, std::uint64_t seed = 1)
      : kernel(seed), proactor(kernel.table()), collector(&proactor) {
    Features features;
    REQUIRE(probe_features(kernel.table(), &features, rung) == 0);
    REQUIRE(features.rung == rung);
    REQUIRE(proactor.init(features, submission_entries, completion_entries) == 0);
    REQUIRE(proactor.bind_thread() == 0);
  }
  ~Simulation() {
    proactor.close();
    collector.collect();
    CHECK(proactor.operations() == 0);
    CHECK(proactor.in_flight() == 0);
    CHECK(kernel.mappings() == 0);
    kernel.end_closed_rings();
    for (const std::string& violation : kernel.violations) FAIL_CHECK(violation);
  }

  // A turn after which an operation has been submitted.
  int turn(std::int64_t timeout_ns = 0) { return collector.turn(timeout_ns); }
  const Operation* operation(std::int64_t key) const {
    return proactor.peek(static_cast<std::uint32_t>(key));
  }
  State state(std::int64_t key) const { return operation(key)->state; }

  SimulatedKernel kernel;
  Proactor proactor;
  Collector collector;
};

}  // namespace uring::test
