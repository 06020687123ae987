// Cases that run whole models on a cuda device: an emulated one, and the real one where there is one.
#pragma once
#include <functional>
#include <string>

#include "core/device.h"
#include "harness.h"

namespace df::test {

constexpr Device kCuda{DeviceType::Cuda, 0};

/// Adds "NAME isa=cuda-emulated" and "NAME isa=cuda:0". `body` uses cuda:0, or all of the first `devices` cuda devices; the
/// second case is not run on a machine with fewer.
void add_device_case(Suite& suite, const std::string& name, std::function<void()> body, int devices = 1);
/// Ends the case as not run where this cuda device cannot be used.
void need_device(int index);

}  // namespace df::test
