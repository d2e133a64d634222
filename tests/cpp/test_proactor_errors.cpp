// Every call fails once: the nth call of each kind, for every n, with each error that it may have,
// beneath one and the same program.  Whatever the program then is told, it loses no byte, every
// operation completes once, and nothing is left.
#include <errno.h>
#include <poll.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "proactor.hpp"
#include "support.hpp"

namespace uring::test {
namespace {

constexpr std::int64_t kSecond = 1000000000;

struct Failing {
  Call call;
  std::string name;
  std::vector<int> errors;
};
const std::vector<Failing> kFailing = {
    {Call::kSetup, "setup", {-ENOMEM, -EMFILE, -EPERM}},
    {Call::kEnter, "enter", {-EAGAIN, -EBUSY, -EINTR}},
    {Call::kRegister, "register", {-ENOMEM, -EBUSY}},
    {Call::kMmap, "mmap", {-ENOMEM}},
    {Call::kMadvise, "madvise", {-EINVAL}},
    {Call::kEventfd, "eventfd", {-EMFILE}},
    {Call::kRead, "read", {-EINTR, -EAGAIN}},
    {Call::kReceive, "recvfrom", {-EINTR, -EAGAIN}},
    {Call::kSend, "send", {-EINTR, -EAGAIN, -ENOBUFS}},
    {Call::kSendfile, "sendfile", {-EINTR, -EAGAIN, -ENOBUFS}},
};

// Sends, receives, a sendfile, cancels, wake-ups and a move to another thread, on small queues.
class Script {
 public:
  Script(Rung rung, Call call, int error, unsigned nth) : proactor_(kernel_.table()) {
    const std::size_t files = kernel_.open_files();
    kernel_.fail(call, error, nth);
    kernel_.largest_transfer = 50;
    made_ = make(rung);
    if (made_) run();
    proactor_.close();
    collect();
    kernel_.end_closed_rings();
    CHECK(proactor_.operations() == 0);
    CHECK(proactor_.in_flight() == 0);
    CHECK(proactor_.abandoned() == 0);
    CHECK(proactor_.stale_keys() == 0);
    CHECK(kernel_.mappings() == 0);
    for (int fd : ends_) kernel_.close_file(fd);
    CHECK(kernel_.open_files() == files);
    for (const std::string& violation : kernel_.violations) FAIL_CHECK(violation);
    calls_ = kernel_.calls(call);
  }

  bool made() const { return made_; }
  unsigned calls() const { return calls_; }
  const std::vector<int>& told() const { return told_; }  // errors, other than for a cancel

 private:
  bool make(Rung rung) {
    Features features;
    int error = probe_features(kernel_.table(), &features, rung);
    if (error == 0) error = proactor_.init(features, 2, 4);
    if (error == 0) error = proactor_.bind_thread();
    if (error != 0) told_.push_back(error);
    return error == 0;
  }

