#include "features.hpp"

#include "support.hpp"

namespace uring::test {
namespace {

constexpr unsigned kDeferFlags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;

int probe(SimulatedKernel& kernel, Features* features, Rung best = Rung::kDeferTaskrun) {
  const std::size_t files = kernel.open_files();
  const int error = probe_features(kernel.table(), features, best);
  CHECK(kernel.open_files() == files);
  CHECK(kernel.mappings() == 0);
  CHECK(kernel.violations.empty());
  return error;
}

TEST_CASE("setup_flags: SUBMIT_ALL and CQSIZE stand on every rung") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    const unsigned flags = setup_flags(rung);
    CHECK((flags & IORING_SETUP_SUBMIT_ALL) != 0);
    CHECK((flags & IORING_SETUP_CQSIZE) != 0);
    // The flag goes with each of the two modes, and with no other: -EINVAL.
    CHECK(((flags & IORING_SETUP_TASKRUN_FLAG) != 0) == (rung != Rung::kPlain));
    CHECK(((flags & kDeferFlags) == kDeferFlags) == (rung == Rung::kDeferTaskrun));
    CHECK(((flags & IORING_SETUP_COOP_TASKRUN) != 0) == (rung == Rung::kCoopTaskrun));
  }
}

TEST_CASE("rung_of: tells a ring's rung by its flags") {
  for (Rung rung : kRungs) {
    CHECK(rung_of(setup_flags(rung)) == rung);
    CHECK(rung_of(setup_flags(rung) | IORING_SETUP_R_DISABLED) == rung);
  }
}

TEST_CASE("probe_features: the best rung of a kernel that knows all flags") {
  SimulatedKernel kernel;
  Features features;
  REQUIRE(probe(kernel, &features) == 0);
  CHECK(features.rung == Rung::kDeferTaskrun);
  CHECK(features.single_issuer());
  CHECK(features.no_iowait());
  CHECK(kernel.calls(Call::kSetup) == 1);
}

TEST_CASE("probe_features: a kernel without DEFER_TASKRUN stands on the second rung") {
  SimulatedKernel kernel;
  kernel.known_setup_flags &= ~kDeferFlags;
  kernel.features &= ~IORING_FEAT_NO_IOWAIT;
  Features features;
  REQUIRE(probe(kernel, &features) == 0);
  CHECK(features.rung == Rung::kCoopTaskrun);
  CHECK_FALSE(features.single_issuer());
  CHECK_FALSE(features.no_iowait());
}

TEST_CASE("probe_features: a kernel without any task run flag stands on the last rung") {
  SimulatedKernel kernel;
  kernel.known_setup_flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE;
  Features features;
  REQUIRE(probe(kernel, &features) == 0);
  CHECK(features.rung == Rung::kPlain);
  CHECK(kernel.calls(Call::kSetup) == 3);
}

TEST_CASE("probe_features: never above the rung that was asked for") {
  for (Rung rung : kRungs) {
    CAPTURE(rung_name(rung));
    SimulatedKernel kernel;
    Features features;
    REQUIRE(probe(kernel, &features, rung) == 0);
    CHECK(features.rung == rung);
  }
}

TEST_CASE("probe_features: a kernel before SUBMIT_ALL is refused") {
  SimulatedKernel kernel;
  kernel.known_setup_flags = IORING_SETUP_CQSIZE;
  Features features;
  CHECK(probe(kernel, &features) == -EINVAL);
}

TEST_CASE("probe_features: a kernel without a needed feature is refused") {
  for (unsigned missing : {IORING_FEAT_SINGLE_MMAP, IORING_FEAT_NODROP, IORING_FEAT_EXT_ARG}) {
    CAPTURE(missing);
    SimulatedKernel kernel;
    kernel.features &= ~missing;
    Features features;
    CHECK(probe(kernel, &features) == -EINVAL);
  }
}

// Of a kernel that does not know `operation`, or that refuses it.
const auto kWithout = {
    +[](SimulatedKernel* kernel, unsigned operation) { kernel->known_operations.erase(operation); },
    +[](SimulatedKernel* kernel, unsigned operation) { kernel->refused_operations.insert(operation); }};

TEST_CASE("probe_features: an operation that is missing or refused is noted where there is a way around it") {
  struct Case {
    unsigned operation;
    unsigned refusal;
  };
  for (auto without : kWithout) {
    unsigned all = 0;
    SimulatedKernel bare;
    for (const Case& each : {Case{IORING_OP_SEND, kNoSend}, Case{IORING_OP_SENDMSG, kNoSendmsg},
                             Case{IORING_OP_WRITE, kNoWrite}, Case{IORING_OP_ASYNC_CANCEL, kNoCancel}}) {
      CAPTURE(each.operation);
      SimulatedKernel kernel;
      without(&kernel, each.operation);
      without(&bare, each.operation);
      all |= each.refusal;
      Features features;
      REQUIRE(probe(kernel, &features) == 0);
      CHECK(features.refused == each.refusal);
      CHECK(features.rung == Rung::kDeferTaskrun);
    }
    Features features;
    REQUIRE(probe(bare, &features) == 0);
    CHECK(features.refused == all);
  }
}

