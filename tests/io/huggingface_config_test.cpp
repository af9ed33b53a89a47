#include <gtest/gtest.h>

#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "io/scratch_directory.hpp"
#include "ssm/io/huggingface.hpp"
#include "ssm/io/huggingface_config.hpp"
#include "ssm/model/language_model_parameters.hpp"

namespace {

namespace io = ssm::io;
using io::ErrorCode;
using io::HuggingFaceConfig;
using ssm::index_t;

HuggingFaceConfig parse(const std::string& text) {
  HuggingFaceConfig config;
  const io::Result result = io::parse_config(text, "config.json", &config);
  EXPECT_TRUE(result) << result.message();
  return config;
}

// Hugging Face's required keys and what else the test says.
std::string huggingface(const std::string& more) {
  return R"({"model_type":"mamba","hidden_size":768,"num_hidden_layers":24,"vocab_size":50277)" +
         (more.empty() ? "" : "," + more) + "}";
}
std::string original(const std::string& more) {
  return R"({"d_model":768,"n_layer":24,"vocab_size":50277)" + (more.empty() ? "" : "," + more) +
         "}";
}

void expect_error(const std::string& text, ErrorCode code,
                  std::initializer_list<const char*> parts) {
  HuggingFaceConfig config;
  config.hidden_size = 42;
  const io::Result result = io::parse_config(text, "config.json", &config);
  EXPECT_EQ(result.code(), code) << result.message();
  EXPECT_EQ(result.message().rfind("config.json: ", 0), 0u) << result.message();
  for (const char* part : parts) {
    EXPECT_NE(result.message().find(part), std::string::npos)
        << "no \"" << part << "\" in: " << result.message();
  }
  EXPECT_EQ(config.hidden_size, 42);
  EXPECT_EQ(config.num_hidden_layers, 0);
}

TEST(Config, GoldenFiles) {
  const HuggingFaceConfig c =
      parse(ssm_test::read_bytes(std::string(SSM_GOLDEN_DIR) + "/falcon_mamba_dev/config.json"));
  EXPECT_EQ(c.model_type, io::ModelType::falcon_mamba);
  EXPECT_EQ(c.hidden_size, 32);
  EXPECT_EQ(c.intermediate_size, 64);
  EXPECT_EQ(c.state_size, 16);
  EXPECT_EQ(c.conv_kernel, 4);
  EXPECT_EQ(c.time_step_rank, 2);
  EXPECT_EQ(c.num_hidden_layers, 2);
  EXPECT_EQ(c.vocab_size, 53);
  EXPECT_EQ(c.padded_vocab_size(), 53);
  EXPECT_EQ(c.layer_norm_epsilon, 1e-5);
  EXPECT_EQ(c.mixer_rms_eps, 1e-6);
  EXPECT_FALSE(c.use_bias);
  EXPECT_TRUE(c.use_conv_bias);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_TRUE(c.residual_in_fp32);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_ids, std::vector<index_t>{0});

  const HuggingFaceConfig untied =
      parse(ssm_test::read_bytes(std::string(SSM_GOLDEN_DIR) + "/mamba1_untied_dev/config.json"));
  EXPECT_EQ(untied.model_type, io::ModelType::mamba);
  EXPECT_EQ(untied.hidden_size, 24);
  EXPECT_EQ(untied.state_size, 8);
  EXPECT_EQ(untied.time_step_rank, 3);
  EXPECT_TRUE(untied.use_bias);
  EXPECT_FALSE(untied.use_conv_bias);
  EXPECT_FALSE(untied.tie_word_embeddings);
}

TEST(Config, DefaultsOfAbsentKeys) {
  const HuggingFaceConfig c = parse(huggingface(""));
  EXPECT_EQ(c.intermediate_size, 1536);
  EXPECT_EQ(c.time_step_rank, 48);
  EXPECT_EQ(c.state_size, 16);
  EXPECT_EQ(c.conv_kernel, 4);
  EXPECT_EQ(c.padded_vocab_size(), 50277);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_FALSE(c.bos_token_id.has_value());
  EXPECT_TRUE(c.eos_token_ids.empty());
}

