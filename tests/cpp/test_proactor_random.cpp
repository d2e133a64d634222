// Random programs on a simulated kernel with random faults, against a model of the bytes: every
// byte is accounted for, every operation completes once, and nothing is left in the end.
//
// URINGLOOP_SEED=n runs the one program that a failure names; URINGLOOP_SEEDS=n so many programs.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "proactor.hpp"
#include "support.hpp"

namespace uring::test {
namespace {

constexpr int kPrograms = 2000;
constexpr int kSteps = 300;
// Lines at the start of a wide program: more completions in one turn than the proactor reads.
constexpr int kManyLines = 300;
constexpr std::int64_t kSecond = 1000000000;

class Program {
 public:
  explicit Program(std::uint64_t seed)
      : kernel_(seed), proactor_(kernel_.table()), seed_(seed) {}

  // What was wrong, with the steps that led there; empty if nothing was.
  std::string run() {
    set_up();
    for (int count = 0; count < kSteps && problem_.empty(); ++count) step();
    if (problem_.empty()) finish();
    if (problem_.empty()) return problem_;
    std::string report = "seed " + std::to_string(seed_) + ": " + problem_ + "\nthe last steps:";
    const std::size_t from = steps_.size() > 40 ? steps_.size() - 40 : 0;
    for (std::size_t index = from; index < steps_.size(); ++index) report += "\n  " + steps_[index];
    return report;
  }

 private:
  enum class Type { kStream, kPipe, kDatagram };

  // Two ends, and what went through: ours is the proactor's.
  struct Line {
    Type type = Type::kStream;
    int ours = -1;
    int theirs = -1;
    bool open = true;         // ours
    bool has_lingered = false;
    bool peer_open = true;
    bool was_reset = false;
    std::string address;      // kDatagram: of `theirs`
    std::uint64_t pattern = 0;
    std::int64_t sending = 0;    // keys of what is in the table
    std::int64_t receiving = 0;
    bool from_file = false;      // `sending` is a sendfile
    std::unique_ptr<char[]> buffer;  // of `sending`
    std::size_t length = 0;
    std::size_t unsure = 0;      // the rest of a send whose ring closed: all, some or nothing of it
    bool in_doubt = false;       // of a send nobody knows how much is out: no other may follow it
    std::string sent, arrived;    // ours to theirs
    std::string put, received;    // theirs to ours
  };

  template <typename... Parts>
  void note(const Parts&... parts) {
    std::string line;
    ((line += text(parts)), ...);
    steps_.push_back(line);
  }
  static std::string text(const char* part) { return part; }
  static std::string text(const std::string& part) { return part; }
  template <typename Number>
  static std::string text(Number number) {
    return std::to_string(number);
  }
  template <typename... Parts>
  void check(bool good, const Parts&... parts) {
    if (good || !problem_.empty()) return;
    ((problem_ += text(parts)), ...);
  }
  std::uint64_t below(std::uint64_t limit) { return kernel_.below(limit); }

  // No two lines, and no two places on one, look alike for long.
  static char pattern_at(std::uint64_t pattern, std::size_t index) {
    return static_cast<char>((pattern * 31 + index) * 2654435761u >> 13);
  }

  void set_up() {
    const Rung rung = kRungs[below(3)];
    Features features;
    check(probe_features(kernel_.table(), &features, rung) == 0, "probe");
    wide_ = below(64) == 0;
    const unsigned submissions = wide_ ? 512 : 1u << below(4);
    const unsigned completions = submissions << below(3);
    auto sometimes = [this](unsigned most) {
      return below(2) == 0 ? 0 : static_cast<unsigned>(below(most));
    };
    Chances chances;
    chances.short_transfer = sometimes(600);
    chances.zero_transfer = sometimes(200);
    chances.spurious = sometimes(200);
    chances.hold_back = sometimes(600);
    chances.reorder = sometimes(900);
    chances.late_cancel = sometimes(900);
    chances.failed_enter = sometimes(200);
    chances.short_submit = sometimes(300);
    chances.more = sometimes(100);
    chances.stray = sometimes(200);
    chances.stale_flag = sometimes(300);
    chances.overflow = sometimes(300);
    chances.interrupted = sometimes(200);
    chances.no_buffers = sometimes(30);
    chances.failed_set_up = sometimes(300);
    if (below(4) == 0) chances.dropped = sometimes(100);
    interrupted_ = sometimes(500);
    kernel_.busy_on_overflow = below(2) == 0;
    note("rung ", rung_name(rung), ", ", submissions, " SQEs, ", completions, " CQEs");
    check(proactor_.init(features, submissions, completions) == 0, "init");
    proactor_.keep_polls(below(3), below(2) == 0 ? 0 : below(8));
    check(proactor_.bind_thread() == 0, "bind_thread");
    files_ = kernel_.open_files();
    kernel_.chances = chances;
    for (int count = 0; count < (wide_ ? kManyLines : 3); ++count) add_line();
  }

