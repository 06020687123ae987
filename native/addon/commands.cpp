#include "addon/commands.h"

#include <condition_variable>
#include <map>
#include <mutex>
#include <unordered_set>

#include "core/device_runtime.h"

namespace df::addon {
namespace {

// Functions to run on the JavaScript thread of one environment.
using JsTask = std::function<void(Napi::Env)>;

// Shared by the environment and its commands; outlives the environment while commands finish.
struct Channel {
  std::mutex mutex;
  std::condition_variable drained;
  napi_threadsafe_function tsfn = nullptr;  // null once the environment is going away
  std::unordered_set<std::atomic<bool>*> flags;
  size_t executing = 0;

  void post(JsTask task) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!tsfn) return;
    auto* data = new JsTask(std::move(task));
    if (napi_call_threadsafe_function(tsfn, data, napi_tsfn_nonblocking) != napi_ok) delete data;
  }
};

struct EnvironmentState {
  std::shared_ptr<Channel> channel = std::make_shared<Channel>();
  Napi::FunctionReference error_class;
  size_t pending = 0;  // promises not settled; the event loop is kept alive while there are any
};

EnvironmentState& state_of(Napi::Env env) { return *env.GetInstanceData<EnvironmentState>(); }

void call_js(napi_env env, napi_value, void*, void* data) {
  std::unique_ptr<JsTask> task(static_cast<JsTask*>(data));
  if (!env) return;
  Napi::HandleScope scope(env);
  try {
    (*task)(env);
  } catch (const Napi::Error& e) {
    napi_fatal_exception(env, e.Value());  // a progress callback threw: as an uncaught exception, not lost
  } catch (const std::exception& e) {
    napi_fatal_exception(env, Napi::Error::New(env, e.what()).Value());
  }
}

// Runs while the environment can still be used: cancel, wait until no command touches the channel, close it.
void cleanup(void* arg) {
  auto* channel = static_cast<std::shared_ptr<Channel>*>(arg);
  {
    std::unique_lock<std::mutex> lock((*channel)->mutex);
    for (auto* flag : (*channel)->flags) flag->store(true);
    (*channel)->drained.wait(lock, [&] { return (*channel)->executing == 0; });
    if ((*channel)->tsfn) napi_release_threadsafe_function((*channel)->tsfn, napi_tsfn_abort);
    (*channel)->tsfn = nullptr;
  }
  delete channel;
}

// The queues of the process, made on first use.
struct Queues {
  std::mutex mutex;
  std::map<std::pair<int, int>, std::shared_ptr<Queue>> queues;
  std::map<std::pair<int, int>, int> threads;

  Queue& of(Device device) {
    const std::pair<int, int> key{int(device.type), device.index};
    std::shared_ptr<Queue>& queue = queues[key];
    if (!queue) queue = std::make_shared<Queue>(device, threads.count(key) ? threads[key] : 0);
    return *queue;
  }
};
// Leaked on purpose: queue threads may still wait when static objects are destroyed at exit.
Queues& all_queues() {
  static auto* q = new Queues();
  return *q;
}

// Never destroyed, as the queues of the devices.
Queue& beside_queue() {
  static auto* q = new Queue(kCpu, 1);
  return *q;
}

using Function = std::function<void()>;
using Submit = std::function<void(Function run, Function finished, CancelFlag cancelled)>;

// Under the lock, so that set_threads cannot replace the queue in between.
void submit_to_device(Device device, Function run, Function finished, CancelFlag cancelled) {
  Queues& q = all_queues();
  std::lock_guard<std::mutex> lock(q.mutex);
  q.of(device).submit(std::move(run), std::move(finished), std::move(cancelled));
}

// The promise of a command that `submit` hands to a queue.
Napi::Promise run(Napi::Env env, CancelFlag cancelled, std::function<Deliver()> execute, const Submit& submit) {
  auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  EnvironmentState& state = state_of(env);
  std::shared_ptr<Channel> channel = state.channel;
  if (!cancelled) cancelled = std::make_shared<std::atomic<bool>>(false);
  if (state.pending++ == 0) napi_ref_threadsafe_function(env, channel->tsfn);
  {
    std::lock_guard<std::mutex> lock(channel->mutex);
    channel->executing++;
    channel->flags.insert(cancelled.get());
  }

  struct Outcome {
    Deliver deliver;
    ErrorCode code = ErrorCode::Internal;
    std::string message;
  };
  auto outcome = std::make_shared<Outcome>();
  auto run = [outcome, cancelled, execute = std::move(execute)] {
    try {
      if (cancelled->load()) fail(ErrorCode::Cancelled, "the operation was cancelled");
      outcome->deliver = execute();
    } catch (const Error& e) {
      outcome->code = e.code;
      outcome->message = e.what();
    } catch (const std::bad_alloc&) {
      outcome->code = ErrorCode::OutOfMemory;
      outcome->message = "out of memory";
    } catch (const std::exception& e) {
      outcome->message = e.what();
    }
  };
  auto finished = [channel, deferred, cancelled, outcome] {
    channel->post([deferred, outcome](Napi::Env env) {
      EnvironmentState& state = state_of(env);
      if (--state.pending == 0) napi_unref_threadsafe_function(env, state.channel->tsfn);
      if (!outcome->deliver) {
        deferred->Reject(make_error(env, outcome->code, outcome->message).Value());
        return;
      }
      try {
        deferred->Resolve(outcome->deliver(env));
      } catch (const Napi::Error& e) {
        deferred->Reject(e.Value());
      } catch (const std::exception& e) {
        deferred->Reject(make_error(env, ErrorCode::Internal, e.what()).Value());
      }
    });
    std::lock_guard<std::mutex> lock(channel->mutex);
    channel->flags.erase(cancelled.get());
    if (--channel->executing == 0) channel->drained.notify_all();
  };
  submit(std::move(run), std::move(finished), cancelled);
  return deferred->Promise();
}

}  // namespace

