#include "features.hpp"

#include <errno.h>
#include <string.h>

#include <mutex>

namespace uring {
namespace {

constexpr unsigned kCommonFlags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE;

// What ring.cpp and proactor.cpp rely on without asking again.
constexpr unsigned kNeededFeatures =
    IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
constexpr unsigned kNeededOperations[] = {IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL,
                                          IORING_OP_SEND, IORING_OP_SENDMSG, IORING_OP_WRITE};

constexpr char kSetupCall[] = "io_uring_setup";
constexpr char kRegisterCall[] = "io_uring_register";
constexpr char kEnterCall[] = "io_uring_enter";

// One that submits nothing and waits for nothing.  What a later one cures is no refusal.
int try_enter(const Kernel& kernel, int fd) noexcept {
  const int result = kernel.enter(kernel.self, fd, 0, 0, IORING_ENTER_GETEVENTS, nullptr, 0);
  return result >= 0 || result == -EAGAIN || result == -EBUSY || result == -EINTR ? 0 : result;
}

int check_operations(const Kernel& kernel, int fd) noexcept {
  constexpr unsigned kCount = 64;
  union {
    io_uring_probe probe;
    unsigned char space[sizeof(io_uring_probe) + kCount * sizeof(io_uring_probe_op)];
  } answer;
  memset(&answer, 0, sizeof(answer));
  int error = kernel.register_(kernel.self, fd, IORING_REGISTER_PROBE, &answer.probe, kCount);
  if (error < 0) return error;
  const io_uring_probe_op* ops = answer.probe.ops;
  for (unsigned opcode : kNeededOperations) {
    if (opcode >= answer.probe.ops_len || !(ops[opcode].flags & IO_URING_OP_SUPPORTED))
      return -EINVAL;
  }
  return 0;
}

}  // namespace

unsigned setup_flags(Rung rung) noexcept {
  switch (rung) {
    case Rung::kDeferTaskrun:
      return kCommonFlags | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
             IORING_SETUP_TASKRUN_FLAG;
    case Rung::kCoopTaskrun:
      return kCommonFlags | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    case Rung::kPlain:
      break;
  }
  return kCommonFlags;
}

Rung rung_of(unsigned setup_flags) noexcept {
  if (setup_flags & IORING_SETUP_SINGLE_ISSUER) return Rung::kDeferTaskrun;
  return setup_flags & IORING_SETUP_COOP_TASKRUN ? Rung::kCoopTaskrun : Rung::kPlain;
}

int probe_features(const Kernel& kernel, Features* features, Rung best,
                   const char** call) noexcept {
  const char* failed;
  if (call == nullptr) call = &failed;
  *call = kSetupCall;
  for (int index = static_cast<int>(best); index < kRungCount; ++index) {
    io_uring_params params;
    memset(&params, 0, sizeof(params));
    params.flags = setup_flags(static_cast<Rung>(index));
    params.cq_entries = 8;
    int fd = kernel.setup(kernel.self, 4, &params);
    if (fd == -EINVAL) continue;
    if (fd < 0) return fd;
    int error = (params.features & kNeededFeatures) == kNeededFeatures ? 0 : -EINVAL;
    if (error == 0 && (error = check_operations(kernel, fd)) < 0) *call = kRegisterCall;
    if (error == 0 && (error = try_enter(kernel, fd)) < 0) *call = kEnterCall;
    kernel.close(kernel.self, fd);
    if (error < 0) return error;
    features->rung = static_cast<Rung>(index);
    features->kernel_features = params.features;
    return 0;
  }
  return -EINVAL;
}

int real_features(Features* features, const char** call) noexcept {
  static std::mutex mutex;
  static Features known;
  static bool done = false;
  std::lock_guard<std::mutex> lock(mutex);
  if (!done) {
    // A refusal may end (a file limit raised, memory given back): only success is remembered.
    int error = probe_features(real_kernel(), &known, Rung::kDeferTaskrun, call);
    if (error < 0) return error;
    done = true;
  }
  *features = known;
  return 0;
}

}  // namespace uring