TEST(Config, DerivedSizes) {
  EXPECT_EQ(parse(huggingface(R"("expand":3)")).intermediate_size, 2304);
  EXPECT_EQ(parse(huggingface(R"("expand":1.5)")).intermediate_size, 1152);
  EXPECT_EQ(parse(huggingface(R"("expand":3,"intermediate_size":100)")).intermediate_size, 100);
  EXPECT_EQ(parse(huggingface(R"("time_step_rank":"auto")")).time_step_rank, 48);
  EXPECT_EQ(parse(huggingface(R"("time_step_rank":5)")).time_step_rank, 5);
  EXPECT_EQ(parse(huggingface(R"("time_step_rank":null)")).time_step_rank, 48);
  EXPECT_EQ(parse(huggingface(R"("pad_vocab_size_multiple":8)")).padded_vocab_size(), 50280);
  EXPECT_EQ(parse(huggingface(R"("eos_token_id":[3,4])")).eos_token_ids,
            (std::vector<index_t>{3, 4}));
  // ceil(hidden_size / 16)
  EXPECT_EQ(parse(R"({"model_type":"mamba","hidden_size":33,"num_hidden_layers":1,"vocab_size":1})")
                .time_step_rank,
            3);
}

TEST(Config, OriginalFormat) {
  const HuggingFaceConfig c = parse(
      original(R"("ssm_cfg":{},"rms_norm":true,"residual_in_fp32":true,"fused_add_norm":true,)"
               R"("pad_vocab_size_multiple":8)"));
  EXPECT_EQ(c.model_type, io::ModelType::mamba);
  EXPECT_EQ(c.hidden_size, 768);
  EXPECT_EQ(c.intermediate_size, 1536);
  EXPECT_EQ(c.num_hidden_layers, 24);
  EXPECT_EQ(c.time_step_rank, 48);
  EXPECT_EQ(c.vocab_size, 50277);
  EXPECT_EQ(c.padded_vocab_size(), 50280);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_EQ(parse(original("")).padded_vocab_size(), 50280);  // mamba_ssm's default is 8

  const HuggingFaceConfig d = parse(original(
      R"("ssm_cfg":{"layer":"Mamba1","d_state":8,"d_conv":3,"expand":1,"dt_rank":7,"bias":true,)"
      R"("conv_bias":false,"dt_min":0.001},"tie_embeddings":false,"pad_vocab_size_multiple":1,)"
      R"("attn_layer_idx":[],"attn_cfg":{},"d_intermediate":0)"));
  EXPECT_EQ(d.state_size, 8);
  EXPECT_EQ(d.conv_kernel, 3);
  EXPECT_EQ(d.intermediate_size, 768);
  EXPECT_EQ(d.time_step_rank, 7);
  EXPECT_TRUE(d.use_bias);
  EXPECT_FALSE(d.use_conv_bias);
  EXPECT_FALSE(d.tie_word_embeddings);
  EXPECT_EQ(d.padded_vocab_size(), 50277);
  EXPECT_EQ(parse(original(R"("ssm_cfg":{"dt_rank":"auto"})")).time_step_rank, 48);
}

// The configurations of state-spaces/mamba-*-hf carry both sets of keys.
TEST(Config, ModelTypeDecidesBetweenTwoSetsOfKeys) {
  const HuggingFaceConfig c =
      parse(huggingface(R"("d_model":1,"n_layer":2,"ssm_cfg":{},"pad_vocab_size_multiple":8)"));
  EXPECT_EQ(c.hidden_size, 768);
  EXPECT_EQ(c.num_hidden_layers, 24);
}

TEST(BadConfig, WrongModelTypeNamesTheSupportedOnes) {
  const ErrorCode code = ErrorCode::unsupported_model;
  expect_error(ssm_test::read_bytes(std::string(SSM_GOLDEN_DIR) + "/mamba2_dev/config.json"), code,
               {"model_type is \"mamba2\"", "supported are mamba, falcon_mamba"});
  expect_error(R"({"model_type":"llama"})", code, {"\"llama\"", "mamba, falcon_mamba"});
  expect_error("{}", code, {"model_type is null", "mamba, falcon_mamba"});
  expect_error(R"({"model_type":3})", code, {"model_type is 3"});
  // As Python writes an infinite limit of the step.
  expect_error(R"({"model_type":"mamba2","time_step_limit":[0.0,Infinity]})", code, {"\"mamba2\""});
}

