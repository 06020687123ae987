#pragma once
#include <string>

namespace df {

/// Meta holds shapes and byte counts only: the same module code run on it gives the memory plan and the GFLOP count.
enum class DeviceType { Cpu, Cuda, Meta };

struct Device {
  DeviceType type = DeviceType::Cpu;
  int index = 0;
  bool operator==(const Device& o) const { return type == o.type && index == o.index; }
  bool operator!=(const Device& o) const { return !(*this == o); }
  /// "cpu:0", "cuda:1", "meta:0".
  std::string str() const;
  /// Parses "cpu", "cpu:1", "cuda", "cuda:0", "meta". Throws INVALID_ARGUMENT.
  static Device parse(const std::string& text);
};

constexpr Device kCpu{DeviceType::Cpu, 0};
constexpr Device kMeta{DeviceType::Meta, 0};
/// The meta device whose weights have the bytes that those of a cuda device have.
constexpr Device kMetaCuda{DeviceType::Meta, 1};

}  // namespace df
