#pragma once

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssm/io/json.hpp"
#include "ssm/io/result.hpp"

SSM_NAMESPACE_BEGIN
namespace io {

enum class ModelType { mamba, falcon_mamba };

// The two spellings of a checkpoint: transformers' MambaForCausalLM, and mamba_ssm's
// MambaLMHeadModel (state-spaces/mamba-…), which differ in the keys of config.json and in the name
// of the embedding.
enum class KeyStyle { huggingface, original };

// What config.json says, under the Hugging Face names. Defaults are those of transformers'
// MambaConfig for keys that may be absent.
struct HuggingFaceConfig {
  ModelType model_type = ModelType::mamba;
  index_t hidden_size = 0;
  index_t intermediate_size = 0;
  index_t state_size = 16;
  index_t conv_kernel = 4;
  index_t time_step_rank = 0;
  index_t num_hidden_layers = 0;
  index_t vocab_size = 0;               // tokens of the vocabulary
  index_t pad_vocab_size_multiple = 1;  // rows of the embedding are padded to a multiple of it
  double layer_norm_epsilon = 1e-5;
  double mixer_rms_eps = 1e-6;  // of falcon_mamba's norms of dt, B and C
  bool use_bias = false;
  bool use_conv_bias = true;
  bool tie_word_embeddings = true;
  bool residual_in_fp32 = true;
  std::optional<index_t> bos_token_id;
  std::vector<index_t> eos_token_ids;  // generation stops at any of them
  std::string tokenizer;  // our own key: "bytes" when tokens are bytes; empty: unstated

  // Rows of the embedding and of the head.
  index_t padded_vocab_size() const noexcept {
    const index_t multiple = pad_vocab_size_multiple > 0 ? pad_vocab_size_multiple : 1;
    return (vocab_size + multiple - 1) / multiple * multiple;
  }
};

namespace detail {

// Reads typed values out of a JSON object; null counts as absent, as transformers writes None. The
// first value of a wrong type or range is reported, and every required key that is missing.
class ConfigReader {
 public:
  static constexpr index_t kLargest = index_t{1} << 31;

  ConfigReader(const nlohmann::json& object, std::string where)
      : object_(object), where_(std::move(where)) {}