TEST(BadConfig, OptionsThatAreNotSupported) {
  const ErrorCode code = ErrorCode::unsupported_model;
  expect_error(huggingface(R"("hidden_act":"gelu")"), code, {"hidden_act is \"gelu\"", "\"silu\""});
  expect_error(original(R"("rms_norm":false)"), code, {"rms_norm is false", "supported is true"});
  expect_error(original(R"("attn_layer_idx":[3])"), code, {"attn_layer_idx is [3]"});
  expect_error(original(R"("d_intermediate":64)"), code, {"d_intermediate is 64"});
  expect_error(original(R"("ssm_cfg":{"layer":"Mamba2"})"), code,
               {"ssm_cfg: layer is \"Mamba2\"", "\"Mamba1\""});
}

TEST(BadConfig, MissingKeysAreAllListed) {
  expect_error(R"({"model_type":"mamba"})", ErrorCode::invalid_config,
               {"lacks hidden_size, num_hidden_layers, vocab_size"});
  expect_error(R"({"model_type":"mamba","num_hidden_layers":2,"hidden_size":null})",
               ErrorCode::invalid_config, {"lacks hidden_size, vocab_size"});
  expect_error(R"({"d_model":4})", ErrorCode::invalid_config, {"lacks n_layer, vocab_size"});
}

TEST(BadConfig, ValuesOutOfRange) {
  const ErrorCode code = ErrorCode::invalid_config;
  for (const char* bad : {"0", "-1", "2147483649", "18446744073709551615", "1.0", "1e3", "\"16\"",
                          "true", "[]", "{}"}) {
    expect_error(huggingface(std::string("\"state_size\":") + bad), code,
                 {"state_size is ", bad[0] == '1' && bad[1] == 'e' ? "1000" : bad,
                  "must be an integer in [1, 2147483648]"});
  }
  expect_error(huggingface(R"("time_step_rank":"big")"), code, {"time_step_rank is \"big\""});
  expect_error(huggingface(R"("time_step_rank":0)"), code, {"time_step_rank is 0"});
  expect_error(huggingface(R"("layer_norm_epsilon":-1e-5)"), code, {"a number in [0, 1e6]"});
  expect_error(huggingface(R"("layer_norm_epsilon":"1e-5")"), code, {"a number in [0, 1e6]"});
  expect_error(huggingface(R"("use_bias":1)"), code, {"use_bias is 1", "true or false"});
  expect_error(huggingface(R"("expand":0.001)"), code, {"expand is 0.001", "[1, 2147483648]"});
  expect_error(huggingface(R"("eos_token_id":-1)"), code, {"eos_token_id is -1"});
  expect_error(huggingface(R"("eos_token_id":[1,"2"])"), code, {"eos_token_id is [1,\"2\"]"});
  expect_error(original(R"("ssm_cfg":3)"), code, {"ssm_cfg is 3", "an object"});
  expect_error(original(R"("ssm_cfg":{"d_state":0})"), code, {"ssm_cfg: d_state is 0"});
}

TEST(BadConfig, NotJson) {
  const ErrorCode code = ErrorCode::invalid_json;
  expect_error("", code, {"not valid JSON at byte 1"});
  expect_error("{\"a\":", code, {"not valid JSON"});
  expect_error("[]", code, {"must be a JSON object"});
  expect_error("3", code, {"must be a JSON object"});
  expect_error(std::string("{}\0", 3), code, {"null byte"});
  expect_error("{\"\xff\":1}", code, {"not valid JSON"});
  expect_error(R"({"model_type":"mamba","x":1e999})", code, {"1e999"});
  expect_error(R"({"model_type":"mamba","x":Infinite})", code, {"not valid JSON"});
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += "[";
  expect_error(deep, code, {"nested deeper than 64 levels"});
}

TEST(BadConfig, DuplicateKeys) {
  expect_error(huggingface(R"("hidden_size":32)"), ErrorCode::duplicate_name,
               {"'hidden_size' appears twice"});
  expect_error(huggingface(R"("a":[{"b":1,"b":2}])"), ErrorCode::duplicate_name, {"'b'"});
  parse(huggingface(R"("a":[{"b":1},{"b":2}])"));
}

