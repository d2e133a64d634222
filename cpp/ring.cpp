#include "ring.hpp"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <utility>

namespace uring {
namespace {

constexpr std::int64_t kMillisecond = 1000000;

template <typename T>
T* at(void* base, unsigned offset) noexcept {
  return reinterpret_cast<T*>(static_cast<unsigned char*>(base) + offset);
}

}  // namespace

Ring::Ring(Ring&& other) noexcept : kernel_(other.kernel_) {
  forget();
  *this = std::move(other);
}

Ring& Ring::operator=(Ring&& other) noexcept {
  if (this == &other) return *this;
  close();
  kernel_ = other.kernel_;
  enters_.add(other.enters_.get());
  submissions_.add(other.submissions_.get());
  completions_.add(other.completions_.get());
  // The pointers of a closed ring are into itself.
  if (!other.is_open()) return *this;
  fd_ = other.fd_;
  flags_ = other.flags_;
  features_ = other.features_;
  no_iowait_ = other.no_iowait_;
  queues_ = other.queues_;
  queues_size_ = other.queues_size_;
  sqes_ = other.sqes_;
  sqes_size_ = other.sqes_size_;
  sq_head_ = other.sq_head_;
  sq_tail_ = other.sq_tail_;
  sq_flags_ = other.sq_flags_;
  sq_mask_ = other.sq_mask_;
  sq_entries_ = other.sq_entries_;
  sq_next_ = other.sq_next_;
  cq_head_ = other.cq_head_;
  cq_tail_ = other.cq_tail_;
  cq_dropped_ = other.cq_dropped_;
  cq_mask_ = other.cq_mask_;
  cqes_ = other.cqes_;
  other.forget();
  return *this;
}

void Ring::forget() noexcept {
  fd_ = -1;
  flags_ = features_ = 0;
  queues_ = nullptr;
  sqes_ = nullptr;
  nothing_ = 0;
  sq_head_ = sq_tail_ = sq_flags_ = cq_head_ = cq_tail_ = cq_dropped_ = &nothing_;
  sq_mask_ = sq_entries_ = sq_next_ = cq_mask_ = 0;
  cqes_ = nullptr;
}

std::size_t Ring::memory_needed(unsigned submission_entries,
                                unsigned completion_entries) noexcept {
  constexpr std::size_t kPage = 4096;
  constexpr std::size_t kHeader = 1024;  // more than struct io_rings of any kernel so far
  auto pages = [](std::size_t size) { return (size + kPage - 1) / kPage * kPage; };
  return pages(kHeader + completion_entries * sizeof(io_uring_cqe) +
               submission_entries * sizeof(unsigned)) +
         pages(submission_entries * sizeof(io_uring_sqe));
}

int Ring::init(const Features& features, unsigned submission_entries, unsigned completion_entries,
               std::int64_t patience_ns) noexcept {
  close();
  const std::int64_t give_up = kernel_->clock(kernel_->self) + patience_ns;
  std::int64_t pause = kMillisecond;
  for (;;) {
    io_uring_params params;
    memset(&params, 0, sizeof(params));
    params.flags = setup_flags(features.rung);
    params.cq_entries = completion_entries;
    // A ring of one issuer is made by one thread and may run in another.
    if (features.single_issuer()) params.flags |= IORING_SETUP_R_DISABLED;
    int result = kernel_->setup(kernel_->self, submission_entries, &params);
    if (result >= 0) {
      fd_ = result;
      flags_ = params.flags;
      features_ = params.features;
      no_iowait_ = features.no_iowait();
      result = map(params);
      if (result >= 0) return 0;
      close();
    }
    if (result != -ENOMEM || kernel_->clock(kernel_->self) >= give_up) return result;
    kernel_->sleep(kernel_->self, pause);
    if (pause < 64 * kMillisecond) pause *= 2;
  }
}

int Ring::map(const io_uring_params& params) noexcept {
  std::size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
  std::size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  std::size_t size = sq_size > cq_size ? sq_size : cq_size;
  int error = kernel_->mmap(kernel_->self, size, fd_, IORING_OFF_SQ_RING, &queues_);
  if (error < 0) return error;
  queues_size_ = size;
  void* sqes = nullptr;
  size = params.sq_entries * sizeof(io_uring_sqe);
  error = kernel_->mmap(kernel_->self, size, fd_, IORING_OFF_SQES, &sqes);
  if (error < 0) return error;
  sqes_ = static_cast<io_uring_sqe*>(sqes);
  sqes_size_ = size;
  // A forked child must not share the queues with us.
  kernel_->madvise(kernel_->self, queues_, queues_size_, MADV_DONTFORK);
  kernel_->madvise(kernel_->self, sqes_, sqes_size_, MADV_DONTFORK);

  sq_head_ = at<unsigned>(queues_, params.sq_off.head);
  sq_tail_ = at<unsigned>(queues_, params.sq_off.tail);
  sq_flags_ = at<unsigned>(queues_, params.sq_off.flags);
  sq_mask_ = *at<unsigned>(queues_, params.sq_off.ring_mask);
  sq_entries_ = params.sq_entries;
  sq_next_ = *sq_tail_;
  unsigned* array = at<unsigned>(queues_, params.sq_off.array);
  for (unsigned index = 0; index < sq_entries_; ++index) array[index] = index;
  cq_head_ = at<unsigned>(queues_, params.cq_off.head);
  cq_tail_ = at<unsigned>(queues_, params.cq_off.tail);
  cq_dropped_ = at<unsigned>(queues_, params.cq_off.overflow);
  cq_mask_ = *at<unsigned>(queues_, params.cq_off.ring_mask);
  cqes_ = at<io_uring_cqe>(queues_, params.cq_off.cqes);
  return 0;
}

int Ring::enable() noexcept {
  if (!is_open()) return -EBADF;
  if (!(flags_ & IORING_SETUP_R_DISABLED)) return 0;
  // By hand: liburing 2.3's shared library does not export io_uring_enable_rings().
  int error = kernel_->register_(kernel_->self, fd_, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  if (error < 0) return error;
  flags_ &= ~IORING_SETUP_R_DISABLED;
  return 0;
}

void Ring::close() noexcept {
  if (sqes_ != nullptr) kernel_->munmap(kernel_->self, sqes_, sqes_size_);
  if (queues_ != nullptr) kernel_->munmap(kernel_->self, queues_, queues_size_);
  if (fd_ >= 0) kernel_->close(kernel_->self, fd_);
  forget();
}

void Ring::abandon() noexcept {
  forget();
}

const io_uring_sqe& Ring::pending_sqe(unsigned index) const noexcept {
  static const io_uring_sqe none{};
  if (index >= submissions_pending()) return none;
  return sqes_[(load_acquire(sq_head_) + index) & sq_mask_];
}

void Ring::retract() noexcept {
  sq_next_ = load_acquire(sq_head_);
  store_release(sq_tail_, sq_next_);
}

int Ring::call_enter(unsigned min_complete, unsigned flags, const void* argument, std::size_t size) noexcept {
  const int result =
      kernel_->enter(kernel_->self, fd_, submissions_pending(), min_complete, flags, argument, size);
  enters_.add(1);
  if (result > 0) submissions_.add(static_cast<std::uint64_t>(result));
  return result;
}

int Ring::enter(bool wait, std::int64_t timeout_ns) noexcept {
  if (!is_open()) return -EBADF;
  store_release(sq_tail_, sq_next_);
  // GETEVENTS even without a wait: only with it does the kernel run deferred work and bring
  // overflowed completions back.
  unsigned flags = IORING_ENTER_GETEVENTS;
  if (wait && no_iowait_) flags |= IORING_ENTER_NO_IOWAIT;
  if (!wait || timeout_ns < 0)
    return call_enter(wait ? 1 : 0, flags, nullptr, 0);
  __kernel_timespec timeout{timeout_ns / 1000000000, timeout_ns % 1000000000};
  io_uring_getevents_arg argument;
  memset(&argument, 0, sizeof(argument));
  argument.ts = reinterpret_cast<std::uintptr_t>(&timeout);
  return call_enter(1, flags | IORING_ENTER_EXT_ARG, &argument, sizeof(argument));
}

int Ring::enter_for(unsigned completions) noexcept {
  if (!is_open()) return -EBADF;
  store_release(sq_tail_, sq_next_);
  __kernel_timespec at_once{0, 0};
  io_uring_getevents_arg argument;
  memset(&argument, 0, sizeof(argument));
  argument.ts = reinterpret_cast<std::uintptr_t>(&at_once);
  return call_enter(completions, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument,
                    sizeof(argument));
}

}  // namespace uring
