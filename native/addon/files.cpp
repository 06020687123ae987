// Tensors in safetensors files: the prompt-embedding cache, `--out FILE.safetensors`, and whole models, tensor by tensor.
#include "addon/arguments.h"
#include "addon/bindings.h"
#include "addon/handles.h"
#include "io/safetensors.h"
#include "ops/ops.h"

namespace df::addon {
namespace {

CancelFlag read_flag(const Napi::Value& v) { return unwrap_optional<std::atomic<bool>>(v, "cancel"); }

DType read_file_dtype(const Napi::Value& v, const char* parameter) {
  const std::string s = read_string(v, parameter);
  if (const std::optional<DType> t = dtype_named(s)) return *t;
  fail(ErrorCode::Unsupported, "%s: %s cannot be written (f32, bf16, f16, i32, i64, u8 can)", parameter, s.c_str());
}

std::vector<TensorInfo> read_tensor_infos(const Napi::Value& v, const char* parameter) {
  DF_CHECK(v.IsArray(), "%s: expected an array", parameter);
  std::vector<TensorInfo> infos;
  auto list = v.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::Value item = list.Get(i);
    DF_CHECK(item.IsObject(), "%s: expected objects of name, shape and dtype", parameter);
    auto o = item.As<Napi::Object>();
    infos.push_back({read_string(o.Get("name"), parameter), read_shape(o.Get("shape"), parameter, 0),
                     read_file_dtype(o.Get("dtype"), parameter)});
  }
  return infos;
}

/// The tensor in another floating type, rounded to nearest. Throws WEIGHTS when a number is too large for float16.
Tensor converted(const Tensor& source, DType dtype, const std::string& name) {
  if (source.dtype() == dtype) return source;
  if (source.numel() == 0) return Tensor::empty(source.shape(), dtype, kCpu);
  const Tensor flat = source.reshape({source.numel()});  // ops take no scalars
  const Tensor out = ops::copy(flat, dtype);
  if (dtype == DType::F16 && !ops::all_finite(out) && ops::all_finite(flat))
    fail(ErrorCode::Weights, "\"%s\" has values beyond the range of float16, ±65504: choose bf16", name.c_str());
  return out.reshape(source.shape());
}

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
  DF_CHECK(dtype != DType::F16, "safetensorsSave: dtype: expected f32 or bf16, got f16");
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

// safetensorsInfo(path, cancel?): Promise<{ tensors: { name, dtype, shape, begin, end }[], metadata }>, in the order of
// the file; begin and end are the bytes of the file that hold the tensor
Napi::Value safetensors_info(const Napi::CallbackInfo& info) {
  const std::string path = read_string(info[0], "safetensorsInfo: path");
  return run_command(info.Env(), kCpu, read_flag(info[1]), [=]() -> Deliver {
    auto file = SafetensorsFile::open(path);
    return [file](Napi::Env env) -> Napi::Value {
      auto tensors = Napi::Array::New(env);
      for (const SafetensorsFile::Entry& entry : file->entries()) {
        auto t = Napi::Object::New(env);
        t.Set("name", entry.name);
        t.Set("dtype", entry.dtype);
        auto shape = Napi::Array::New(env);
        for (uint32_t i = 0; i < entry.shape.size(); i++) shape.Set(i, double(entry.shape[i]));
        t.Set("shape", shape);
        t.Set("begin", double(entry.begin));
        t.Set("end", double(entry.end));
        tensors.Set(tensors.Length(), t);
      }
      auto metadata = Napi::Object::New(env);
      for (const auto& [key, value] : file->metadata()) metadata.Set(key, value);
      auto o = Napi::Object::New(env);
      o.Set("tensors", tensors);
      o.Set("metadata", metadata);
      return o;
    };
  });
}

// safetensorsWriter(path, tensors: { name, dtype, shape }[], metadata: [string, string][], cancel?): Promise<SafetensorsWriter>
Napi::Value safetensors_writer(const Napi::CallbackInfo& info) {
  const std::string path = read_string(info[0], "safetensorsWriter: path");
  const std::vector<TensorInfo> tensors = read_tensor_infos(info[1], "safetensorsWriter: tensors");
  const Metadata metadata = read_metadata(info[2], "safetensorsWriter: metadata");
  return run_command(info.Env(), kCpu, read_flag(info[3]), [=]() -> Deliver {
    auto writer = std::make_shared<SafetensorsWriter>(path, tensors, metadata);
    return [writer](Napi::Env env) { return wrap(env, writer); };
  });
}

// safetensorsWrite(writer, name, bytes: Uint8Array, dtype, lora: products, cancel?): Promise<void>; the products of this
// tensor's module are added, and the result is converted into the declared type
Napi::Value safetensors_write(const Napi::CallbackInfo& info) {
  const auto writer = unwrap<SafetensorsWriter>(info[0], "safetensorsWrite: writer");
  const std::string name = read_string(info[1], "safetensorsWrite: name");
  const DType dtype = read_file_dtype(info[3], "safetensorsWrite: dtype");
  const TensorInfo declared = writer->describe(name);
  const std::vector<LoraProduct> products = read_products(info[4]);
  // buffers last: reading a property may run JavaScript that resizes them
  DF_CHECK(info[2].IsTypedArray() && info[2].As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array,
           "safetensorsWrite: bytes must be a Uint8Array");
  auto bytes = info[2].As<Napi::Uint8Array>();
  const Tensor source = Tensor::empty(declared.shape, dtype, kCpu);
  DF_CHECK(bytes.ByteLength() == source.bytes(), "safetensorsWrite: \"%s\" %s of %s needs %zu bytes, got %zu", name.c_str(),
           declared.shape.str().c_str(), dtype_name(dtype), source.bytes(), bytes.ByteLength());
  std::memcpy(source.raw(), bytes.Data(), source.bytes());
  return run_command(info.Env(), kCpu, read_flag(info[5]), [=]() -> Deliver {
    TensorMapSource plain({{name, source}});
    writer->write(name, converted(MergedSource(plain, products).read(name), declared.dtype, name));
    return [](Napi::Env env) { return env.Undefined(); };
  });
}

// safetensorsCommit(writer, cancel?): Promise<void>
Napi::Value safetensors_commit(const Napi::CallbackInfo& info) {
  const auto writer = unwrap<SafetensorsWriter>(info[0], "safetensorsCommit: writer");
  return run_command(info.Env(), kCpu, read_flag(info[1]), [=]() -> Deliver {
    writer->commit();
    return [](Napi::Env env) { return env.Undefined(); };
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
  bind<safetensors_info>(env, exports, "safetensorsInfo");
  bind<safetensors_writer>(env, exports, "safetensorsWriter");
  bind<safetensors_write>(env, exports, "safetensorsWrite");
  bind<safetensors_commit>(env, exports, "safetensorsCommit");
}

}  // namespace df::addon
