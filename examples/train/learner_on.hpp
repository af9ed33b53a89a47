#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include "learner.hpp"

#include <ssm/io/huggingface.hpp>
#include <ssm/owned.hpp>

// A Learner for weights and activations stored as T. Device brings a backend and its memory:
//
//   Device::Backend backend()
//   Status status():     whether all the memory asked for is there
//   Device::Twin(device, bytes):
//                        host() and device() are arenas over two memories of that size, which
//                        upload() and download() copy, in the order of the calls; upload_to(twin)
//                        copies to the device memory of another. A host device's are one and the
//                        same
//   Status run(i, f):    f(), or its i-th recording played again; i is 0 or 1
//   Status copy(…):      from device memory to device memory
//   Status wait():       until all that was queued is done
template <class T, class Device>
class LearnerOn final : public Learner {
  using Accum = ssm::accum_t<T>;
  using Backend = typename Device::Backend;
  using Step = ssm::TrainingStep<T, Backend>;
  using Twin = typename Device::Twin;
  using index_t = ssm::index_t;

 public:
  // Null, with a message, if something is missing.
  static std::unique_ptr<Learner> make(std::unique_ptr<Device> device,
                                       const LearnerConfig& config) {
    auto learner = std::make_unique<LearnerOn>(std::move(device), config);
    if (!learner->create()) return nullptr;
    return learner;
  }

  LearnerOn(std::unique_ptr<Device> device, const LearnerConfig& config)
      : own_device_(std::move(device)),
        device_(*own_device_),
        config_(config),
        training_(config.training) {}

  ssm::TrainingBatch next_batch() override {
    ssm::Arena arena = batches_[taken_ % 2].host();
    // The step before the last one read its tokens from here.
    if (!succeeded(batches_[taken_ % 2].wait_for_upload())) return {};
    return ssm::TrainingBatch::carve(training_, arena);
  }

  bool step(const ssm::AdamWStep& step) override {
    ssm::Arena arena = batches_[taken_ % 2].host();
    ssm::TrainingBatch::carve(training_, arena).step(0) = step;
    const Twin& batch = batches_[taken_ % 2];
    // Every batch goes to the same place, where the recorded step reads it.
    if (!succeeded(batch.upload_to(batches_[0]))) return false;
    const Backend backend = device_.backend();
    // The recordings differ in the direction in which a carried state goes.
    const index_t turn = training_.carry_state ? turn_ % 2 : 0;
    if (!succeeded(device_.run(turn, [&] { return step_.run(backend, turn); }))) return false;
    ssm::Arena slots = losses_.device();
    const index_t rows = training_.micro_batches;
    Accum* const slot = slots.allocate<Accum>(kLosses * rows) + taken_ % kLosses * rows;
    if (!succeeded(device_.copy(step_.losses().data(), slot, bytes_of<Accum>(rows)))) return false;
    ++taken_;
    ++turn_;
    if (taken_ - read_ == kLosses) return collect_losses();
    return true;
  }

  bool mean_loss(double* loss) override {
    if (!collect_losses()) return false;
    *loss = count_ == 0 ? 0 : sum_ / static_cast<double>(count_);
    sum_ = 0;
    count_ = 0;
    return true;
  }

  bool feed(const ssm::View<const index_t, 2>& ids, const ssm::View<float, 3>& logits,
            ssm::Logits which, bool first) override {
    const index_t batch = ids.extent(0);
    const index_t length = ids.extent(1);
    const auto carve_ids = [&](ssm::Arena arena) {
      return arena.view<index_t, 2>({batch, length});
    };
    const auto carve_state = [&](ssm::Arena arena) {
      return ssm::LanguageModelState<T>::carve(training_.model, config_.evaluation_batch, arena)
          .rows(0, batch);
    };
    const auto carve_logits = [&](ssm::Arena arena) {
      return logits.present()
                 ? arena.view<Accum, 3>({batch, logits.extent(1), training_.model.vocab_size})
                 : ssm::View<Accum, 3>();
    };
    if (first) {
      set_zero(carve_state(evaluation_state_.host()));
      if (!succeeded(evaluation_state_.upload())) return false;
    }
    const auto staged = carve_ids(evaluation_ids_.host());
    for (index_t b = 0; b < batch; ++b) {
      for (index_t t = 0; t < length; ++t) staged(b, t) = ids(b, t);
    }
    if (!succeeded(evaluation_ids_.upload())) return false;
    if (!succeeded(step_.model().forward(device_.backend(), carve_ids(evaluation_ids_.device()),
                                         carve_logits(evaluation_logits_.device()),
                                         carve_state(evaluation_state_.device()),
                                         evaluation_memory_.device(), which))) {
      return false;
    }
    if (logits.present() && !succeeded(evaluation_logits_.download())) return false;
    if (!succeeded(device_.wait())) return false;  // the staged ids are free again
    const auto found = carve_logits(evaluation_logits_.host());
    for (index_t i = 0; i < found.size(); ++i) {
      logits.data()[i] = static_cast<float>(found.data()[i]);
    }
    return true;
  }

  bool save(const std::filesystem::path& path, const ssm::io::TrainingProgress& progress) override {
    return fetch() && succeeded(ssm::io::save_training(path, on_host_, progress));
  }