  void integer(const char* key, index_t* out, index_t least = 1) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_number_integer() || !in_range(*value, least)) {
      const std::string range =
          "an integer in [" + std::to_string(least) + ", " + std::to_string(kLargest) + "]";
      return wrong(key, *value, range.c_str());
    }
    *out = value->get<index_t>();
  }
  void required_integer(const char* key, index_t* out) {
    if (find(key) == nullptr) missing_ += (missing_.empty() ? "" : ", ") + std::string(key);
    integer(key, out);
  }
  // The rank of dt: a number, or "auto" for ceil(width / 16).
  void rank(const char* key, index_t width, index_t* out) {
    const nlohmann::json* value = find(key);
    *out = (width + 15) / 16;
    if (value == nullptr || *value == "auto") return;
    if (value->is_string()) return wrong(key, *value, "\"auto\" or a positive integer");
    integer(key, out);
  }
  // Finite, in [0, 1e6].
  void number(const char* key, double* out) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return;
    const double found = value->is_number() ? value->get<double>() : -1.0;
    if (!(found >= 0 && found <= 1e6)) return wrong(key, *value, "a number in [0, 1e6]");
    *out = found;
  }
  void boolean(const char* key, bool* out) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_boolean()) return wrong(key, *value, "true or false");
    *out = value->get<bool>();
  }
  // One token, or a list of them; none when absent.
  void tokens(const char* key, std::vector<index_t>* out) {
    const nlohmann::json* value = find(key);
    if (value == nullptr) return;
    const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
    for (const nlohmann::json& token : list) {
      if (!token.is_number_integer() || !in_range(token, 0)) {
        return wrong(key, *value, "a token or a list of tokens, integers >= 0");
      }
      out->push_back(token.get<index_t>());
    }
  }
  // A string; anything else counts as absent.
  void string(const char* key, std::string* out) {
    const nlohmann::json* value = find(key);
    if (value != nullptr && value->is_string()) *out = value->get<std::string>();
  }
  // A string or boolean that has one supported value.
  void only(const char* key, const nlohmann::json& supported) {
    const nlohmann::json* value = find(key);
    if (value == nullptr || *value == supported) return;
    fail(ErrorCode::unsupported_model, key, *value, "supported is " + text(supported));
  }
  const nlohmann::json* find(const char* key) const {
    const auto at = object_.find(key);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }
  void fail(ErrorCode code, const char* key, const nlohmann::json& value,
            const std::string& allowed) {
    if (!result_) return;
    result_ = Result::error(code, where_ + ": " + key + " is " + text(value) + "; " + allowed);
  }

  Result result() const {
    if (missing_.empty() || !result_) return result_;
    return Result::error(ErrorCode::invalid_config, where_ + ": lacks " + missing_);
  }

 private:
  static std::string text(const nlohmann::json& value) {
    return clean_text(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  static bool in_range(const nlohmann::json& value, index_t least) {
    if (value.is_number_unsigned()) {
      const auto found = value.get<std::uint64_t>();
      return found <= static_cast<std::uint64_t>(kLargest) && static_cast<index_t>(found) >= least;
    }
    return value.get<index_t>() >= least && value.get<index_t>() <= kLargest;
  }
  void wrong(const char* key, const nlohmann::json& value, const char* allowed) {
    fail(ErrorCode::invalid_config, key, value, std::string("must be ") + allowed);
  }

  const nlohmann::json& object_;
  std::string where_;
  std::string missing_;
  Result result_;
};

// intermediate_size = floor(expand * width).
inline void read_expand(ConfigReader& reader, index_t width, index_t* intermediate_size) {
  double expand = 2;
  reader.number("expand", &expand);
  const double inner = std::floor(expand * static_cast<double>(width));
  if (width > 0 && !(inner >= 1 && inner <= static_cast<double>(ConfigReader::kLargest))) {
    reader.fail(
        ErrorCode::invalid_config, "expand", expand,
        "expand times the width must be in [1, " + std::to_string(ConfigReader::kLargest) + "]");
  } else {
    *intermediate_size = static_cast<index_t>(inner);
  }
}

inline Result read_huggingface(const nlohmann::json& object, const std::string& file,
                               HuggingFaceConfig* config) {
  ConfigReader reader(object, file);
  reader.required_integer("hidden_size", &config->hidden_size);
  reader.required_integer("num_hidden_layers", &config->num_hidden_layers);
  reader.required_integer("vocab_size", &config->vocab_size);
  read_expand(reader, config->hidden_size, &config->intermediate_size);
  reader.integer("intermediate_size", &config->intermediate_size);
  reader.integer("state_size", &config->state_size);
  reader.integer("conv_kernel", &config->conv_kernel);
  reader.rank("time_step_rank", config->hidden_size, &config->time_step_rank);
  reader.integer("pad_vocab_size_multiple", &config->pad_vocab_size_multiple);
  reader.number("layer_norm_epsilon", &config->layer_norm_epsilon);
  reader.number("mixer_rms_eps", &config->mixer_rms_eps);
  reader.boolean("use_bias", &config->use_bias);
  reader.boolean("use_conv_bias", &config->use_conv_bias);
  reader.boolean("tie_word_embeddings", &config->tie_word_embeddings);
  reader.boolean("residual_in_fp32", &config->residual_in_fp32);
  reader.only("hidden_act", "silu");
  std::vector<index_t> bos;
  reader.tokens("bos_token_id", &bos);
  if (!bos.empty()) config->bos_token_id = bos.front();
  reader.tokens("eos_token_id", &config->eos_token_ids);
  reader.string("tokenizer", &config->tokenizer);
  return reader.result();
}

inline Result read_original(const nlohmann::json& object, const std::string& file,
                            HuggingFaceConfig* config) {
  ConfigReader reader(object, file);
  reader.required_integer("d_model", &config->hidden_size);
  reader.required_integer("n_layer", &config->num_hidden_layers);
  reader.required_integer("vocab_size", &config->vocab_size);
  config->pad_vocab_size_multiple = 8;
  reader.integer("pad_vocab_size_multiple", &config->pad_vocab_size_multiple);
  reader.boolean("tie_embeddings", &config->tie_word_embeddings);
  reader.boolean("residual_in_fp32", &config->residual_in_fp32);
  reader.only("rms_norm", true);
  reader.only("attn_layer_idx", nlohmann::json::array());
  reader.only("d_intermediate", 0);
  const nlohmann::json* layer = reader.find("ssm_cfg");
  const nlohmann::json none = nlohmann::json::object();
  if (layer != nullptr && !layer->is_object()) {
    reader.fail(ErrorCode::invalid_config, "ssm_cfg", *layer, "must be an object");
    layer = nullptr;
  }
  ConfigReader block(layer == nullptr ? none : *layer, file + ": ssm_cfg");
  block.only("layer", "Mamba1");
  read_expand(block, config->hidden_size, &config->intermediate_size);
  block.integer("d_state", &config->state_size);
  block.integer("d_conv", &config->conv_kernel);
  block.rank("dt_rank", config->hidden_size, &config->time_step_rank);
  block.boolean("bias", &config->use_bias);
  block.boolean("conv_bias", &config->use_conv_bias);
  const Result result = reader.result();
  return result ? block.result() : result;
}

}  // namespace detail

