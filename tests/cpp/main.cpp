// doctest's own code, compiled once.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <signal.h>
#include <sys/resource.h>

int main(int argc, char** argv) {
  // As Python does: a write to a pipe without a reader is an error.
  signal(SIGPIPE, SIG_IGN);
  // The simulated kernel has a descriptor for each request on a real file, and 2000 of them at once.
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  return doctest::Context(argc, argv).run();
}
