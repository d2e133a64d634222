#include "features.hpp"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <mutex>

#include "ring.hpp"

namespace uring {
namespace {

constexpr unsigned kCommonFlags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE;

// What ring.cpp and proactor.cpp rely on without asking again.
constexpr unsigned kNeededFeatures =
    IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;

struct Trial {
  unsigned opcode;
  const char* name;
  unsigned refusal;  // 0: it is needed
};
constexpr Trial kTrials[] = {{IORING_OP_POLL_ADD, "IORING_OP_POLL_ADD", 0},
                             {IORING_OP_ASYNC_CANCEL, "IORING_OP_ASYNC_CANCEL", kNoCancel},
                             {IORING_OP_SEND, "IORING_OP_SEND", kNoSend},
                             {IORING_OP_SENDMSG, "IORING_OP_SENDMSG", kNoSendmsg},
                             {IORING_OP_WRITE, "IORING_OP_WRITE", kNoWrite}};
// In the place of ASYNC_CANCEL; asked for where that is refused.
constexpr Trial kPollRemove{IORING_OP_POLL_REMOVE, "IORING_OP_POLL_REMOVE", kNoCancel};

constexpr char kSetupCall[] = "io_uring_setup";
constexpr char kRegisterCall[] = "io_uring_register";
constexpr char kEnterCall[] = "io_uring_enter";

// How often an enter is made before its -EAGAIN, -EBUSY or -EINTR is believed.
constexpr int kEnterTries = 4;

// Which operations the kernel knows.
struct Known {
  static constexpr unsigned kCount = 64;
  bool operator()(unsigned opcode) const noexcept {
    return opcode < answer.probe.ops_len &&
           (answer.probe.ops[opcode].flags & IO_URING_OP_SUPPORTED) != 0;
  }
  int ask(const Kernel& kernel, int fd) noexcept {
    memset(&answer, 0, sizeof(answer));
    return kernel.register_(kernel.self, fd, IORING_REGISTER_PROBE, &answer.probe, kCount);
  }
  union {
    io_uring_probe probe;
    unsigned char space[sizeof(io_uring_probe) + kCount * sizeof(io_uring_probe_op)];
  } answer;
};

// Submit an operation that can do nothing, since it is on no file or has no target: -EBADF or -ENOENT says
// that it may be used, and a restriction is looked for before.  `*result` is what it comes to.  An enter is
// made in any case, and again where it says that a later one may do.  Returns 0, or -errno of the enter.
int try_operation(Ring* ring, const Trial& trial, int* result) noexcept {
  static const msghdr no_message{};
  *result = 0;
  io_uring_sqe* sqe = ring->get_sqe();
  if (sqe != nullptr) {
    sqe->opcode = static_cast<std::uint8_t>(trial.opcode);
    sqe->fd = -1;
    if (trial.opcode == IORING_OP_SENDMSG) sqe->addr = reinterpret_cast<std::uintptr_t>(&no_message);
    sqe->user_data = trial.opcode;
  }
  int error = 0;
  for (int tries = 0; tries < kEnterTries; ++tries) {
    error = ring->enter(false, 0);
    if (!is_passing(error)) break;
  }
  ring->retract();
  io_uring_cqe cqe;
  while (ring->pop(&cqe)) *result = cqe.res;
  return error >= 0 ? 0 : error;
}

// The same of one that the kernel may not know: its own word for that is as good as a refusal.
int try_known(Ring* ring, const Known& known, const Trial& trial, int* result) noexcept {
  if (known(trial.opcode)) return try_operation(ring, trial, result);
  *result = -EINVAL;
  return 0;
}

bool is_out(int result) noexcept { return is_refusal(result) || result == -EINVAL || result == -EOPNOTSUPP; }

// Fills `*refused`; 0 or -errno, and `*call` names what it came from.
int try_operations(const Kernel& kernel, Ring* ring, unsigned* refused, const char** call) noexcept {
  Known known;
  int error = known.ask(kernel, ring->fd());
  if (error < 0) {
    *call = kRegisterCall;
    return error;
  }
  *call = kEnterCall;
  *refused = 0;
  for (const Trial& trial : kTrials) {
    int result;
    if ((error = try_known(ring, known, trial, &result)) < 0) return error;
    if (!is_out(result)) continue;
    if (trial.refusal == kNoCancel) {
      int instead;
      if ((error = try_known(ring, known, kPollRemove, &instead)) < 0) return error;
      if (!is_out(instead)) {
        *refused |= kNoCancel;
        continue;
      }
    }
    if (trial.refusal == 0 || trial.refusal == kNoCancel) {
      *call = trial.name;
      return is_refusal(result) ? result : -EINVAL;
    }
    *refused |= trial.refusal;
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
    Features found;
    found.rung = static_cast<Rung>(index);
    Ring ring(kernel);
    int error = ring.init(found, 4, 8, 0);
    if (error == -EINVAL) continue;
    if (error < 0) return error;
    if ((ring.features() & kNeededFeatures) != kNeededFeatures) return -EINVAL;
    found.kernel_features = ring.features();
    if ((error = ring.enable()) < 0) {
      *call = kRegisterCall;
      return error;
    }
    if ((error = try_operations(kernel, &ring, &found.refused, call)) < 0) return error;
    *features = found;
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