  bool load(const std::filesystem::path& path, ssm::io::TrainingProgress* progress) override {
    if (!succeeded(device_.wait()) ||
        !succeeded(ssm::io::load_training(path, on_host_, progress)) ||
        !succeeded(state_.upload())) {
      return false;
    }
    turn_ = progress->step;
    return prepare();
  }

  bool write_model(const std::filesystem::path& directory, const std::string& tokenizer) override {
    if (!fetch()) return false;
    ssm::OwnedWorkspace memory;
    const auto rounded = memory.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelParameters<ssm::bf16>::carve(training_.model, arena, arena);
    });
    visit_together(
        [](const char*, const auto& from, const auto& to) {
          using To = typename std::decay_t<decltype(to)>::value_type;
          for (index_t i = 0; i < from.size(); ++i) {
            to.data()[i] = To(static_cast<float>(from.data()[i]));
          }
        },
        on_host_.parameters, rounded);
    ssm::io::HuggingFaceConfig config;
    if (!succeeded(ssm::io::huggingface_config(training_.model, &config))) return false;
    config.tokenizer = tokenizer;
    return succeeded(ssm::io::save_checkpoint(directory, config, rounded));
  }

 private:
  static constexpr index_t kLosses = 256;  // steps between two readings, at most

  bool create() {
    if (!succeeded(validate(training_))) return false;
    ssm::Arena list_counter;
    ssm::Arena data_counter;
    ssm::TrainingState<T>::carve(training_, list_counter, data_counter);
    lists_ = ssm::OwnedWorkspace(2 * (list_counter.bytes_needed() + ssm::Arena::kAlignment));
    state_ = Twin(device_, data_counter.bytes_needed());
    ssm::Arena lists = lists_.arena();
    ssm::Arena arena = state_.host();
    on_host_ = ssm::TrainingState<T>::carve(training_, lists, arena);
    arena = state_.device();
    on_device_ = ssm::TrainingState<T>::carve(training_, lists, arena);

    ssm::Arena counter;
    ssm::TrainingBatch::carve(training_, counter);
    for (Twin& batch : batches_) batch = Twin(device_, counter.bytes_needed());
    arena = batches_[0].device();
    device_batch_ = ssm::TrainingBatch::carve(training_, arena);

    const auto bytes = Step::bytes(device_.backend(), training_, on_device_);
    step_lists_ = ssm::OwnedWorkspace(bytes.host);
    step_memory_ = Twin(device_, bytes.data, /*with_host=*/false);
    losses_ = Twin(device_, room_for<Accum>(kLosses * training_.micro_batches));

    const index_t batch = config_.evaluation_batch;
    const index_t length = config_.evaluation_length;
    evaluation_ids_ = Twin(device_, room_for<index_t>(batch * length));
    evaluation_logits_ =
        Twin(device_, room_for<Accum>(batch * length * training_.model.vocab_size));
    counter = ssm::Arena();
    ssm::LanguageModelState<T>::carve(training_.model, batch, counter);
    evaluation_state_ = Twin(device_, counter.bytes_needed());
    if (!succeeded(device_.status())) return false;
    ssm::Random random(config_.seed);
    initialize(training_, on_host_, random);
    if (!succeeded(state_.upload()) || !prepare()) return false;
    evaluation_memory_ =
        Twin(device_, step_.model().workspace_bytes(device_.backend(), batch, length),
             /*with_host=*/false);
    return succeeded(device_.status());
  }

  template <class U>
  static std::size_t bytes_of(index_t count) {
    return static_cast<std::size_t>(count) * sizeof(U);
  }
  // For one array in an arena.
  template <class U>
  static std::size_t room_for(index_t count) {
    return bytes_of<U>(count) + ssm::Arena::kAlignment;
  }

  bool prepare() {
    return succeeded(step_.prepare(device_.backend(), training_, on_device_, device_batch_,
                                   step_lists_.arena(), step_memory_.device()));
  }

  // The state as it is after the steps queued so far, in host memory.
  bool fetch() { return succeeded(state_.download()) && succeeded(device_.wait()); }

  bool collect_losses() {
    if (!succeeded(losses_.download()) || !succeeded(device_.wait())) return false;
    ssm::Arena arena = losses_.host();
    const Accum* const slots = arena.allocate<Accum>(kLosses * training_.micro_batches);
    for (; read_ < taken_; ++read_, ++count_) {
      for (index_t m = 0; m < training_.micro_batches; ++m) {
        sum_ += static_cast<double>(slots[read_ % kLosses * training_.micro_batches + m]);
      }
    }
    return true;
  }

  std::unique_ptr<Device> own_device_;
  Device& device_;
  LearnerConfig config_;
  ssm::TrainingConfig training_;
  ssm::OwnedWorkspace lists_, step_lists_;
  Twin state_, batches_[2], step_memory_, losses_;
  Twin evaluation_ids_, evaluation_logits_, evaluation_state_, evaluation_memory_;
  ssm::TrainingState<T> on_host_, on_device_;
  ssm::TrainingBatch device_batch_;
  Step step_;
  index_t turn_ = 0;              // steps since the first of the training
  index_t taken_ = 0, read_ = 0;  // steps since this learner was made; losses read
  double sum_ = 0;
  index_t count_ = 0;
};