  void add_line() {
    auto line = std::make_unique<Line>();
    line->pattern = ++patterns_;
    const std::size_t capacity = below(12) == 0 ? 30000 : 1 + below(60);
    std::pair<int, int> ends;
    switch (below(4)) {
      case 0:
        line->type = Type::kPipe;
        ends = kernel_.pipe(capacity, below(2) == 0, below(2) == 0);
        break;
      case 1:
        line->type = Type::kDatagram;
        line->address = "theirs " + std::to_string(line->pattern);
        ends.first = kernel_.datagram_socket("ours " + std::to_string(line->pattern));
        ends.second = kernel_.datagram_socket(line->address, 60 + capacity);
        break;
      default:
        ends = kernel_.stream_pair(capacity);
        break;
    }
    line->ours = ends.first;
    line->theirs = ends.second;
    constexpr const char* kNames[] = {"stream ", "pipe ", "datagrams "};
    note(kNames[static_cast<int>(line->type)], line->ours, " to ", line->theirs, ", room for ",
         capacity);
    lines_.push_back(std::move(line));
  }

  void step() {
    Line& line = *lines_[below(lines_.size())];
    switch (below(26)) {
      case 0: case 1: case 2:
        start_send(line);
        break;
      case 3: case 4:
        start_receive(line);
        break;
      case 5: case 6:
        peer_puts(line);
        break;
      case 7: case 8: case 9:
        peer_takes(line, 1 + below(below(8) == 0 ? 20000 : 40));
        break;
      case 10:
        cancel(line.sending);
        break;
      case 11:
        cancel(line.receiving);
        break;
      case 12:
        if (below(3) == 0 && line.open) {
          note("cancel all on ", line.ours);
          proactor_.cancel_fd(line.ours);
        }
        break;
      case 13:
        if (below(2) == 0) close_line(line);
        break;
      case 14:
        if (lines_.size() < 12 || wide_) add_line();
        break;
      case 15:
        if (below(4) == 0) peer_leaves(line);
        break;
      case 16:
        if (below(3) == 0) change_thread();
        break;
      case 17:
        proactor_.wake();
        break;
      case 18:
        turn(static_cast<std::int64_t>(below(5000)));
        break;
      case 19:
        if (below(2) == 0) lose_line(line);
        break;
      case 20:
        if (wide_ && below(4) == 0) crowd();
        break;
      default:
        turn(0);
        break;
    }
  }

  void start_send(Line& line) {
    if (!line.open || line.sending != 0 || line.in_doubt) return;
    line.from_file = false;
    if (line.type == Type::kDatagram)
      line.length = 1 + below(60);
    else if (below(16) == 0)
      line.length = Proactor::kSendNow - 10 + below(20000);
    else
      line.length = below(120);
    line.buffer = std::make_unique<char[]>(line.length + 1);
    for (std::size_t index = 0; index < line.length; ++index)
      line.buffer[index] = pattern_at(line.pattern, line.sent.size() + index);
    const char* name = "send ";
    switch (line.type) {
      case Type::kPipe:
        line.sending = proactor_.start_write(line.ours, line.buffer.get(), line.length);
        break;
      case Type::kDatagram:
        line.sending =
            proactor_.start_sendto(line.ours, line.buffer.get(), line.length, 0,
                                   line.address.data(), static_cast<unsigned>(line.address.size()));
        blocks_.insert(proactor_.peek(static_cast<std::uint32_t>(line.sending))->address);
        break;
      case Type::kStream:
        if (below(5) == 0) {
          name = "sendfile ";
          send_file(line);
        } else if (!send_at_once(line)) {
          return;
        }
        break;
    }
    check(line.sending > 0, "start_send");
    ++started_;
    note(name, line.length, " on ", line.ours, ", key ", line.sending);
  }

