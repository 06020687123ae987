#include "harness.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <sstream>

namespace df::test {
namespace {

struct Failure {
  std::string reason;
};
struct NotRun {
  std::string reason;
};

std::vector<void (*)(Suite&)>& registrations() {
  static std::vector<void (*)(Suite&)> all;
  return all;
}

// Tensors of the tests end at an inaccessible page, so an overrun arrives here; the case is named before the process
// ends.
const char* running = "";
void on_fault(int) {
  const auto say = [](const char* text) { return write(STDOUT_FILENO, text, std::strlen(text)); };
  if (say("FAIL ") < 0 || say(running) < 0 || say("\n     memory outside of a tensor was touched\n") < 0) _exit(2);
  _exit(1);
}

}  // namespace

Registration::Registration(void (*add_cases)(Suite&)) { registrations().push_back(add_cases); }

void Suite::add(std::string name, std::function<void()> body) { cases_.push_back({std::move(name), std::move(body)}); }

void fail_case(const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  throw Failure{text};
}

void not_run(const std::string& reason) { throw NotRun{reason}; }

void expect_error(ErrorCode code, const std::string& part, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    if (e.code != code) fail_case("expected %s, got %s: %s", error_code_name(code), error_code_name(e.code), e.what());
    if (std::string(e.what()).find(part) == std::string::npos)
      fail_case("expected a message with \"%s\", got \"%s\"", part.c_str(), e.what());
    return;
  }
  fail_case("expected %s with \"%s\", but nothing was thrown", error_code_name(code), part.c_str());
}

int Suite::run(std::vector<std::string> arguments) {
  unsigned part = 1, parts = 1;
  if (!arguments.empty() && arguments[0].rfind("--part=", 0) == 0) {
    char rest = 0;
    if (std::sscanf(arguments[0].c_str(), "--part=%u/%u%c", &part, &parts, &rest) != 2 || part < 1 || part > parts) {
      std::printf("--part=K/N: expected 1 <= K <= N, got %s\n", arguments[0].c_str());
      return 1;
    }
    arguments.erase(arguments.begin());
  }
  const bool list = arguments.size() == 1 && arguments[0] == "--list";
  const auto contains = [](const std::string& name, const std::string& filter) {
    std::stringstream parts(filter);
    for (std::string part; std::getline(parts, part, '&');)
      if (name.find(part) == std::string::npos) return false;
    return true;
  };
  const auto selected = [&](const std::string& name) {
    return arguments.empty() || list || std::any_of(arguments.begin(), arguments.end(), [&](const std::string& filter) {
             return contains(name, filter);
           });
  };
  std::signal(SIGSEGV, on_fault);
  std::signal(SIGBUS, on_fault);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const auto start = std::chrono::steady_clock::now();
  int passed = 0, failed = 0, skipped = 0;
  std::vector<std::string> reasons;
  for (const Case& c : cases_) {
    // cases of one call, which share its oracle, are neighbours
    if (size_t(&c - cases_.data()) / 64 % parts + 1 != part || !selected(c.name)) continue;
    if (list) {
      std::printf("%s\n", c.name.c_str());
      continue;
    }
    running = c.name.c_str();
    std::string reason;
    try {
      c.body();
      passed++;
      continue;
    } catch (const NotRun& n) {
      skipped++;
      if (std::find(reasons.begin(), reasons.end(), n.reason) == reasons.end()) reasons.push_back(n.reason);
      continue;
    } catch (const Failure& f) {
      reason = f.reason;
    } catch (const Error& e) {
      reason = std::string(error_code_name(e.code)) + ": " + e.what();
    } catch (const std::exception& e) {
      reason = e.what();
    }
    failed++;
    std::printf("FAIL %s\n     %s\n", c.name.c_str(), reason.c_str());
  }
  if (list) return 0;
  for (const std::string& r : reasons) std::printf("not run: %s\n", r.c_str());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%d passed, %d failed, %d not run in %.1f s\n", passed, failed, skipped, seconds);
  if (passed + failed + skipped == 0) std::printf("no case matches\n");
  return failed > 0 || passed + failed + skipped == 0;
}

}  // namespace df::test

int main(int argc, char** argv) {
  df::test::Suite suite;
  for (auto add_cases : df::test::registrations()) add_cases(suite);
  return suite.run({argv + 1, argv + argc});
}
