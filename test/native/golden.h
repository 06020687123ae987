// The recorded reference data of test/golden (README.md there) and what compares with it.
#pragma once
#include <string>

#include "bench/published_config.h"
#include "core/tensor.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace df::test {

/// Path of a file under test/golden.
std::string golden_path(const std::string& name);
/// Opens test/golden/<name>.safetensors.
std::shared_ptr<const SafetensorsFile> golden(const std::string& name);
/// Reads a JSON file under test/golden.
Json golden_json(const std::string& name);

/// ‖got - want‖ / ‖want‖ over all elements of two tensors of one shape, in double; NaN when one of `got` is.
double relative_error(const Tensor& got, const Tensor& want);
/// "" when relative_error <= tolerance, else what is wrong.
std::string not_close(const Tensor& got, const Tensor& want, double tolerance);
/// Fails the case when not_close has something to say about `what`.
void check_close(const std::string& what, const Tensor& got, const Tensor& want, double tolerance);

}  // namespace df::test
