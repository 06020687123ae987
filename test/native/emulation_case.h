// What the tests of the emulation share: its schedules, and launches into vectors.
#pragma once
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda/gpu/hopper.cuh"
#include "harness.h"

namespace df::test {

struct EmulationSchedule {
  const char* name;
  emu::Order order;
  emu::Async async;
  uint8_t poison;
};
// The last two differ in poison only: a value that was never written, or not yet waited for, shows as a difference even
// where it is no NaN.
inline const EmulationSchedule kEmulationSchedules[] = {
    {"ascending, lazy", emu::Order::Ascending, emu::Async::Lazy, 0xff},
    {"descending, lazy", emu::Order::Descending, emu::Async::Lazy, 0xff},
    {"random, random", emu::Order::Random, emu::Async::Random, 0xff},
    {"ascending, eager", emu::Order::Ascending, emu::Async::Eager, 0xff},
    {"random, lazy, other poison", emu::Order::Random, emu::Async::Lazy, 0x3c}};

/// Calls body(schedule) with every schedule in force, and restores the settings.
inline void in_every_schedule(const std::function<void(const EmulationSchedule&)>& body) {
  const emu::Settings before = emu::settings();
  struct Restore {
    emu::Settings settings;
    ~Restore() { emu::settings() = settings; }
  } restore{before};
  for (const EmulationSchedule& s : kEmulationSchedules) {
    emu::Settings& e = emu::settings();
    e.order = s.order, e.async = s.async, e.poison = s.poison, e.seed = 7;
    body(s);
  }
}

/// What a kernel wrote to `size` zeros of device memory.
template <class Out, class... P, class... A>
std::vector<Out> run_kernel(void (*kernel)(Out*, P...), dim3 grid, dim3 block, size_t shared, size_t size, A... args) {
  std::vector<Out> out(size);
  gpu::launch(kernel, grid, block, shared, nullptr, out.data(), args...);
  return out;
}

/// Adds a case: in every schedule the kernel's `size` values are expected(index).
template <class Out, class... P>
void add_kernel_case(Suite& suite, const char* name, void (*kernel)(Out*, P...), dim3 grid, dim3 block, size_t shared,
                     size_t size, std::function<Out(int)> expected, P... args) {
  suite.add(std::string("emulation ") + name, [=] {
    in_every_schedule([&](const EmulationSchedule& s) {
      const std::vector<Out> out = run_kernel(kernel, grid, block, shared, size, args...);
      for (size_t i = 0; i < size; i++)
        if (!(out[i] == expected(int(i))))
          fail_case("%s: value %zu is %g, expected %g", s.name, i, double(out[i]), double(expected(int(i))));
    });
  });
}

}  // namespace df::test