// Reads the text of a config.json: Hugging Face's when it has a model_type, mamba_ssm's when it has
// d_model and n_layer instead. `file` names it in messages. On an error *config is as it was.
inline Result parse_config(std::string_view text, const std::string& file,
                           HuggingFaceConfig* config) {
  nlohmann::json object;
  Result result = detail::parse_json(text, file, &object);
  if (!result) return result;
  HuggingFaceConfig read;
  const bool original =
      !object.contains("model_type") && (object.contains("d_model") || object.contains("n_layer"));
  if (original) {
    result = detail::read_original(object, file, &read);
  } else {
    detail::ConfigReader reader(object, file);
    const nlohmann::json* type = reader.find("model_type");
    const nlohmann::json none = nullptr;
    if (type == nullptr || (*type != "mamba" && *type != "falcon_mamba")) {
      reader.fail(ErrorCode::unsupported_model, "model_type", type == nullptr ? none : *type,
                  "supported are mamba, falcon_mamba");
      return reader.result();
    }
    read.model_type = *type == "mamba" ? ModelType::mamba : ModelType::falcon_mamba;
    result = detail::read_huggingface(object, file, &read);
  }
  if (result) *config = read;
  return result;
}

// The text of a config.json in either style. The original style cannot say falcon_mamba, a
// layer_norm_epsilon other than 1e-5, or an intermediate_size that is not a multiple of
// hidden_size.
inline Result write_config(const HuggingFaceConfig& config, KeyStyle style,
                           const std::string& torch_dtype, std::string* text) {
  nlohmann::json object;
  if (style == KeyStyle::original) {
    if (config.model_type != ModelType::mamba) {
      return Result::error(ErrorCode::unsupported_model,
                           "config.json: model_type falcon_mamba has no original key style");
    }
    if (config.layer_norm_epsilon != 1e-5) {
      return Result::error(ErrorCode::unsupported_model,
                           "config.json: layer_norm_epsilon is not 1e-5, the only one that the "
                           "original key style has");
    }
    if (config.hidden_size <= 0 || config.intermediate_size % config.hidden_size != 0) {
      return Result::error(ErrorCode::unsupported_model,
                           "config.json: intermediate_size is " +
                               std::to_string(config.intermediate_size) +
                               "; in the original key style it must be a multiple of d_model, " +
                               std::to_string(config.hidden_size));
    }
    object["d_model"] = config.hidden_size;
    object["n_layer"] = config.num_hidden_layers;
    object["vocab_size"] = config.vocab_size;
    object["pad_vocab_size_multiple"] = config.pad_vocab_size_multiple;
    object["tie_embeddings"] = config.tie_word_embeddings;
    object["residual_in_fp32"] = config.residual_in_fp32;
    object["rms_norm"] = true;
    object["fused_add_norm"] = true;
    object["ssm_cfg"] = {{"layer", "Mamba1"},
                         {"d_state", config.state_size},
                         {"d_conv", config.conv_kernel},
                         {"expand", config.intermediate_size / config.hidden_size},
                         {"dt_rank", config.time_step_rank},
                         {"bias", config.use_bias},
                         {"conv_bias", config.use_conv_bias}};
  } else {
    const bool falcon = config.model_type == ModelType::falcon_mamba;
    object["model_type"] = falcon ? "falcon_mamba" : "mamba";
    object["architectures"] = {falcon ? "FalconMambaForCausalLM" : "MambaForCausalLM"};
    object["torch_dtype"] = torch_dtype;
    object["hidden_act"] = "silu";
    object["hidden_size"] = config.hidden_size;
    object["intermediate_size"] = config.intermediate_size;
    if (config.hidden_size > 0 && config.intermediate_size % config.hidden_size == 0) {
      object["expand"] = config.intermediate_size / config.hidden_size;
    }
    object["state_size"] = config.state_size;
    object["conv_kernel"] = config.conv_kernel;
    object["time_step_rank"] = config.time_step_rank;
    object["num_hidden_layers"] = config.num_hidden_layers;
    // transformers knows no padding: its vocabulary has as many tokens as the embedding has rows.
    object["vocab_size"] = config.padded_vocab_size();
    object["layer_norm_epsilon"] = config.layer_norm_epsilon;
    if (falcon) object["mixer_rms_eps"] = config.mixer_rms_eps;
    object["use_bias"] = config.use_bias;
    object["use_conv_bias"] = config.use_conv_bias;
    object["tie_word_embeddings"] = config.tie_word_embeddings;
    object["residual_in_fp32"] = config.residual_in_fp32;
    if (config.bos_token_id) object["bos_token_id"] = *config.bos_token_id;
    if (config.eos_token_ids.size() == 1) object["eos_token_id"] = config.eos_token_ids.front();
    if (config.eos_token_ids.size() > 1) object["eos_token_id"] = config.eos_token_ids;
    if (!config.tokenizer.empty()) object["tokenizer"] = config.tokenizer;
  }
  *text = object.dump(2) + "\n";
  return Result::ok();
}