  void send_file(Line& line) {
    constexpr char kBefore[] = "not this";
    const std::size_t offset = sizeof(kBefore) - 1;
    const int file = kernel_.regular_file(kBefore + std::string(line.buffer.get(), line.length));
    // A file may be shorter than was asked for.
    line.sending = proactor_.start_sendfile(line.ours, file, offset, line.length + below(2));
    line.from_file = true;
  }

  // As Overlapped.prep_send: what fits goes now.  False when nothing is left to wait for.
  bool send_at_once(Line& line) {
    const std::int64_t now = proactor_.send_now(line.ours, line.buffer.get(), line.length, 0);
    if (now < 0) {
      check(line.was_reset, "send_now: ", now);
      return false;
    }
    if (now > 0 && static_cast<std::size_t>(now) == line.length) {
      line.sent.append(line.buffer.get(), line.length);
      return false;
    }
    line.sending = proactor_.start_send(line.ours, line.buffer.get(), line.length, 0,
                                        static_cast<std::uint64_t>(now));
    return true;
  }

  void start_receive(Line& line) {
    if (!line.open || line.type != Type::kStream || line.receiving != 0) return;
    // In the ring, or in the readiness set, asked for or not: it comes to the same.
    switch (below(5)) {
      case 0:
        line.receiving = proactor_.start_poll(Kind::kReceive, line.ours, POLLIN);
        break;
      case 1:
        line.receiving = proactor_.start_wait(Kind::kReceive, line.ours, POLLIN);
        break;
      case 2:
        line.receiving = proactor_.start_lingering_wait(Kind::kReceive, line.ours, POLLIN, line.has_lingered);
        line.has_lingered = true;
        break;
      case 3:
        line.receiving = proactor_.start_lingering_wait(Kind::kReceive, line.ours, POLLIN, false);
        break;
      case 4:
        line.receiving = proactor_.start_multishot(Kind::kReceive, line.ours, POLLIN);
        break;
    }
    check(line.receiving > 0, "start_poll");
    ++started_;
    note("receive on ", line.ours, ", key ", line.receiving);
  }

  void peer_puts(Line& line) {
    if (line.type != Type::kStream || !line.peer_open) return;
    std::string bytes(1 + below(50), '\0');
    for (std::size_t index = 0; index < bytes.size(); ++index)
      bytes[index] = pattern_at(line.pattern + 500, line.put.size() + index);
    const std::int64_t result = kernel_.put(line.theirs, bytes);
    if (result > 0) line.put += bytes.substr(0, static_cast<std::size_t>(result));
    note("peer puts ", result, " on ", line.theirs);
  }

  void peer_takes(Line& line, std::size_t most) {
    if (!line.peer_open) return;
    std::size_t taken = 0;
    bool good = true;
    do {  // of datagrams one comes at a time
      const std::string bytes = kernel_.take(line.theirs, most - taken);
      if (bytes.empty()) break;
      for (char byte : bytes) {
        good = good && byte == pattern_at(line.pattern, line.arrived.size());
        line.arrived += byte;
      }
      taken += bytes.size();
    } while (taken < most);
    note("peer takes ", taken, " of ", line.theirs);
    check(good, "a wrong byte arrived at ", line.theirs);
  }

  void peer_leaves(Line& line) {
    if (!line.peer_open) return;
    line.peer_open = false;
    line.was_reset = true;  // what is on the way is lost either way
    if (line.type != Type::kStream || below(2) == 0) {
      note("peer closes ", line.theirs);
      kernel_.close_file(line.theirs);
    } else {
      note("peer resets ", line.theirs);
      kernel_.reset(line.theirs);
    }
  }

  void cancel(std::int64_t key) {
    if (key == 0) return;
    note("cancel ", key);
    proactor_.cancel(static_cast<std::uint64_t>(key));
  }