TEST(Config, PythonFloatsInsideStringsAreLeftAlone) {
  const std::string clean = io::detail::without_python_floats(
      R"({"NaN":NaN,"a\"Infinity":[-Infinity,Infinity],"b\\":NaN})");
  EXPECT_EQ(clean, R"({"NaN":null,"a\"Infinity":[null,null],"b\\":null})");
}

// B2 of the test matrix: the published sizes of the released checkpoints.
TEST(Config, ParameterCountsOfTheReleasedModels) {
  const auto count = [](index_t d_model, index_t n_layer) {
    const HuggingFaceConfig config = parse(
        "{\"d_model\":" + std::to_string(d_model) + ",\"n_layer\":" + std::to_string(n_layer) +
        R"(,"vocab_size":50277,"ssm_cfg":{},"rms_norm":true,"pad_vocab_size_multiple":8})");
    return ssm::parameter_count(io::model_config<ssm::LanguageModelConfig>(config));
  };
  EXPECT_EQ(count(768, 24), 129135360);
  EXPECT_EQ(count(1024, 48), 371516416);
  EXPECT_EQ(count(1536, 48), 793204224);
  EXPECT_EQ(count(2048, 48), 1372178432);
  EXPECT_EQ(count(2560, 64), 2768345600);
}

TEST(Config, ThereAndBack) {
  const char* const own_sizes =
      R"("state_size":8,"conv_kernel":3,"time_step_rank":5,"layer_norm_epsilon":1e-6,)"
      R"("use_bias":true,"use_conv_bias":false,"tie_word_embeddings":false,"expand":3)";
  const char* const own_tokens =
      R"("bos_token_id":1,"eos_token_id":[2,3],"tokenizer":"bytes","residual_in_fp32":false)";
  const char* const texts[] = {own_sizes, own_tokens, ""};
  for (const io::KeyStyle style : {io::KeyStyle::huggingface, io::KeyStyle::original}) {
    for (const char* more : texts) {
      HuggingFaceConfig wanted = parse(huggingface(more));
      wanted.pad_vocab_size_multiple = 8;
      if (style == io::KeyStyle::original) wanted.layer_norm_epsilon = 1e-5;
      std::string text;
      ASSERT_TRUE(io::write_config(wanted, style, "float32", &text));
      const HuggingFaceConfig found = parse(text);
      EXPECT_EQ(found.hidden_size, wanted.hidden_size);
      EXPECT_EQ(found.intermediate_size, wanted.intermediate_size);
      EXPECT_EQ(found.state_size, wanted.state_size);
      EXPECT_EQ(found.conv_kernel, wanted.conv_kernel);
      EXPECT_EQ(found.time_step_rank, wanted.time_step_rank);
      EXPECT_EQ(found.num_hidden_layers, wanted.num_hidden_layers);
      EXPECT_EQ(found.padded_vocab_size(), 50280);
      EXPECT_EQ(found.use_bias, wanted.use_bias);
      EXPECT_EQ(found.use_conv_bias, wanted.use_conv_bias);
      EXPECT_EQ(found.tie_word_embeddings, wanted.tie_word_embeddings);
      EXPECT_EQ(found.residual_in_fp32, wanted.residual_in_fp32);
      EXPECT_EQ(found.layer_norm_epsilon, wanted.layer_norm_epsilon);
      if (style == io::KeyStyle::huggingface) {
        EXPECT_EQ(found.vocab_size, 50280);
        EXPECT_EQ(found.bos_token_id, wanted.bos_token_id);
        EXPECT_EQ(found.eos_token_ids, wanted.eos_token_ids);
        EXPECT_EQ(found.tokenizer, wanted.tokenizer);
      } else {
        EXPECT_EQ(found.vocab_size, 50277);
      }
    }
  }
}

