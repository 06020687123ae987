// From JavaScript to a device's queue and back. A command runs on the queue's thread and touches no JavaScript; its
// result is converted on the JavaScript thread. Every environment (main thread, worker) counts its pending commands;
// when it ends, they are cancelled and awaited before its memory goes away.
#pragma once
#include <atomic>
#include <functional>
#include <memory>

#include "addon/napi_setup.h"
#include "core/device.h"
#include "core/error.h"
#include "core/queue.h"

namespace df::addon {

using CancelFlag = std::shared_ptr<std::atomic<bool>>;
/// Makes the JavaScript result, on the JavaScript thread.
using Deliver = std::function<Napi::Value(Napi::Env)>;

/// Prepares the environment's state; called once from module initialisation.
void init_commands(Napi::Env env);
/// The class of the errors thrown: new (code, message).
void set_error_class(Napi::Env env, Napi::Function error_class);
/// A JavaScript error with `code`, of the class set above.
Napi::Error make_error(Napi::Env env, ErrorCode code, const std::string& message);

/// Runs `execute` on the queue of `device`; the promise resolves to what its Deliver makes. A df::Error rejects it with
/// the same code, std::bad_alloc with OUT_OF_MEMORY.
Napi::Promise run_command(Napi::Env env, Device device, CancelFlag cancelled, std::function<Deliver()> execute);
/// Runs `execute` as run_command does, on a thread of its own: for short work on pixels that must wait neither behind
/// the commands of a device nor on the JavaScript thread.
Napi::Promise run_beside(Napi::Env env, std::function<Deliver()> execute);
/// Keeps a JavaScript object alive; the last owner may be on any thread.
std::shared_ptr<Napi::ObjectReference> pin(Napi::Env env, Napi::Object object);
/// For use inside `execute`: calls `callback` soon on the JavaScript thread (progress). Dropped when the environment ends.
class Progress {
 public:
  Progress(Napi::Env env, Napi::Function callback);
  /// Thread-safe. At most one call is under way at a time; newer values replace waiting ones.
  void report(double done, double total) const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Threads of the queue of `device`; starts it on first use. Queues belong to the process.
int get_threads(Device device);
/// Threads of the queue of `device` from now on; 0 = available cores. Throws INVALID_ARGUMENT while it has commands.
void set_threads(Device device, int threads);

/// Calls a binding and turns df::Error into a JavaScript error with its code.
template <Napi::Value (*Binding)(const Napi::CallbackInfo&)>
Napi::Value translate(const Napi::CallbackInfo& info) {
  try {
    return Binding(info);
  } catch (const Error& e) {
    throw make_error(info.Env(), e.code, e.what());
  } catch (const std::bad_alloc&) {
    throw make_error(info.Env(), ErrorCode::OutOfMemory, "out of memory");
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& e) {
    throw make_error(info.Env(), ErrorCode::Internal, e.what());
  }
}

}  // namespace df::addon