  void close_line(Line& line) {
    if (!line.open) return;
    note("close ", line.ours);
    proactor_.settle(line.ours);
    line.open = false;
    kernel_.close_file(line.ours);
    collect();
  }

  // Its owner closes it without a word, and only then it is asked for its number: what was started
  // on it ends before the next turn, and the number may belong to another line by then.
  void lose_line(Line& line) {
    if (!line.open) return;
    note("lose ", line.ours);
    line.open = false;
    kernel_.close_file(line.ours);
    for (std::int64_t key : {line.sending, line.receiving}) {
      if (key != 0) proactor_.cancel(static_cast<std::uint64_t>(key), -EBADF);
    }
  }

  // Something happens on every line at once.
  void crowd() {
    note("a crowd");
    for (auto& line : lines_) {
      start_receive(*line);
      start_send(*line);
      peer_puts(*line);
    }
  }

  void change_thread() {
    if (below(2) == 0) kernel_.exit_thread(kernel_.thread);
    kernel_.thread = ++threads_;
    note("thread ", kernel_.thread);
    for (;;) {
      const int error = proactor_.bind_thread();
      if (error == 0) break;
      note("bind_thread: ", error);
      check((error == -ENOMEM || error == -EMFILE) && kernel_.chances.failed_set_up != 0,
            "bind_thread: ", error);
      if (!problem_.empty()) return;
    }
    if (below(2) == 0) kernel_.end_closed_rings();
  }

  void turn(std::int64_t timeout_ns) {
    const int error = proactor_.turn(timeout_ns);
    note("turn ", timeout_ns, ": ", error);
    check(error == 0 || error == -EINTR, "turn: ", error);
    proactor_.take_wake();
    collect(interrupted_);
  }

  // `interrupted`: how often, of a thousand completions, an exception leaves the loop behind one.
  void collect(unsigned interrupted = 0) {
    Completion completion;
    while (proactor_.next(&completion)) {
      const std::int64_t key = static_cast<std::int64_t>(completion.key);
      note("  done: key ", key, ", error ", completion.error, ", result ", completion.result);
      Line* line = find(key);
      if (line == nullptr) {
        check(false, "a completion of no operation, or a second one");
        proactor_.release(completion.key);
      } else if (key == line->sending ? sent(*line, completion) : received(*line, completion)) {
        ++completed_;
        proactor_.release(completion.key);
        kernel_.ended_keys.push_back(completion.key);
      }
      if (kernel_.chance(interrupted)) {
        note("  interrupted");
        break;
      }
    }
  }

  Line* find(std::int64_t key) {
    for (auto& line : lines_) {
      if (line->sending == key || line->receiving == key) return line.get();
    }
    return nullptr;
  }

  // False when it goes on.
  bool sent(Line& line, const Completion& completion) {
    std::int64_t result = completion.result;
    int error = completion.error;
    if (line.from_file && error == 0) {
      // A poll that is over; nothing is done on a number that may be another's.
      result = line.open ? proactor_.send_file(completion.key) : 0;
      error = line.open ? static_cast<int>(std::min<std::int64_t>(result, 0)) : -EBADF;
      if (result == -EAGAIN) {
        error = proactor_.again(completion.key);
        if (error == 0) return false;
      }
    }
    const std::size_t length = line.length;
    if (line.from_file && error != 0)
      result = static_cast<std::int64_t>(
          proactor_.peek(static_cast<std::uint32_t>(completion.key))->done);
    check(result >= 0 && static_cast<std::size_t>(result) <= length,
          "a send of more than it was given");
    check(error != 0 || static_cast<std::size_t>(result) == length,
          "a send resolved before all was out");
    if (error != 0 && line.open && !line.was_reset)
      check(error == -ECANCELED || (error == -ENOBUFS && kernel_.taken.no_buffers != 0) ||
                (error == -EBADR && kernel_.taken.dropped != 0),
            "send: ", error);
    if (!problem_.empty()) return true;
    line.sent.append(line.buffer.get(), static_cast<std::size_t>(result));
    // A kernel that still reads it is found out.
    if (completion.abandoned) {
      line.unsure = length - static_cast<std::size_t>(result);
      line.in_doubt = kernel_.taken.dropped != 0;
      kept_.push_back(std::move(line.buffer));
    } else {
      memset(line.buffer.get(), '!', length);
      line.buffer.reset();
    }
    line.sending = 0;
    return true;
  }