TEST(Config, WhatAStyleCannotSay) {
  HuggingFaceConfig config = parse(huggingface(R"("intermediate_size":100)"));
  std::string text = "as it was";
  io::Result result = io::write_config(config, io::KeyStyle::original, "float32", &text);
  EXPECT_EQ(result.code(), ErrorCode::unsupported_model);
  EXPECT_NE(result.message().find("intermediate_size is 100"), std::string::npos);
  config.intermediate_size = 1536;
  config.layer_norm_epsilon = 1e-6;
  result = io::write_config(config, io::KeyStyle::original, "float32", &text);
  EXPECT_EQ(result.code(), ErrorCode::unsupported_model);
  EXPECT_NE(result.message().find("layer_norm_epsilon"), std::string::npos);
  config.layer_norm_epsilon = 1e-5;
  config.model_type = io::ModelType::falcon_mamba;
  result = io::write_config(config, io::KeyStyle::original, "float32", &text);
  EXPECT_EQ(result.code(), ErrorCode::unsupported_model);
  EXPECT_EQ(text, "as it was");
}

TEST(Config, TheLibrarysConfigurationAndBack) {
  ssm::LanguageModelConfig model;
  model.block = ssm::mamba_config(48);
  model.block.d_state = 5;
  model.block.d_conv = 7;
  model.block.dt_b_c_norm = true;
  model.block.dt_b_c_eps = 1e-4;
  model.block.bias = true;
  model.block.conv_bias = false;
  model.n_layer = 3;
  model.vocab_size = 11;
  model.tie_embeddings = false;
  model.norm_eps = 1e-3;
  HuggingFaceConfig config;
  ASSERT_TRUE(io::huggingface_config(model, &config));
  EXPECT_EQ(config.model_type, io::ModelType::falcon_mamba);
  const auto back = io::model_config<ssm::LanguageModelConfig>(config);
  EXPECT_EQ(back.block.d_model, 48);
  EXPECT_EQ(back.block.d_inner, 96);
  EXPECT_EQ(back.block.d_state, 5);
  EXPECT_EQ(back.block.d_conv, 7);
  EXPECT_EQ(back.block.dt_rank, 3);
  EXPECT_TRUE(back.block.dt_b_c_norm);
  EXPECT_EQ(back.block.dt_b_c_eps, 1e-4);
  EXPECT_TRUE(back.block.bias);
  EXPECT_FALSE(back.block.conv_bias);
  EXPECT_EQ(back.n_layer, 3);
  EXPECT_EQ(back.vocab_size, 11);
  EXPECT_FALSE(back.tie_embeddings);
  EXPECT_EQ(back.norm_eps, 1e-3);
  model.block.gate = false;
  EXPECT_EQ(io::huggingface_config(model, &config).message(),
            "config.json: gate must be true: no model_type is without one");
  model.block.gate = true;
  model.block.b_rule = ssm::BRule::zero_order_hold;
  EXPECT_EQ(io::huggingface_config(model, &config).code(), ErrorCode::unsupported_model);
}

TEST(Index, FilesOfTheSameDirectoryOnly) {
  std::map<std::string, std::string> map;
  ASSERT_TRUE(io::parse_index(
      R"({"metadata":{"total_size":8},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})",
      "index.json", &map));
  EXPECT_EQ(map.size(), 2u);
  EXPECT_EQ(map["b"], "2.safetensors");

  const auto expect_bad = [&](const std::string& text, ErrorCode code, const char* part) {
    const io::Result result = io::parse_index(text, "index.json", &map);
    EXPECT_EQ(result.code(), code) << result.message();
    EXPECT_NE(result.message().find(part), std::string::npos) << result.message();
    EXPECT_EQ(map.size(), 2u);
  };
  const ErrorCode invalid = ErrorCode::invalid_config;
  for (const char* file : {"../x", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "C:x"}) {
    expect_bad(std::string(R"({"weight_map":{"a":")") + file + "\"}}", invalid,
               "must be the name of a file in the same directory");
  }
  expect_bad(R"({"weight_map":{"a":1}})", invalid, "weight_map puts 'a' in ''");
  expect_bad(R"({"weight_map":[]})", invalid, "must have an object weight_map");
  expect_bad("{}", invalid, "must have an object weight_map");
  expect_bad("[]", ErrorCode::invalid_json, "must be a JSON object");
  expect_bad(R"({"weight_map":{"a":"1","a":"2"}})", ErrorCode::duplicate_name, "'a'");
}

}  // namespace
