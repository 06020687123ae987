// Native objects in JavaScript: externals with a type tag each, so that a wrong handle is a thrown error and never a
// wild pointer. `dispose` drops the reference at once; the garbage collector is the safety net and is told the sizes.
#pragma once
#include <memory>
#include <mutex>

#include "addon/commands.h"
#include "addon/napi_setup.h"
#include "core/random.h"
#include "core/tensor.h"
#include "io/safetensors.h"
#include "nn/t5_encoder.h"
#include "nn/unet.h"
#include "training/trainer.h"

namespace df::addon {

/// A trainer, and the lock under which its commands run: those of several replicas meet on one queue.
struct SharedTrainer {
  template <class... Arguments> explicit SharedTrainer(const Arguments&... arguments) : trainer(arguments...) {}
  Trainer trainer;
  std::mutex mutex;
};

/// Tag and name of a handle type; specialised below for every type that crosses the boundary.
template <class T> struct HandleType;
#define DF_HANDLE(Type, Name, Low)                                        \
  template <> struct HandleType<Type> {                                   \
    static constexpr const char* name = Name;                             \
    static constexpr napi_type_tag tag = {0x6466696668616e64ull, Low};    \
  };
DF_HANDLE(Tensor, "Tensor", 1)
DF_HANDLE(TorchGenerator, "TorchGenerator", 2)
DF_HANDLE(UNet, "UNet", 3)
DF_HANDLE(T5Encoder, "T5Encoder", 4)
DF_HANDLE(Conditioning, "Conditioning", 5)
DF_HANDLE(std::atomic<bool>, "CancelToken", 6)
DF_HANDLE(SharedTrainer, "Trainer", 7)
DF_HANDLE(SafetensorsWriter, "SafetensorsWriter", 20)
#undef DF_HANDLE

template <class T> struct Handle {
  std::shared_ptr<T> object;  // null after dispose
  int64_t bytes = 0;          // told to the garbage collector
};

/// `bytes`: memory that goes away with the handle.
template <class T> Napi::Value wrap(Napi::Env env, std::shared_ptr<T> object, int64_t bytes = 0) {
  auto* handle = new Handle<T>{std::move(object), bytes};
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
  auto external = Napi::External<Handle<T>>::New(env, handle, [](Napi::Env env, Handle<T>* h) {
    Napi::MemoryManagement::AdjustExternalMemory(env, -h->bytes);
    delete h;
  });
  const napi_type_tag tag = HandleType<T>::tag;
  external.TypeTag(&tag);
  return external;
}

template <class T> Handle<T>& handle_of(const Napi::Value& value, const char* parameter) {
  const napi_type_tag tag = HandleType<T>::tag;
  if (value.IsExternal()) {
    auto external = value.As<Napi::External<Handle<T>>>();
    if (external.CheckTypeTag(&tag)) return *external.Data();
  }
  fail(ErrorCode::InvalidArgument, "%s: expected a %s handle", parameter, HandleType<T>::name);
}

/// The object behind a handle. Throws INVALID_ARGUMENT for a handle of another type or one that was disposed.
template <class T> std::shared_ptr<T> unwrap(const Napi::Value& value, const char* parameter) {
  Handle<T>& h = handle_of<T>(value, parameter);
  DF_CHECK(h.object, "%s: this %s was disposed", parameter, HandleType<T>::name);
  return h.object;
}
template <class T> std::shared_ptr<T> unwrap_optional(const Napi::Value& value, const char* parameter) {
  return value.IsNull() || value.IsUndefined() ? nullptr : unwrap<T>(value, parameter);
}
inline Tensor unwrap_tensor(const Napi::Value& value, const char* parameter) { return *unwrap<Tensor>(value, parameter); }
inline Tensor unwrap_optional_tensor(const Napi::Value& value, const char* parameter) {
  const auto t = unwrap_optional<Tensor>(value, parameter);
  return t ? *t : Tensor();
}
inline Napi::Value wrap_tensor(Napi::Env env, const Tensor& t) {
  return wrap(env, std::make_shared<Tensor>(t), int64_t(t.bytes()));
}

/// Drops the object of a handle of type T; false when the value is not such a handle.
template <class T> bool dispose(Napi::Env env, const Napi::Value& value) {
  const napi_type_tag tag = HandleType<T>::tag;
  auto external = value.As<Napi::External<Handle<T>>>();
  if (!external.CheckTypeTag(&tag)) return false;
  Handle<T>& h = *external.Data();
  h.object.reset();
  Napi::MemoryManagement::AdjustExternalMemory(env, -h.bytes);
  h.bytes = 0;
  return true;
}

}  // namespace df::addon