  // False when it goes on waiting.
  bool received(Line& line, const Completion& completion) {
    if (completion.error == 0 && line.open) {
      char buffer[64];
      const std::int64_t result =
          proactor_.receive(line.ours, buffer, 1 + below(sizeof(buffer)), 0);
      if (result == -EAGAIN && proactor_.again(completion.key) == 0) return false;
      if (result > 0) line.received.append(buffer, static_cast<std::size_t>(result));
      check(line.put.compare(0, line.received.size(), line.received) == 0,
            "wrong bytes were received on ", line.ours);
    } else if (line.open) {
      check(completion.error == -ECANCELED, "receive: ", completion.error);
    }
    line.receiving = 0;
    return true;
  }

  void finish() {
    note("the end");
    if (below(4) != 0) {
      const unsigned left = proactor_.drain(kSecond);
      check(left == 0, "drain: ", left, " left");
      collect();
    }
    proactor_.close();
    collect();
    kernel_.end_closed_rings();
    for (const std::string& violation : kernel_.violations) check(false, violation);
    check(completed_ == started_, "an operation never completed");
    check(proactor_.operations() == 0 && proactor_.in_flight() == 0, "the table is not empty");
    check(proactor_.stale_keys() <= kernel_.taken.stray, "a stale key");
    check(proactor_.abandoned() == kept_.size(), "abandoned: ", proactor_.abandoned());
    if (!kept_.empty()) {
      // The kernel may read them for ever; held here, so that a leak check finds them.
      static auto& given_up = *new std::vector<const AddressBlock*>;
      given_up.insert(given_up.end(), blocks_.begin(), blocks_.end());
    }
    check(kernel_.mappings() == 0, "a mapping is left");
    std::size_t files = 0;
    for (auto& line : lines_) {
      const std::string name = std::to_string(line->ours) + " to " + std::to_string(line->theirs);
      peer_takes(*line, static_cast<std::size_t>(-1));
      if (line->peer_open) {
        const std::size_t sent = line->sent.size(), arrived = line->arrived.size();
        check(sent <= arrived && arrived <= sent + line->unsure, name, ": sent ", sent,
              ", arrived ", arrived);
        check(line->open || line->type == Type::kDatagram || kernel_.at_end(line->theirs), name,
              ": closed, and the peer sees no end");
      }
      if (line->open && line->type == Type::kStream && !line->was_reset)
        check(line->received + kernel_.take(line->ours) == line->put, name, ": received");
      files += (line->open ? 1u : 0u) + (line->peer_open ? 1u : 0u);
    }
    check(kernel_.open_files() == files_ - 3 + files, "a descriptor too many or too few");
  }

  SimulatedKernel kernel_;
  Proactor proactor_;
  const std::uint64_t seed_;
  std::vector<std::unique_ptr<Line>> lines_;
  std::vector<std::unique_ptr<char[]>> kept_;
  std::set<const AddressBlock*> blocks_;
  std::vector<std::string> steps_;
  std::string problem_;
  std::size_t files_ = 0;
  std::uint64_t patterns_ = 0;
  unsigned interrupted_ = 0;
  bool wide_ = false;
  int threads_ = 1;
  int started_ = 0;
  int completed_ = 0;
};

std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* value = getenv(name);
  return value == nullptr ? otherwise : strtoull(value, nullptr, 10);
}

TEST_CASE("Proactor: random programs with random faults lose nothing") {
  const std::uint64_t only = number_from_environment("URINGLOOP_SEED", 0);
  const std::uint64_t last =
      only != 0 ? only : number_from_environment("URINGLOOP_SEEDS", kPrograms);
  int failures = 0;
  for (std::uint64_t seed = only != 0 ? only : 1; seed <= last && failures < 3; ++seed) {
    CAPTURE(seed);  // of a crash
    const std::string report = Program(seed).run();
    if (report.empty()) continue;
    ++failures;
    FAIL_CHECK(report);
  }
  CHECK(failures == 0);
}

}  // namespace
}  // namespace uring::test