TEST_CASE("probe_features: without a poll, or any cancel, there is no ring; the operation is named") {
  struct Case {
    std::initializer_list<unsigned> operations;
    std::string name;
  };
  const Case all[] = {{{IORING_OP_POLL_ADD}, "IORING_OP_POLL_ADD"},
                      {{IORING_OP_ASYNC_CANCEL, IORING_OP_POLL_REMOVE}, "IORING_OP_ASYNC_CANCEL"}};
  for (const Case& each : all) {
    int expected = -EINVAL;
    for (auto without : kWithout) {
      SimulatedKernel kernel;
      for (unsigned operation : each.operations) without(&kernel, operation);
      Features features;
      const char* call = nullptr;
      CHECK(probe_features(kernel.table(), &features, Rung::kDeferTaskrun, &call) == expected);
      CHECK(call == each.name);
      CHECK(kernel.mappings() == 0);
      expected = -EACCES;
    }
  }
}

TEST_CASE("probe_features: nothing is refused by a kernel that refuses nothing, however small its queues") {
  SimulatedKernel kernel;
  kernel.largest_sq = 1;
  kernel.largest_cq = 1;
  Features features;
  features.refused = ~0u;
  REQUIRE(probe(kernel, &features) == 0);
  CHECK(features.refused == 0);
}

TEST_CASE("probe_features: a refusal is handed on as it is") {
  for (int error : {-EPERM, -ENOSYS, -ENOMEM, -EMFILE}) {
    CAPTURE(error);
    SimulatedKernel kernel;
    kernel.fail(Call::kSetup, error);
    Features features;
    CHECK(probe(kernel, &features) == error);
    CHECK(kernel.calls(Call::kSetup) == 1);
  }
}

TEST_CASE("probe_features: names the call that is refused") {
  struct Refused {
    Call call;
    std::string name;
  };
  const Refused all[] = {{Call::kSetup, "io_uring_setup"},
                         {Call::kRegister, "io_uring_register"},
                         {Call::kEnter, "io_uring_enter"}};
  for (const Refused& refused : all) {
    for (int error : {-EPERM, -ENOSYS, -EACCES}) {
      SimulatedKernel kernel;
      const std::size_t files = kernel.open_files();
      kernel.fail(refused.call, error);
      Features features;
      const char* call = nullptr;
      CHECK(probe_features(kernel.table(), &features, Rung::kDeferTaskrun, &call) == error);
      CHECK(call == refused.name);
      CHECK(kernel.open_files() == files);
    }
  }
}

TEST_CASE("probe_features: what an enter says in passing is no refusal") {
  for (int error : {-EAGAIN, -EBUSY, -EINTR}) {
    for (unsigned times : {1u, 3u}) {
      SimulatedKernel kernel;
      kernel.refused_operations = {IORING_OP_SEND};
      kernel.fail(Call::kEnter, error, 2, times);
      Features features;
      CHECK(probe_features(kernel.table(), &features) == 0);
      // What was tried then, and what came after it, is known.
      CHECK(features.refused == kNoSend);
      // One for each operation that is tried.
      CHECK(kernel.calls(Call::kEnter) == 5 + times);
    }
  }
}

TEST_CASE("probe_features: what an enter says for ever is told") {
  for (int error : {-EAGAIN, -EBUSY, -EINTR}) {
    SimulatedKernel kernel;
    const std::size_t files = kernel.open_files();
    kernel.fail(Call::kEnter, error, 1, 1000);
    Features features;
    const char* call = nullptr;
    CHECK(probe_features(kernel.table(), &features, Rung::kDeferTaskrun, &call) == error);
    CHECK(call == std::string("io_uring_enter"));
    CHECK(kernel.calls(Call::kEnter) < 10);
    CHECK(kernel.open_files() == files);
  }
}

TEST_CASE("probe_features: a refused probe closes its ring") {
  SimulatedKernel kernel;
  kernel.fail(Call::kRegister, -EACCES);
  Features features;
  CHECK(probe(kernel, &features) == -EACCES);
}

TEST_CASE("probe_features: a failure leaves the features alone") {
  SimulatedKernel kernel;
  kernel.fail(Call::kSetup, -EMFILE);
  Features features;
  features.kernel_features = 12345;
  CHECK(probe(kernel, &features) == -EMFILE);
  CHECK(features.kernel_features == 12345);
}

TEST_CASE("real_features: the running kernel has a rung and keeps it") {
  Features features;
  REQUIRE(real_features(&features) == 0);
  Features again;
  REQUIRE(real_features(&again) == 0);
  CHECK(again.rung == features.rung);
  CHECK(again.kernel_features == features.kernel_features);
  // (Neither these tests nor whoever runs them restricts anything.)
  CHECK(features.refused == 0);
  MESSAGE("the running kernel stands on " << rung_name(features.rung));
}

}  // namespace
}  // namespace uring::test
