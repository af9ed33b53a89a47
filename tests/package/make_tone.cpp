// Writes two seconds of a decaying chord for the audio example to work on: make_tone <file>.
#include <cmath>
#include <cstdio>

#include "../../examples/streaming_audio/wav.hpp"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  Wav wav;
  wav.sample_rate = 48000;
  for (int i = 0; i < 96000; ++i) {
    const double t = i / 48000.0;
    double sample = 0;
    for (double pitch : {220.0, 277.2, 329.6}) sample += std::sin(6.283185307179586 * pitch * t);
    wav.samples.push_back(static_cast<float>(0.25 * sample * std::exp(-2 * t)));
  }
  const std::string problem = write_wav(argv[1], wav);
  Wav back;
  if (problem.empty() && read_wav(argv[1], &back).empty() && back.samples.size() == 96000) return 0;
  std::fprintf(stderr, "%s\n", problem.c_str());
  return 1;
}
