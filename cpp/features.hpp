// What the running kernel and the liburing that this was built against can do.
//
// The set-up ladder stands here: the flags of a ring, from the best that a kernel may know down to
// those of Linux 5.19.  A `Features` says on which rung this kernel stands.  It is probed once a
// process, and a test that wants a lower rung makes its own.
//
// This is also the one place that guards what an old <linux/io_uring.h> lacks.
#pragma once

#include <errno.h>
#include <liburing.h>

#include "kernel.hpp"

#ifndef IORING_SETUP_SUBMIT_ALL  // Linux 5.18
#define IORING_SETUP_SUBMIT_ALL (1U << 7)
#endif
#ifndef IORING_SETUP_COOP_TASKRUN  // Linux 5.19
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif
#ifndef IORING_SETUP_TASKRUN_FLAG  // Linux 5.19
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER  // Linux 6.0
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN  // Linux 6.1
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_SQ_TASKRUN  // Linux 5.19
#define IORING_SQ_TASKRUN (1U << 2)
#endif
#ifndef IORING_FEAT_NO_IOWAIT  // Linux 6.15
#define IORING_FEAT_NO_IOWAIT (1U << 17)
#endif
#ifndef IORING_ENTER_NO_IOWAIT  // Linux 6.15
#define IORING_ENTER_NO_IOWAIT (1U << 7)
#endif

namespace uring {

// The rungs, best first.  Measured on 6.18 at 1000 connections: 7.5 us of CPU a message on the
// first, 9.7 on the second, 11.4 on the last.
enum class Rung : int {
  kDeferTaskrun = 0,  // SINGLE_ISSUER | DEFER_TASKRUN | TASKRUN_FLAG: Linux 6.1
  kCoopTaskrun = 1,   // COOP_TASKRUN | TASKRUN_FLAG: Linux 5.19
  kPlain = 2,         // nothing but what every rung has
};
constexpr int kRungCount = 3;

// io_uring_setup(2) flags of a rung.  SUBMIT_ALL and CQSIZE stand on each: a bad SQE must not hold
// up those behind it, and the CQ must be large enough for what is in flight.
unsigned setup_flags(Rung rung) noexcept;
// The other way round.
Rung rung_of(unsigned setup_flags) noexcept;

// Operations that a kernel may know and yet refuse, or not know: each has a way around it.  A send or a
// write is then made by the system call of that name, a cancel by POLL_REMOVE.  What refuses one is a
// restriction (IORING_REGISTER_RESTRICTIONS, and what newer kernels lay upon a whole task), and no
// seccomp filter, which sees io_uring's three calls only.
enum Refusal : unsigned {
  kNoSend = 1 << 0,
  kNoSendmsg = 1 << 1,
  kNoWrite = 1 << 2,
  kNoCancel = 1 << 3,
};

// What a kernel, or its network, says to what is not allowed.
constexpr bool is_refusal(int error) noexcept { return error == -EACCES || error == -EPERM; }

// What an enter says that a later one need not say.
constexpr bool is_passing(int error) noexcept {
  return error == -EAGAIN || error == -EBUSY || error == -EINTR;
}

struct Features {
  Rung rung = Rung::kPlain;
  // IORING_FEAT_* as io_uring_setup(2) reported them.
  unsigned kernel_features = 0;
  // Refusals that were found.
  unsigned refused = 0;

  bool single_issuer() const noexcept { return rung == Rung::kDeferTaskrun; }
  bool no_iowait() const noexcept { return (kernel_features & IORING_FEAT_NO_IOWAIT) != 0; }
};

// Find the highest rung, not above `best`, on which `kernel` makes a ring.
//
// Returns 0 and fills `*features`, or -errno: -EINVAL when even the lowest rung is refused or an
// operation that this library can't do without is missing (the kernel is older than 5.19), -EPERM,
// -ENOSYS, -ENOMEM, -EMFILE ... as io_uring_setup(2) says.  A filter may allow that call and refuse the
// other two, and a restriction allow all three and refuse an operation: each is tried, and `*call`, if it
// is given, names the call or the operation that failed.
int probe_features(const Kernel& kernel, Features* features, Rung best = Rung::kDeferTaskrun,
                   const char** call = nullptr) noexcept;

// The running kernel's, probed at the first call that succeeds.
int real_features(Features* features, const char** call = nullptr) noexcept;

}  // namespace uring
