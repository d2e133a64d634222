// A kernel for tests: its io_uring is make-believe, and so are, as one likes, sockets, pipes,
// threads and the clock (Backing::kMadeUp) or nothing else (Backing::kReal: files, threads, time
// and sleep are the process's own, and what a request asks for is done by the real calls).
//
// It fills a `Kernel` table, and what it does depends on its seed and on what it was told alone.
// The rules that it plays by are the real kernel's, as io_uring_setup(2), io_uring_enter(2) and
// fs/io_uring of 6.18 have them; test_ring.cpp holds it against the running kernel:
//  - SQEs are consumed in enter() alone; what can be done at once completes there, the rest waits
//    for readiness and completes in task work: at once on a plain ring, in the next enter() of a
//    COOP_TASKRUN ring, in an enter() of the owner with GETEVENTS on a DEFER_TASKRUN ring;
//  - what finds no room waits, but with MSG_DONTWAIT or RWF_NOWAIT, and on a pipe with O_NONBLOCK of
//    a kernel before 6.5, it ends with -EAGAIN; RWF_NOWAIT is refused by FIFOs;
//  - a request in flight holds its file open, whoever closes the descriptor;
//  - a cancel is a request like any other, and its target's own completion comes after it;
//  - a request reads its buffer until its final completion: it is looked at once more right before
//    that, so that one freed too early is a fault under ASan, and one changed a violation;
//  - a completion that finds the CQ full is kept for an enter() with GETEVENTS; one that is dropped is
//    counted, and told once, to who submits nothing and would sleep: -EBADR.
//
// Over real files nothing tells the kernel that one has become ready.  It looks whenever it is
// called, fork_count() included, which a proactor asks for in every turn; and its sleep is a poll(2)
// of all that requests wait for.  Any thread may call then; one at a time is let in, and who sleeps
// lets the others in.
//
// To add an operation: a case in perform(), and in wanted_events() if it can wait.
// To add a fault: a member of Chances and its name in kFaults for a random one, a plain member for
// a steady one.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "features.hpp"
#include "kernel.hpp"
#include "simulated_files.hpp"
#include "simulated_ring.hpp"

namespace uring::test {

enum class Backing { kMadeUp, kReal };

enum class Call {
  kSetup,
  kEnter,
  kRegister,
  kMmap,
  kMunmap,
  kMadvise,
  kEventfd,
  kClose,
  kRead,
  kWrite,
  kReceive,
  kSend,
  kSendfile,
  kEpollCreate,
  kEpollControl,
  kEpollWait,
  kPoll,
};
constexpr int kCallCount = static_cast<int>(Call::kPoll) + 1;

// How often, of a thousand times, something goes another way than one would like.
struct Chances {
  unsigned short_transfer = 0;  // some of the bytes
  unsigned zero_transfer = 0;   // none of the bytes, and no error
  unsigned spurious = 0;        // a request ends with -EINTR or -ECANCELED, a send with -EAGAIN too
  unsigned hold_back = 0;       // what is ready completes in a later enter
  unsigned reorder = 0;         // the completions of an enter come in another order
  unsigned late_cancel = 0;     // the target ends before its cancel reaches it
  unsigned failed_enter = 0;    // -EAGAIN or -EBUSY of a submit, -EINTR of a wait; nothing done
  unsigned short_submit = 0;    // some of the SQEs are consumed
  unsigned interrupted = 0;     // a read, receive, send or sendfile by itself: -EINTR or -EAGAIN
  unsigned overflow = 0;        // a completion is kept back as if the CQ were full
  unsigned more = 0;            // a request says something with F_MORE, and is not over
  unsigned stray = 0;           // one of `ended_keys` completes once more
  unsigned stale_flag = 0;      // TASKRUN is set when all task work has been done
  // What a program gets to see:
  unsigned no_buffers = 0;      // a send or write ends with -ENOBUFS
  unsigned failed_set_up = 0;   // a ring can't be had: -ENOMEM or -EMFILE at any step
  unsigned dropped = 0;         // a completion is lost, as if the CQ were full and there were no memory
};

struct FaultName {
  const char* name;
  unsigned Chances::*member;
};
constexpr FaultName kFaults[] = {
    {"short_transfer", &Chances::short_transfer}, {"zero_transfer", &Chances::zero_transfer},
    {"spurious", &Chances::spurious},             {"hold_back", &Chances::hold_back},
    {"reorder", &Chances::reorder},               {"late_cancel", &Chances::late_cancel},
    {"failed_enter", &Chances::failed_enter},     {"short_submit", &Chances::short_submit},
    {"interrupted", &Chances::interrupted},       {"overflow", &Chances::overflow},
    {"more", &Chances::more},                     {"stray", &Chances::stray},
    {"stale_flag", &Chances::stale_flag},
    {"no_buffers", &Chances::no_buffers},         {"failed_set_up", &Chances::failed_set_up},
    {"dropped", &Chances::dropped},
};

class SimulatedKernel {
 public:
  explicit SimulatedKernel(std::uint64_t seed = 1, Backing backing = Backing::kMadeUp);
  ~SimulatedKernel();
  SimulatedKernel(const SimulatedKernel&) = delete;
  SimulatedKernel& operator=(const SimulatedKernel&) = delete;

