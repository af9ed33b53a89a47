#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

// Just enough of the WAV format for the example: 16-bit PCM or 32-bit float in (channels averaged
// to one), 16-bit PCM out.
struct Wav {
  std::uint32_t sample_rate = 0;
  std::vector<float> samples;  // one channel, -1 to 1
};

namespace wav_detail {

template <class Number>
Number read_at(const std::vector<unsigned char>& bytes, std::size_t at) {
  Number value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

template <class Number>
void append(std::vector<unsigned char>& bytes, Number value) {
  unsigned char raw[sizeof(value)];
  std::memcpy(raw, &value, sizeof(value));
  bytes.insert(bytes.end(), raw, raw + sizeof(value));
}

inline void append(std::vector<unsigned char>& bytes, const char* tag) {
  bytes.insert(bytes.end(), tag, tag + 4);
}

}  // namespace wav_detail

// Empty on success, else what is wrong with the file.
inline std::string read_wav(const std::string& path, Wav* wav) {
  using wav_detail::read_at;
  std::ifstream in(path, std::ios::binary);
  if (!in) return path + ": cannot open";
  const std::vector<unsigned char> bytes{std::istreambuf_iterator<char>(in), {}};
  if (bytes.size() < 12 || std::memcmp(bytes.data(), "RIFF", 4) != 0 ||
      std::memcmp(bytes.data() + 8, "WAVE", 4) != 0) {
    return path + ": is not a RIFF WAVE file";
  }
  std::uint16_t format = 0, channels = 0, bits = 0;
  for (std::size_t at = 12; at + 8 <= bytes.size();) {
    const char* const tag = reinterpret_cast<const char*>(bytes.data() + at);
    const std::size_t begin = at + 8;
    const std::size_t size =
        std::min<std::size_t>(read_at<std::uint32_t>(bytes, at + 4), bytes.size() - begin);
    if (std::memcmp(tag, "fmt ", 4) == 0 && size >= 16) {
      format = read_at<std::uint16_t>(bytes, begin);
      channels = read_at<std::uint16_t>(bytes, begin + 2);
      wav->sample_rate = read_at<std::uint32_t>(bytes, begin + 4);
      bits = read_at<std::uint16_t>(bytes, begin + 14);
      // WAVE_FORMAT_EXTENSIBLE keeps the format in the first bytes of its sub-format.
      if (format == 0xfffe && size >= 26) format = read_at<std::uint16_t>(bytes, begin + 24);
    }
    if (std::memcmp(tag, "data", 4) == 0) {
      const bool pcm16 = format == 1 && bits == 16;
      const bool float32 = format == 3 && bits == 32;
      if (channels == 0 || !(pcm16 || float32)) {
        return path + ": format " + std::to_string(format) + " of " + std::to_string(bits) +
               " bits, must be 1 (PCM) of 16 or 3 (float) of 32";
      }
      const std::size_t width = bits / 8u;
      const std::size_t frames = size / (width * channels);
      wav->samples.assign(frames, 0.0f);
      for (std::size_t i = 0; i < frames * channels; ++i) {
        const std::size_t where = begin + i * width;
        const float value = pcm16 ? static_cast<float>(read_at<std::int16_t>(bytes, where)) / 32768
                                  : read_at<float>(bytes, where);
        wav->samples[i / channels] += value / static_cast<float>(channels);
      }
      return "";
    }
    at = begin + size + size % 2;
  }
  return path + ": has no data chunk";
}

inline std::string write_wav(const std::string& path, const Wav& wav) {
  using wav_detail::append;
  const auto data_bytes = static_cast<std::uint32_t>(2 * wav.samples.size());
  std::vector<unsigned char> bytes;
  append(bytes, "RIFF");
  append(bytes, std::uint32_t{36} + data_bytes);
  append(bytes, "WAVE");
  append(bytes, "fmt ");
  append(bytes, std::uint32_t{16});
  append(bytes, std::uint16_t{1});
  append(bytes, std::uint16_t{1});
  append(bytes, wav.sample_rate);
  append(bytes, wav.sample_rate * 2);
  append(bytes, std::uint16_t{2});
  append(bytes, std::uint16_t{16});
  append(bytes, "data");
  append(bytes, data_bytes);
  for (float sample : wav.samples) {
    const float limited = sample < -1 ? -1 : sample > 1 ? 1 : sample;
    append(bytes, static_cast<std::int16_t>(limited * 32767));
  }
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  out.flush();
  return out ? "" : path + ": cannot write";
}
