#include "addon/bindings.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  df::addon::init_commands(env);
  df::addon::bind_system(env, exports);
  df::addon::bind_tensors(env, exports);
  df::addon::bind_files(env, exports);
  df::addon::bind_images(env, exports);
  df::addon::bind_benchmarks(env, exports);
  df::addon::bind_models(env, exports);
  df::addon::bind_sampling(env, exports);
  df::addon::bind_training(env, exports);
  return exports;
}

NODE_API_MODULE(if_native, init)
