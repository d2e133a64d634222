// What descriptors of a simulated kernel stand for: make-believe files, and the process's real ones.
//
// A File is an open file description.  Who holds a FilePointer holds it open, as a request in
// flight does, whoever closes the descriptor.  No call here waits, and none fails at random: the
// faults are SimulatedKernel's.
#pragma once

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace uring::test {

struct SimulatedRing;

class File {
 public:
  virtual ~File() = default;

  // As poll(2) has them.
  virtual std::uint32_t events() const = 0;
  // False of what poll(2) takes for always ready: epoll_ctl(2) refuses it.
  virtual bool can_poll() const { return true; }
  virtual bool is_socket() const { return false; }
  // O_NONBLOCK: a write that finds no room ends with -EAGAIN.
  virtual bool nonblocking() const { return false; }
  // Some of the bytes may be read or written in place of all, as of a stream.
  virtual bool divisible() const { return false; }

  virtual std::int64_t read(void* buffer, std::size_t size);
  virtual std::int64_t write(const void* buffer, std::size_t size);
  // With RWF_NOWAIT, which not every file knows: pwritev2(2).
  virtual std::int64_t write_nowait(const void* buffer, std::size_t size);
  // recvfrom(2), send(2) and sendmsg(2), of the message's first `size` bytes.
  virtual std::int64_t receive(void* buffer, std::size_t size, int flags, sockaddr* address,
                               socklen_t* length);
  virtual std::int64_t send(const void* buffer, std::size_t size, int flags);
  virtual std::int64_t send_message(const msghdr& message, std::size_t size, int flags);
};
using FilePointer = std::shared_ptr<File>;

// All that a message is to send, in one piece.
std::string joined(const msghdr& message);

// What one make-believe file writes and another reads.
struct Queue {
  std::size_t capacity = 0;
  std::string bytes;                  // of a stream or a pipe
  std::deque<std::string> datagrams;  // of a datagram socket
  std::size_t queued = 0;             // bytes in `datagrams`
  bool ended = false;                 // the writing side is closed
  bool broken = false;                // the reading side is closed
  bool reset = false;

  std::size_t room() const { return capacity > bytes.size() + queued
                                        ? capacity - bytes.size() - queued : 0; }
  bool readable() const { return !bytes.empty() || !datagrams.empty() || ended || reset; }
};
using AddressBook = std::map<std::string, std::weak_ptr<Queue>>;

class MadeUpFile : public File {
 public:
  enum class Type { kStream, kPipe, kDatagram, kEvent, kRegular };

  explicit MadeUpFile(Type its_type) : type(its_type) {}
  ~MadeUpFile() override;

  std::uint32_t events() const override;
  bool can_poll() const override { return type != Type::kRegular; }
  bool is_socket() const override { return type == Type::kStream || type == Type::kDatagram; }
  bool nonblocking() const override { return has_o_nonblock; }
  bool divisible() const override { return type == Type::kStream || type == Type::kPipe; }
  std::int64_t read(void* buffer, std::size_t size) override;
  std::int64_t write(const void* buffer, std::size_t size) override;
  std::int64_t write_nowait(const void* buffer, std::size_t size) override;
  std::int64_t send_message(const msghdr& message, std::size_t size, int flags) override;

  Type type;
  bool has_o_nonblock = false;
  bool is_fifo = false;                  // of a pipe: it has a name, and RWF_NOWAIT is refused
  std::shared_ptr<Queue> in, out;
  std::uint64_t counter = 0;             // kEvent
  std::string content;                   // kRegular
  const AddressBook* addresses = nullptr;  // kDatagram
};

// An epoll set of make-believe files, level-triggered.
class EpollFile : public File {
 public:
  // epoll_ctl(2): 0 or -errno.
  int control(int operation, int fd, const FilePointer& file, const epoll_event& event);
  // epoll_wait(2) without the wait.
  int collect(epoll_event* events, int limit);
  std::uint32_t events() const override;

 private:
  struct Interest {
    int fd;
    std::weak_ptr<File> file;  // what is closed is forgotten
    epoll_event event;
    std::uint32_t holds() const;
  };
  std::vector<Interest> interests_;
};

// An io_uring; its descriptor is the process's own where the other descriptors are.
class RingFile : public File {
 public:
  RingFile(std::shared_ptr<SimulatedRing> its_ring, int reserved)
      : ring(std::move(its_ring)), reserved_(reserved) {}
  ~RingFile() override;
  std::uint32_t events() const override;

  std::shared_ptr<SimulatedRing> ring;

 private:
  int reserved_;  // keeps the number from being given away
};

// One of the process's own.
class RealFile : public File {
 public:
  // `duplicate`: a descriptor of its own, so that the file stays open; else it is only lent.
  // is_open() is false where there is no such file.
  RealFile(int fd, bool duplicate);
  ~RealFile() override;
  RealFile(const RealFile&) = delete;
  RealFile& operator=(const RealFile&) = delete;

  bool is_open() const { return fd_ >= 0; }
  int descriptor() const { return fd_; }

  std::uint32_t events() const override;
  bool is_socket() const override;
  bool nonblocking() const override;
  bool divisible() const override;
  std::int64_t read(void* buffer, std::size_t size) override;
  std::int64_t write(const void* buffer, std::size_t size) override;
  std::int64_t write_nowait(const void* buffer, std::size_t size) override;
  std::int64_t receive(void* buffer, std::size_t size, int flags, sockaddr* address,
                       socklen_t* length) override;
  std::int64_t send(const void* buffer, std::size_t size, int flags) override;
  std::int64_t send_message(const msghdr& message, std::size_t size, int flags) override;

 private:
  int fd_;
  bool owned_;
};

}  // namespace uring::test
