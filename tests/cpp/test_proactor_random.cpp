// Random programs on a simulated kernel with random faults, against a model of the bytes: every
// byte is accounted for, every operation completes once, and nothing is left in the end.
//
// URINGLOOP_SEED=n runs the one program that a failure names; URINGLOOP_SEEDS=n so many programs.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include <memory>
#include <string>
#include <vector>

#include "proactor.hpp"
#include "support.hpp"

namespace uring::test {
namespace {

constexpr int kPrograms = 2000;
constexpr int kSteps = 300;
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
  // Two ends of a stream or a pipe, and what went through: ours is the proactor's.
  struct Line {
    int ours = -1;
    int theirs = -1;
    bool pipe = false;
    bool open = true;         // ours
    bool peer_open = true;
    bool was_reset = false;
    std::uint64_t pattern = 0;
    std::int64_t sending = 0;    // keys of what is in the table
    std::int64_t receiving = 0;
    std::unique_ptr<char[]> buffer;  // of `sending`
    std::size_t length = 0;
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
  void check(bool good, const std::string& what) {
    if (!good && problem_.empty()) problem_ = what;
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
    const unsigned submissions = 1u << below(4);
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
    kernel_.busy_on_overflow = below(2) == 0;
    note("rung ", rung_name(rung), ", ", submissions, " SQEs, ", completions, " CQEs");
    check(proactor_.init(features, submissions, completions) == 0, "init");
    check(proactor_.bind_thread() == 0, "bind_thread");
    files_ = kernel_.open_files();
    kernel_.chances = chances;
    for (int count = 0; count < 3; ++count) add_line();
  }

  void add_line() {
    auto line = std::make_unique<Line>();
    line->pipe = below(3) == 0;
    const std::size_t capacity = 1 + below(60);
    const auto ends =
        line->pipe ? kernel_.pipe(capacity, below(2) == 0) : kernel_.stream_pair(capacity);
    line->ours = ends.first;
    line->theirs = ends.second;
    line->pattern = ++patterns_;
    note(line->pipe ? "pipe " : "stream ", line->ours, " to ", line->theirs, ", room for ",
         capacity);
    lines_.push_back(std::move(line));
  }

  void step() {
    Line& line = *lines_[below(lines_.size())];
    switch (below(24)) {
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
        peer_takes(line, 1 + below(40));
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
        if (lines_.size() < 12) add_line();
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
      default:
        turn(0);
        break;
    }
  }

  void start_send(Line& line) {
    if (!line.open || line.sending != 0) return;
    line.length = below(120);
    line.buffer = std::make_unique<char[]>(line.length + 1);
    for (std::size_t index = 0; index < line.length; ++index)
      line.buffer[index] = pattern_at(line.pattern, line.sent.size() + index);
    line.sending = line.pipe ? proactor_.start_write(line.ours, line.buffer.get(), line.length)
                             : proactor_.start_send(line.ours, line.buffer.get(), line.length, 0);
    check(line.sending > 0, "start_send");
    ++started_;
    note("send ", line.length, " on ", line.ours, ", key ", line.sending);
  }

  void start_receive(Line& line) {
    if (!line.open || line.pipe || line.receiving != 0) return;
    line.receiving = proactor_.start_poll(Kind::kReceive, line.ours, POLLIN);
    check(line.receiving > 0, "start_poll");
    ++started_;
    note("receive on ", line.ours, ", key ", line.receiving);
  }

  void peer_puts(Line& line) {
    if (line.pipe || !line.peer_open) return;
    std::string bytes(1 + below(50), '\0');
    for (std::size_t index = 0; index < bytes.size(); ++index)
      bytes[index] = pattern_at(line.pattern + 500, line.put.size() + index);
    const std::int64_t result = kernel_.put(line.theirs, bytes);
    if (result > 0) line.put += bytes.substr(0, static_cast<std::size_t>(result));
    note("peer puts ", result, " on ", line.theirs);
  }

  void peer_takes(Line& line, std::size_t most) {
    if (!line.peer_open) return;
    const std::string bytes = kernel_.take(line.theirs, most);
    line.arrived += bytes;
    note("peer takes ", bytes.size(), " of ", line.theirs);
    for (std::size_t index = 0; index < line.arrived.size(); ++index) {
      if (line.arrived[index] != pattern_at(line.pattern, index))
        return check(false, "a wrong byte arrived at " + std::to_string(line.theirs));
    }
  }