// The library's configuration of the same model. Model is LanguageModelConfig or a struct with its
// fields; this layer does not know it.
template <class Model>
Model model_config(const HuggingFaceConfig& config) {
  Model model;
  model.block.d_model = config.hidden_size;
  model.block.d_inner = config.intermediate_size;
  model.block.d_state = config.state_size;
  model.block.d_conv = config.conv_kernel;
  model.block.dt_rank = config.time_step_rank;
  model.block.bias = config.use_bias;
  model.block.conv_bias = config.use_conv_bias;
  model.block.dt_b_c_norm = config.model_type == ModelType::falcon_mamba;
  model.block.dt_b_c_eps = config.mixer_rms_eps;
  model.n_layer = config.num_hidden_layers;
  model.vocab_size = config.padded_vocab_size();
  model.tie_embeddings = config.tie_word_embeddings;
  model.norm_eps = config.layer_norm_epsilon;
  return model;
}

// The way back; tokens and padding, which Model does not have, are taken to be none. A B rule other
// than Euler's has no Hugging Face name.
template <class Model>
Result huggingface_config(const Model& model, HuggingFaceConfig* config) {
  if (model.block.b_rule != decltype(model.block.b_rule)::euler) {
    return Result::error(ErrorCode::unsupported_model,
                         "config.json: b_rule must be euler, the only one with a model_type");
  }
  if (!model.block.gate) {
    return Result::error(ErrorCode::unsupported_model,
                         "config.json: gate must be true: no model_type is without one");
  }
  HuggingFaceConfig out;
  out.model_type = model.block.dt_b_c_norm ? ModelType::falcon_mamba : ModelType::mamba;
  out.hidden_size = model.block.d_model;
  out.intermediate_size = model.block.d_inner;
  out.state_size = model.block.d_state;
  out.conv_kernel = model.block.d_conv;
  out.time_step_rank = model.block.dt_rank;
  out.num_hidden_layers = model.n_layer;
  out.vocab_size = model.vocab_size;
  out.layer_norm_epsilon = model.norm_eps;
  out.mixer_rms_eps = model.block.dt_b_c_eps;
  out.use_bias = model.block.bias;
  out.use_conv_bias = model.block.conv_bias;
  out.tie_word_embeddings = model.tie_embeddings;
  *config = out;
  return Result::ok();
}

}  // namespace io
SSM_NAMESPACE_END
