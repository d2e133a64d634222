// The readiness of descriptors that belong to the user: one epoll set, which the ring polls.
//
// A POLL_ADD would hold the file open, so that a close(2) by its user closes nothing; it answers
// with what woke it, which may be over by the time somebody looks; and it knows the file that had
// the number when it was submitted.  An epoll set holds nothing open, forgets what is closed, and
// says what is true when it is asked (epoll(7)).
//
// Owns the set, and remembers of each number what was asked for.  Knows nothing of operations: the
// proactor says what is wanted of a number, and gets what holds.
//
// Two kinds of interest: one that stays (level-triggered), and a single one, told once (EPOLLONESHOT),
// of which what is left costs no call to take away.  One that stays where nobody waits any more is left
// as it is: most likely somebody will, for the same, and then it need not be asked for.  If it is told
// before, it is put to rest.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel.hpp"

namespace uring {

class Readiness {
 public:
  struct Event {
    int fd;
    std::uint32_t events;  // as poll(2) has them: epoll's bits are the same
  };
  // The most that collect() hands out in one call.
  static constexpr int kBatch = 256;
  // So many numbers have room from the first on.
  static constexpr int kFew = 64;

  explicit Readiness(const Kernel& kernel) noexcept : kernel_(&kernel) {}
  ~Readiness() { close(); }
  Readiness(const Readiness&) = delete;
  Readiness& operator=(const Readiness&) = delete;

  // Make the set.  0 or -errno.
  int init() noexcept;
  void close() noexcept;
  // As close(), in a forked child, where the descriptor is closed already.
  void forget() noexcept;
  // What the ring polls; another one after collect() has had to begin anew.
  int fd() const noexcept { return set_; }

  // True when the set was told of this number, and not that it is wanted no more.  The file may be
  // closed since: change() finds out.
  bool has(int fd) const noexcept {
    return fd >= 0 && static_cast<std::size_t>(fd) < entries_.size() && entries_[fd].there;
  }
  // Begin with the file that has this number.  0 or -errno: -EPERM for one that can't be polled,
  // -EBADF for none.
  int add(int fd, std::uint32_t events, bool once) noexcept;
  // Want something else of the file that was added, or the same once more.  -ENOENT when it no
  // longer has this number; nothing is in the set then.
  int change(int fd, std::uint32_t events, bool once) noexcept;
  // Want nothing.
  void drop(int fd) noexcept;
  // False for a single interest that was told, until it is wanted again, and for one at rest.
  bool is_armed(int fd) const noexcept { return has(fd) && entries_[fd].armed; }
  // Does an interest that stays cover these events, if the number's file is the one that was added?
  bool covers(int fd, std::uint32_t events) const noexcept {
    return is_armed(fd) && !(entries_[fd].events & EPOLLONESHOT) && (entries_[fd].events & events) == events;
  }
  // Who asks for nothing, because covers() says so, takes the file for the one that was added.
  void note_unasked(int fd) noexcept { entries_[fd].unasked = true; }
  bool is_unasked(int fd) const noexcept { return has(fd) && entries_[fd].unasked; }
  // The next number from `fd` on that was taken so; its mark is taken away.  -1 for none.
  int next_unasked(int fd) noexcept;
  // Ask for the same once more.  As change().
  int ask_again(int fd) noexcept { return change(fd, entries_[fd].events, false); }
  // What was told interests nobody: be quiet until change().
  void rest(int fd) noexcept;

  // The file had nothing more to read when its reader last looked, and the set has told nothing since.
  bool is_drained(int fd) const noexcept { return is_armed(fd) && entries_[fd].drained; }
  void note_drained(int fd) noexcept {
    if (covers(fd, EPOLLIN)) entries_[fd].drained = true;
  }

  // What holds now; how many there are, or -errno.
  int collect(Event* events, int limit) noexcept;

 private:
  struct Entry {
    std::uint32_t events = 0;
    // Of the file that was added last.  Of one that was closed while a duplicate lives on, the set
    // goes on telling, under its number, and can't be made to stop.
    std::uint32_t generation = 0;
    bool there = false;
    bool armed = false;  // a single interest is not, once it was told
    bool unasked = false;
    bool drained = false;
  };
  static Entry gone(const Entry& entry) noexcept {
    Entry none;
    none.generation = entry.generation;
    return none;
  }
  static std::uint32_t bits(std::uint32_t events, bool once) noexcept {
    return events | (once ? static_cast<std::uint32_t>(EPOLLONESHOT) : 0);
  }
  int control(int operation, int fd, std::uint32_t events) noexcept;
  void begin_anew() noexcept;

  const Kernel* kernel_;
  int set_ = -1;
  std::vector<Entry> entries_;
};

}  // namespace uring