  void peer_leaves(Line& line) {
    if (!line.peer_open) return;
    line.peer_open = false;
    line.was_reset = true;  // what is on the way is lost either way
    if (line.pipe || below(2) == 0) {
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

  void change_thread() {
    if (below(2) == 0) kernel_.exit_thread(kernel_.thread);
    kernel_.thread = ++threads_;
    note("thread ", kernel_.thread);
    check(proactor_.bind_thread() == 0, "bind_thread");
    if (below(2) == 0) kernel_.end_closed_rings();
  }

  void turn(std::int64_t timeout_ns) {
    const int error = proactor_.turn(timeout_ns);
    note("turn ", timeout_ns, ": ", error);
    check(error == 0 || error == -EINTR, "turn: " + std::to_string(error));
    proactor_.take_wake();
    collect();
  }

  void collect() {
    Completion completion;
    while (proactor_.next(&completion)) {
      const std::int64_t key = static_cast<std::int64_t>(completion.key);
      note("  done: key ", key, ", error ", completion.error, ", result ", completion.result);
      Line* line = find(key);
      if (line == nullptr) {
        check(false, "a completion of no operation, or a second one");
      } else if (key == line->sending) {
        sent(*line, completion);
      } else if (received(*line, completion)) {
        continue;
      }
      ++completed_;
      proactor_.release(completion.key);
    }
  }

  Line* find(std::int64_t key) {
    for (auto& line : lines_) {
      if (line->sending == key || line->receiving == key) return line.get();
    }
    return nullptr;
  }

  void sent(Line& line, const Completion& completion) {
    const std::size_t result = static_cast<std::size_t>(completion.result);
    check(completion.result >= 0 && result <= line.length, "a send of more than it was given");
    check(completion.error != 0 || result == line.length, "a send resolved before all was out");
    if (completion.error != 0 && line.open && !line.was_reset)
      check(completion.error == -ECANCELED, "send: " + std::to_string(completion.error));
    if (problem_.empty()) line.sent.append(line.buffer.get(), result);
    if (completion.abandoned)
      kept_.push_back(std::move(line.buffer));
    else
      line.buffer.reset();  // a kernel that still reads it is found out by ASan
    line.sending = 0;
  }

  // True when it goes on waiting.
  bool received(Line& line, const Completion& completion) {
    if (completion.error == 0 && line.open) {
      char buffer[64];
      const std::int64_t result =
          proactor_.receive(line.ours, buffer, 1 + below(sizeof(buffer)), 0);
      if (result == -EAGAIN && proactor_.again(completion.key) == 0) return true;
      if (result > 0) line.received.append(buffer, static_cast<std::size_t>(result));
      check(line.put.compare(0, line.received.size(), line.received) == 0,
            "wrong bytes were received on " + std::to_string(line.ours));
    } else if (line.open) {
      check(completion.error == -ECANCELED, "receive: " + std::to_string(completion.error));
    }
    line.receiving = 0;
    return false;
  }

  void finish() {
    note("the end");
    const unsigned left = proactor_.drain(kSecond);
    check(left == 0, "drain: " + std::to_string(left) + " left");
    collect();
    proactor_.close();
    collect();
    kernel_.end_closed_rings();
    check(completed_ == started_, "an operation never completed");
    check(proactor_.operations() == 0 && proactor_.in_flight() == 0, "the table is not empty");
    check(proactor_.stale_keys() == 0, "a stale key");
    check(proactor_.abandoned() == kept_.size(), "abandoned: " +
          std::to_string(proactor_.abandoned()));
    check(kernel_.mappings() == 0, "a mapping is left");
    std::size_t files = 0;
    for (auto& line : lines_) {
      const std::string name = std::to_string(line->ours) + " to " + std::to_string(line->theirs);
      peer_takes(*line, static_cast<std::size_t>(-1));
      if (line->peer_open) {
        check(line->arrived == line->sent, name + ": sent " + std::to_string(line->sent.size()) +
              ", arrived " + std::to_string(line->arrived.size()));
        check(line->open || kernel_.at_end(line->theirs),
              name + ": closed, and the peer sees no end");
      }
      if (line->open && !line->pipe && !line->was_reset)
        check(line->received + kernel_.take(line->ours) == line->put, name + ": received");
      files += (line->open ? 1u : 0u) + (line->peer_open ? 1u : 0u);
    }
    check(kernel_.open_files() == files_ - 2 + files, "a descriptor too many or too few");
    for (const std::string& violation : kernel_.violations) check(false, violation);
  }

  SimulatedKernel kernel_;
  Proactor proactor_;
  const std::uint64_t seed_;
  std::vector<std::unique_ptr<Line>> lines_;
  std::vector<std::unique_ptr<char[]>> kept_;
  std::vector<std::string> steps_;
  std::string problem_;
  std::size_t files_ = 0;
  std::uint64_t patterns_ = 0;
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
    const std::string report = Program(seed).run();
    if (report.empty()) continue;
    ++failures;
    FAIL_CHECK(report);
  }
  CHECK(failures == 0);
}

}  // namespace
}  // namespace uring::test