void init_commands(Napi::Env env) {
  auto* state = new EnvironmentState();
  env.SetInstanceData<EnvironmentState>(state);
  napi_value name = Napi::String::New(env, "deepfloyd-if");
  napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, call_js,
                                  &state->channel->tsfn);
  napi_unref_threadsafe_function(env, state->channel->tsfn);
  napi_add_env_cleanup_hook(env, cleanup, new std::shared_ptr<Channel>(state->channel));
}

void set_error_class(Napi::Env env, Napi::Function error_class) {
  state_of(env).error_class = Napi::Persistent(error_class);
}

Napi::Error make_error(Napi::Env env, ErrorCode code, const std::string& message) {
  EnvironmentState& s = state_of(env);
  if (!s.error_class.IsEmpty()) {
    Napi::Object e = s.error_class.New({Napi::String::New(env, error_code_name(code)), Napi::String::New(env, message)});
    return Napi::Error(env, e);
  }
  Napi::Error e = Napi::Error::New(env, message);
  e.Value().Set("code", error_code_name(code));
  return e;
}

Napi::Promise run_command(Napi::Env env, Device device, CancelFlag cancelled, std::function<Deliver()> execute) {
  get_threads(device);  // starts the queue, or throws before anything is counted
  if (device.type == DeviceType::Cuda)  // what the command gave to the device is done, or has failed, when it ends
    execute = [device, execute = std::move(execute)] {
      Deliver deliver = execute();
      device_runtime().synchronize(device);
      return deliver;
    };
  return run(env, std::move(cancelled), std::move(execute), [device](Function run, Function finished, CancelFlag flag) {
    submit_to_device(device, std::move(run), std::move(finished), std::move(flag));
  });
}

Napi::Promise run_beside(Napi::Env env, std::function<Deliver()> execute) {
  Queue& queue = beside_queue();  // starts it, or throws before anything is counted
  return run(env, nullptr, std::move(execute), [&queue](Function run, Function finished, CancelFlag flag) {
    queue.submit(std::move(run), std::move(finished), std::move(flag));
  });
}

std::shared_ptr<Napi::ObjectReference> pin(Napi::Env env, Napi::Object object) {
  // A reference must die on the JavaScript thread: the deleter is posted there.
  return {new Napi::ObjectReference(Napi::Persistent(object)), [channel = state_of(env).channel](Napi::ObjectReference* r) {
            r->SuppressDestruct();
            auto drop = std::shared_ptr<Napi::ObjectReference>(r);
            channel->post([drop](Napi::Env) { drop->Reset(); });
          }};
}

struct Progress::State {
  std::shared_ptr<Channel> channel;
  std::shared_ptr<Napi::ObjectReference> callback;
  std::mutex mutex;
  double done = 0, total = 0;
  bool posted = false;
};

Progress::Progress(Napi::Env env, Napi::Function callback) : state_(std::make_shared<State>()) {
  state_->channel = state_of(env).channel;
  state_->callback = pin(env, callback);
}

void Progress::report(double done, double total) const {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->done = done;
    state_->total = total;
    if (state_->posted) return;
    state_->posted = true;
  }
  state_->channel->post([state = state_](Napi::Env env) {
    double done, total;
    {
      std::lock_guard<std::mutex> lock(state->mutex);
      done = state->done;
      total = state->total;
      state->posted = false;
    }
    state->callback->Value().As<Napi::Function>().Call({Napi::Number::New(env, done), Napi::Number::New(env, total)});
  });
}

int get_threads(Device device) {
  Queues& q = all_queues();
  std::lock_guard<std::mutex> lock(q.mutex);
  return q.of(device).threads();
}

void set_threads(Device device, int threads) {
  Queues& q = all_queues();
  std::shared_ptr<Queue> old;  // joined outside of the lock
  std::lock_guard<std::mutex> lock(q.mutex);
  const std::pair<int, int> key{int(device.type), device.index};
  if (const auto found = q.queues.find(key); found != q.queues.end()) {
    DF_CHECK(found->second->idle(), "threads: %s is computing; set the number of threads before, or await it",
             device.str().c_str());
    old = std::move(found->second);
    q.queues.erase(found);
  }
  q.threads[key] = threads;
}

}  // namespace df::addon