  Kernel table() noexcept;

  // -- What kernel it is: anything else is -EINVAL --
  unsigned known_setup_flags;
  unsigned known_enter_flags;
  unsigned features;
  std::set<unsigned> known_operations;
  // Known, and not allowed: they end with -EACCES, as by IORING_REGISTER_RESTRICTIONS.
  std::set<unsigned> refused_operations;

  // -- Who calls, and when: of make-believe --
  int thread = 1;
  unsigned forks = 0;
  // From here on it is a child's: what it must not keep is closed (Kernel::fork_count).
  void fork();
  std::int64_t now = 1000000000;
  // Its requests on rings that outlive it end with `orphan_result` when their turn comes.
  void exit_thread(int which);
  int orphan_result;

  // -- Faults --
  Chances chances;
  Chances taken;                 // how often each has struck
  std::size_t largest_transfer;  // bytes of one send, write or sendfile
  unsigned largest_submit;       // SQEs of one enter
  unsigned largest_sq, largest_cq;  // entries that a ring gets, whatever it asks for
  bool late_cancels = false;
  bool deaf_requests = false;     // a cancel finds them being worked on, and they go on
  int setup_error = 0;            // of every ring that is asked for
  int mmap_error = 0;             // of every mapping of one
  int submit_error = 0;           // of every enter that has something to submit: it does nothing
  bool interrupt_waits = false;    // every enter that would wait ends with -EINTR
  bool busy_on_overflow = false;  // -EBUSY when not all that overflowed fits
  // Of operations that are over: what `chances.stray` chooses from.  A key whose slot has got
  // another joins them by itself.
  std::vector<std::uint64_t> ended_keys;
  // The nth call from now, and the `times - 1` after it, do nothing and return `error`.
  void fail(Call call, int error, unsigned nth = 1, unsigned times = 1);
  // The next request of this opcode ends so, having done nothing; several queue up.
  void force_result(unsigned opcode, int result);
  // Called when a thread would sleep: the others' turn.  False when they have nothing to do.
  std::function<bool()> while_asleep;

  // -- Files.  Descriptors are the lowest that are free, as everywhere. --
  std::pair<int, int> stream_pair(std::size_t capacity = 65536);
  // To write to, to read from.  `nonblocking`: a write that finds no room ends with -EAGAIN.
  // `fifo`: it knows no RWF_NOWAIT.
  std::pair<int, int> pipe(std::size_t capacity, bool nonblocking, bool fifo = false);
  int datagram_socket(const std::string& address, std::size_t capacity = 65536);
  int regular_file(std::string content);
  // The other side's calls: they suffer no faults.
  std::int64_t put(int fd, const std::string& bytes);
  std::string take(int fd, std::size_t most = static_cast<std::size_t>(-1));
  bool at_end(int fd);  // nothing to read, and nobody who could write
  void close_file(int fd);
  void reset(int fd);  // close it so that its peer sees a reset

  // -- Rings --
  // A completion out of nowhere; false if there is no such ring.
  bool post(int ring_fd, std::uint64_t user_data, int result, unsigned flags = 0);
  // All that waits on a ring ends so, as when the thread ends that had submitted it.
  void end_requests(int ring_fd, int result);
  // Closed rings let go of what was in flight on them late: here.
  void end_closed_rings();

  // -- Checks --
  unsigned calls(Call call) const { return calls_[static_cast<int>(call)]; }
  std::size_t open_files() const { return files_.size(); }
  bool is_open(int fd) const { return files_.count(fd) != 0; }
  std::size_t mappings() const { return mappings_.size(); }
  std::size_t requests(int ring_fd) const;
  // On all rings, those that are closed included; each may hold a file open.
  std::size_t requests() const;
  unsigned ring_flags(int ring_fd) const;
  // The set-up flags of those that are open.
  std::vector<unsigned> rings() const;
  unsigned last_enter_flags = 0;
  std::atomic<std::int64_t> slept{0};  // nanoseconds in sleep(), not in enter()
  // What no program may do, in words: empty at the end of every test.
  std::vector<std::string> violations;

