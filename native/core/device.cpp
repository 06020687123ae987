#include "core/device.h"

#include "core/error.h"

namespace df {

std::string Device::str() const {
  const char* names[] = {"cpu", "cuda", "meta"};
  return std::string(names[int(type)]) + ":" + std::to_string(index);
}

Device Device::parse(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  Device d;
  if (name == "cpu") d.type = DeviceType::Cpu;
  else if (name == "cuda") d.type = DeviceType::Cuda;
  else if (name == "meta") d.type = DeviceType::Meta;
  else fail(ErrorCode::InvalidArgument, "device: expected cpu, cpu:N, cuda or cuda:N, got \"%s\"", text.c_str());
  if (colon != std::string::npos) {
    const std::string index = text.substr(colon + 1);
    const bool digits = !index.empty() && index.size() <= 3 && index.find_first_not_of("0123456789") == std::string::npos;
    DF_CHECK(digits, "device: expected a number after \"%s:\", got \"%s\"", name.c_str(), text.c_str());
    d.index = std::stoi(index);
  }
  return d;
}

}  // namespace df
