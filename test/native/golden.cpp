#include "golden.h"

#include <cmath>
#include <fstream>
#include <iterator>

#include "harness.h"
#include "ops/ops.h"
#include "tensors.h"

namespace df::test {
std::string golden_path(const std::string& name) { return std::string(IF_GOLDEN_DIR) + "/" + name; }

std::shared_ptr<const SafetensorsFile> golden(const std::string& name) {
  return SafetensorsFile::open(golden_path(name + ".safetensors"));
}

Json golden_json(const std::string& name) {
  std::ifstream file(golden_path(name), std::ios::binary);
  if (!file) fail_case("cannot open %s", golden_path(name).c_str());
  return Json::parse(std::string(std::istreambuf_iterator<char>(file), {}), name);
}

double relative_error(const Tensor& got, const Tensor& want) {
  const Tensor a = on(ops::copy(got, DType::F32), kCpu), b = on(ops::copy(want, DType::F32), kCpu);
  double error = 0, norm = 0;
  for (int64_t i = 0; i < a.numel(); i++) {
    const double x = a.data<float>()[i], y = b.data<float>()[i];
    error += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(error / norm);
}

std::string not_close(const Tensor& got, const Tensor& want, double tolerance) {
  if (got.shape() != want.shape()) return "expected shape " + want.shape().str() + ", got " + got.shape().str();
  const double error = relative_error(got, want);
  return error <= tolerance ? "" : format("relative error %.3g, allowed %.3g", error, tolerance);
}

void check_close(const std::string& what, const Tensor& got, const Tensor& want, double tolerance) {
  const std::string reason = not_close(got, want, tolerance);
  if (!reason.empty()) fail_case("%s: %s", what.c_str(), reason.c_str());
}

}  // namespace df::test
