// doctest's own code, compiled once.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <signal.h>

int main(int argc, char** argv) {
  // As Python does: a write to a pipe without a reader is an error.
  signal(SIGPIPE, SIG_IGN);
  return doctest::Context(argc, argv).run();
}