  bool chance(unsigned in_a_thousand);
  std::uint64_t below(std::uint64_t limit);
  // Held by whoever is in a call; from outside, by who looks at or sets anything beside one.
  std::recursive_mutex& mutex() { return mutex_; }

 private:
  using Request = SimulatedRequest;
  using Ring = SimulatedRing;
  struct Mapping {
    std::size_t length;
    std::shared_ptr<void> memory;
    unsigned forks;
    bool in_children;  // until MADV_DONTFORK
  };
  struct Failure {
    unsigned wait;
    unsigned times;
    int error;
  };
  // The calls of the table.
  int setup(unsigned entries, io_uring_params* params);
  int enter(int fd, unsigned to_submit, unsigned min_complete, unsigned flags,
            const void* argument, std::size_t size);
  int register_(int fd, unsigned opcode, void* argument, unsigned count);
  int mmap(std::size_t length, int fd, std::int64_t offset, void** address);
  int munmap(void* address, std::size_t length);
  int madvise(void* address, std::size_t length, int advice);
  int eventfd(unsigned initial, int flags);
  int epoll_create();
  int epoll_control(int epoll, int operation, int fd, epoll_event* event);
  int epoll_wait(int epoll, epoll_event* events, int limit);
  int poll(int fd, short events);
  int close(int fd);
  std::int64_t read(int fd, void* buffer, std::size_t size);
  std::int64_t write(int fd, const void* buffer, std::size_t size);
  std::int64_t recvfrom(int fd, void* buffer, std::size_t size, int flags, sockaddr* address,
                        socklen_t* length);
  std::int64_t sendto(int fd, const void* buffer, std::size_t size, int flags,
                      const sockaddr* address, socklen_t address_length);
  std::int64_t sendfile(int socket, int file, std::int64_t offset, std::size_t count);

  int failure(Call call);
  int set_up_failure(Call call);
  bool has_exited(int which) const;
  // As chance(), and counted in `taken`.
  bool strikes(unsigned Chances::*fault);
  void violate(std::string what) { violations.push_back(std::move(what)); }

  std::int64_t clock() const;
  void sleep(std::int64_t nanoseconds);
  int thread_id() const;
  unsigned fork_count() const;
  bool in_child() const;
  unsigned look();

  int open(FilePointer file);
  // For a request (`hold`) or for the length of a call.
  FilePointer file_at(int fd, bool hold = false) const;
  MadeUpFile* made_up(int fd) const;
  Ring* ring_at(int fd) const;
  std::size_t limited(const File& file, std::size_t size);
  int interruption(const File& file);

  bool may_enter(const Ring& ring) const;
  int submit(Ring& ring, unsigned count);
  bool tell(Ring& ring, Request& request, int result);
  void forget_told(int read);
  bool start(Ring& ring, const io_uring_sqe& sqe);
  void cancel(Ring& ring, std::uint64_t user_data, std::uint64_t target);
  void remember(const Ring& ring, std::uint64_t user_data);
  bool attempt(Request& request, int* result);
  int perform(Request& request);
  std::uint32_t wanted_events(const Request& request) const;
  bool is_ready(const Request& request) const;
  void run_task_work(Ring& ring, bool hold_back);
  void talk_idly(Ring& ring);
  int sleep_until_ready(Ring& ring, std::int64_t give_up);
  void complete(Ring& ring, const Request& request, int result);
  void flush(Ring& ring);
  void flush_overflow(Ring& ring);
  std::uint64_t checksum(const Request& request) const;
  void check_memory(const Request& request);
  // Something may be ready that was not.
  void changed();

  const Backing backing_;
  const unsigned made_in_;  // the count of forks
  std::recursive_mutex mutex_;
  std::mt19937_64 random_;
  std::map<int, FilePointer> files_;
  AddressBook addresses_;
  std::map<std::uint32_t, std::uint64_t> last_keys_;  // of each slot
  std::map<void*, Mapping> mappings_;
  std::vector<Request> closing_;
  std::set<int> exited_;
  std::vector<Failure> failures_[kCallCount];
  unsigned calls_[kCallCount] = {};
  std::map<unsigned, std::deque<int>> forced_;
};

}  // namespace uring::test
