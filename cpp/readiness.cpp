#include "readiness.hpp"

#include <errno.h>

#include <new>

namespace uring {

int Readiness::init() noexcept {
  const int fd = kernel_->epoll_create(kernel_->self);
  if (fd < 0) return fd;
  set_ = fd;
  return 0;
}

void Readiness::close() noexcept {
  if (set_ >= 0) kernel_->close(kernel_->self, set_);
  forget();
}

void Readiness::forget() noexcept {
  set_ = -1;
  entries_.clear();
}

int Readiness::control(int operation, int fd, std::uint32_t events) noexcept {
  epoll_event event;
  event.events = events;
  event.data.u64 = static_cast<std::uint64_t>(entries_[fd].generation) << 32 |
                   static_cast<std::uint32_t>(fd);
  return kernel_->epoll_ctl(kernel_->self, set_, operation, fd, &event);
}

int Readiness::add(int fd, std::uint32_t events, bool once) noexcept {
  if (set_ < 0 || fd < 0) return -EBADF;
  if (static_cast<std::size_t>(fd) >= entries_.size()) {
    std::size_t size = kFew;
    if (fd >= kFew) {
      // The vector grows with the numbers that are open, not with those that somebody names.
      epoll_event none{};
      none.data.u64 = static_cast<std::uint32_t>(fd);
      none.events = EPOLLONESHOT;
      const int error = kernel_->epoll_ctl(kernel_->self, set_, EPOLL_CTL_ADD, fd, &none);
      if (error < 0) return error;
      kernel_->epoll_ctl(kernel_->self, set_, EPOLL_CTL_DEL, fd, &none);
      size = static_cast<std::size_t>(fd) + 1 + static_cast<std::size_t>(fd) / 2;
    }
    try {
      entries_.resize(size);
    } catch (const std::bad_alloc&) {
      return -ENOMEM;
    }
  }
  Entry& entry = entries_[fd];
  ++entry.generation;
  int error = control(EPOLL_CTL_ADD, fd, bits(events, once));
  // It is in there after all: somebody else's duplicate had the number back.
  if (error == -EEXIST) error = control(EPOLL_CTL_MOD, fd, bits(events, once));
  if (error < 0) return error;
  entry.events = bits(events, once);
  entry.there = entry.armed = true;
  entry.unasked = entry.drained = false;
  return 0;
}

int Readiness::change(int fd, std::uint32_t events, bool once) noexcept {
  if (!has(fd)) return -ENOENT;
  Entry& entry = entries_[fd];
  const int error = control(EPOLL_CTL_MOD, fd, bits(events, once));
  if (error == -ENOENT || error == -EBADF) {
    entry = gone(entry);
    return -ENOENT;
  }
  if (error < 0) return error;
  entry.events = bits(events, once);
  entry.armed = true;
  entry.unasked = false;
  return 0;
}

int Readiness::next_unasked(int fd) noexcept {
  for (std::size_t index = static_cast<std::size_t>(fd); index < entries_.size(); ++index) {
    if (!entries_[index].unasked) continue;
    entries_[index].unasked = false;
    return static_cast<int>(index);
  }
  return -1;
}

void Readiness::rest(int fd) noexcept {
  if (!has(fd)) return;
  // Errors and hang-ups can't be left out (epoll_ctl(2)): those are told at most once more.
  if (change(fd, 0, true) == 0) entries_[fd].armed = false;
}

void Readiness::drop(int fd) noexcept {
  if (!has(fd)) return;
  // Of a file that is gone the kernel knows nothing any more.
  control(EPOLL_CTL_DEL, fd, 0);
  entries_[fd] = gone(entries_[fd]);
}

int Readiness::collect(Event* events, int limit) noexcept {
  if (set_ < 0) return 0;
  epoll_event got[kBatch];
  const int count =
      kernel_->epoll_wait(kernel_->self, set_, got, limit < kBatch ? limit : kBatch);
  if (count < 0) return count == -EINTR ? 0 : count;
  int told = 0;
  bool stale = false;
  for (int index = 0; index < count; ++index) {
    const int fd = static_cast<int>(got[index].data.u64 & 0xffffffff);
    if (!has(fd) || entries_[fd].generation != got[index].data.u64 >> 32) {
      stale = true;
      continue;
    }
    if (entries_[fd].events & EPOLLONESHOT) entries_[fd].armed = false;
    entries_[fd].drained = false;
    events[told++] = Event{fd, got[index].events};
  }
  if (stale) begin_anew();
  return told;
}

// A closed file that lives on in a duplicate is ready, and no call can name it: a set without it
// takes the place of this one.
void Readiness::begin_anew() noexcept {
  const int fresh = kernel_->epoll_create(kernel_->self);
  if (fresh < 0) return;  // out of descriptors; it is tried again when it is told again
  const int old = set_;
  for (std::size_t index = 0; index < entries_.size(); ++index) {
    Entry& entry = entries_[index];
    if (!entry.there) continue;
    const int fd = static_cast<int>(index);
    // Whoever has the number must still be who was added.
    set_ = old;
    bool kept = entry.armed && control(EPOLL_CTL_MOD, fd, entry.events) >= 0;
    set_ = fresh;
    kept = kept && control(EPOLL_CTL_ADD, fd, entry.events) >= 0;
    // A single interest that was told begins anew when it is wanted again.
    if (!kept) {
      // Who has asked for nothing may wait for the file that has the number now.
      const bool unasked = entry.unasked;
      entry = gone(entry);
      entry.unasked = unasked;
    }
  }
  set_ = fresh;
  kernel_->close(kernel_->self, old);
}

}  // namespace uring