  void run() {
    auto [a, b] = kernel_.stream_pair(100);
    auto [c, d] = kernel_.stream_pair(100);
    ends_ = {a, b, c, d};
    const std::string bytes = some_bytes(20000);
    const int file = kernel_.regular_file(bytes.substr(0, 300));
    const std::int64_t first = proactor_.start_send(a, bytes.data(), 500, 0);
    const std::int64_t cancelled = proactor_.start_poll(Kind::kReceive, a, POLLIN);
    const std::int64_t sent_file = proactor_.start_sendfile(c, file, 0, 300);
    const std::int64_t received = proactor_.start_poll(Kind::kReceive, d, POLLIN);
    files_[sent_file] = true;
    std::string got_b, got_d;
    auto pump = [&] {
      turn();
      got_b += kernel_.take(b);
      if (seen_.count(received) != 0) got_d += receive(d);
    };
    for (int turns = 0; turns < 5; ++turns) pump();
    proactor_.cancel(static_cast<std::uint64_t>(cancelled));
    proactor_.wake();
    // A ring that can't be had changes nothing: the next try finds all as it was.
    ++kernel_.thread;
    for (int tries = 0; tries < 3; ++tries) {
      const int error = proactor_.bind_thread();
      if (error == 0) break;
      told_.push_back(error);
    }
    for (int turns = 0; turns < 200; ++turns) pump();
    const std::int64_t now = proactor_.send_now(a, bytes.data(), Proactor::kSendNow, 0);
    if (now < 0) told_.push_back(static_cast<int>(now));
    got_b += kernel_.take(b);
    CHECK(proactor_.drain(kSecond) == 0);
    collect();
    for (std::int64_t key : {first, cancelled, sent_file, received}) CHECK(seen_.count(key) == 1);
    CHECK(seen_[cancelled].error == -ECANCELED);
    got_d += kernel_.take(d);
    CHECK(seen_[received].error == (got_d.empty() ? -ECANCELED : 0));
    // All that was told is out, and no more.
    CHECK(got_b == bytes.substr(0, 500) +
                       bytes.substr(0, static_cast<std::size_t>(std::max<std::int64_t>(now, 0))));
    CHECK(seen_[first].error == 0);
    if (seen_[sent_file].error == 0)
      CHECK(got_d == bytes.substr(0, 300));
    else
      CHECK(bytes.compare(0, got_d.size(), got_d) == 0);
  }

  void turn() {
    const int error = proactor_.turn(0);
    if (error != 0) told_.push_back(error);
    collect();
  }

  std::string receive(int fd) {
    char buffer[200];
    const std::int64_t result = proactor_.receive(fd, buffer, sizeof(buffer), 0);
    CHECK((result > 0 || result == -EAGAIN));
    return std::string(buffer, result > 0 ? static_cast<std::size_t>(result) : 0);
  }

  void collect() {
    Completion completion;
    while (proactor_.next(&completion)) {
      const std::int64_t key = static_cast<std::int64_t>(completion.key);
      if (files_.count(key) != 0 && completion.error == 0) {
        const std::int64_t result = proactor_.send_file(completion.key);
        if (result == -EAGAIN && proactor_.again(completion.key) == 0) continue;
        completion.error = result < 0 ? static_cast<int>(result) : 0;
      }
      if (completion.error != 0 && completion.error != -ECANCELED)
        told_.push_back(completion.error);
      CHECK_MESSAGE(seen_.count(key) == 0, "an operation completed twice");
      seen_[key] = completion;
      proactor_.release(completion.key);
    }
  }

  SimulatedKernel kernel_;
  Proactor proactor_;
  std::vector<int> ends_;
  std::map<std::int64_t, Completion> seen_;
  std::map<std::int64_t, bool> files_;
  std::vector<int> told_;
  bool made_ = false;
  unsigned calls_ = 0;
};

TEST_CASE("Proactor: every call fails once and nothing is lost") {
  for (Rung rung : kRungs) {
    for (const Failing& failing : kFailing) {
      for (int error : failing.errors) {
        unsigned calls = 1;
        for (unsigned nth = 1; nth <= calls; ++nth) {
          CAPTURE(rung_name(rung));
          CAPTURE(failing.name);
          CAPTURE(error);
          CAPTURE(nth);
          const Script script(rung, failing.call, error, nth);
          // After the first, which may have ended it all, it is as long as ever.
          calls = std::max(calls, script.calls());
          CHECK(script.calls() > 0);
          // Nothing else is told, and that at most once.
          CHECK(script.told().size() <= 1);
          for (int told : script.told()) CHECK(told == error);
          // What a later turn cures is told to nobody.
          if (error == -EAGAIN || error == -EBUSY) {
            const bool set_up = failing.call == Call::kRegister;
            CHECK((script.told().empty() || set_up));
          }
        }
      }
    }
  }
}

TEST_CASE("Proactor: without a failure the program is told none") {
  for (Rung rung : kRungs) {
    const Script script(rung, Call::kClose, 0, 1000000);
    CHECK(script.made());
    CHECK(script.told().empty());
    CHECK(script.calls() > 0);
  }
}

}  // namespace
}  // namespace uring::test
