// Tensors in safetensors files: the prompt-embedding cache and `--out FILE.safetensors`.
#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/handles.h"
#include "io/safetensors.h"
#include "ops/ops.h"

namespace df::addon {
namespace {

CancelFlag read_flag(const Napi::Value& v) { return unwrap_optional<std::atomic<bool>>(v, "cancel"); }

// safetensorsSave(path, names: string[], tensors: Tensor[], dtype, metadata: [string, string][], cancel?): Promise<void>
Napi::Value safetensors_save(const Napi::CallbackInfo& info) {
  const std::string path = read_string(info[0], "safetensorsSave: path");
  const std::vector<std::string> names = read_strings(info[1], "safetensorsSave: names");
  DF_CHECK(info[2].IsArray() && info[2].As<Napi::Array>().Length() == names.size(),
           "safetensorsSave: expected as many tensors as names");
  std::vector<Tensor> tensors;
  for (uint32_t i = 0; i < names.size(); i++)
    tensors.push_back(unwrap_tensor(info[2].As<Napi::Array>().Get(i), "safetensorsSave: tensors"));
  const DType dtype = read_dtype(info[3], "safetensorsSave: dtype");
  const Metadata metadata = read_metadata(info[4], "safetensorsSave: metadata");
  return run_command(info.Env(), kCpu, read_flag(info[5]), [=]() -> Deliver {
    std::vector<NamedTensor> entries;
    for (size_t i = 0; i < names.size(); i++)
      entries.push_back({names[i], ops::to_device(ops::copy(tensors[i], dtype), kCpu)});
    write_safetensors(path, entries, metadata);
    return [](Napi::Env env) { return env.Undefined(); };
  });
}

// safetensorsLoad(path, cancel?): Promise<{ [name]: Tensor }>, floating types as float32
Napi::Value safetensors_load(const Napi::CallbackInfo& info) {
  const std::string path = read_string(info[0], "safetensorsLoad: path");
  return run_command(info.Env(), kCpu, read_flag(info[1]), [=]() -> Deliver {
    auto file = SafetensorsFile::open(path);
    std::vector<NamedTensor> tensors;
    for (const std::string& name : file->names()) tensors.push_back({name, ops::copy(file->tensor(name), DType::F32)});
    return [tensors](Napi::Env env) -> Napi::Value {
      auto o = Napi::Object::New(env);
      for (const NamedTensor& t : tensors) o.Set(t.name, wrap_tensor(env, t.tensor));
      return o;
    };
  });
}

}  // namespace

Metadata read_metadata(const Napi::Value& v, const char* parameter) {
  DF_CHECK(v.IsArray(), "%s: expected an array of pairs", parameter);
  const auto pairs = v.As<Napi::Array>();
  Metadata metadata;
  for (uint32_t i = 0; i < pairs.Length(); i++) {
    const auto pair = read_strings(pairs.Get(i), parameter);
    DF_CHECK(pair.size() == 2, "%s: expected an array of pairs", parameter);
    metadata[pair[0]] = pair[1];
  }
  return metadata;
}

void bind_files(Napi::Env env, Napi::Object exports) {
  bind<safetensors_save>(env, exports, "safetensorsSave");
  bind<safetensors_load>(env, exports, "safetensorsLoad");
}

}  // namespace df::addon
