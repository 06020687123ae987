// The native test harness: named cases, a filter, counts, an exit code.
//   if_tests [FILTER…]      runs the cases whose name contains one of the filters (all without any); a filter "A&B" asks
//                           for both substrings
//   if_tests --list         prints the names
//   if_tests --part=K/N …   the K-th of N shares of them, to run side by side
// A failing case prints its name, which is accepted back as filter. A test file registers its cases with one static
// Registration.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"

namespace df::test {

class Suite {
 public:
  /// `body` passes by returning, fails by throwing, and is counted as not run when it calls not_run.
  void add(std::string name, std::function<void()> body);
  /// Runs what the arguments select; returns the exit code (1 when a case failed, or when nothing was selected).
  int run(std::vector<std::string> arguments);

 private:
  struct Case {
    std::string name;
    std::function<void()> body;
  };
  std::vector<Case> cases_;
};

struct Registration {
  explicit Registration(void (*add_cases)(Suite&));
};

/// Ends the case as failed, with a printf-formatted reason.
[[noreturn]] void fail_case(const char* format, ...) __attribute__((format(printf, 1, 2)));
/// Ends the case as not run (the machine lacks what it needs).
[[noreturn]] void not_run(const std::string& reason);
/// Passes when `body` throws a df::Error of this code whose message contains `part`.
void expect_error(ErrorCode code, const std::string& part, const std::function<void()>& body);

}  // namespace df::test

/// Fails the case, with the condition and the line, when it does not hold.
#define CHECK(condition)                                                                                     \
  do {                                                                                                       \
    if (!(condition)) ::df::test::fail_case("%s:%d: %s does not hold", __FILE_NAME__, __LINE__, #condition); \
  } while (0)
