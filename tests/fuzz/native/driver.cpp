// A fuzzer for machines without libFuzzer: changes the inputs of a folder at random for some seconds, and runs each. It has no
// coverage to go by, and takes libFuzzer's arguments as far as it knows them. The last input is in the file `last-input` when a
// sanitizer ends the process.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t nbytes);

namespace {

using Input = std::vector<std::uint8_t>;

void change(Input& input, const std::vector<Input>& inputs, std::mt19937_64& random) {
  static constexpr std::uint8_t kTelling[] = {0x00, 0x01, 0x7F, 0x80, 0xFF};
  const auto below = [&](std::size_t n) { return n == 0 ? 0 : random() % n; };
  for (std::size_t times = 1 + below(6); times != 0; --times) {
    if (input.empty()) input.push_back(0);
    const std::size_t at = below(input.size());
    const std::size_t length = 1 + below(std::min<std::size_t>(16, input.size() - at));
    switch (below(7)) {
      case 0: input[at] ^= static_cast<std::uint8_t>(1u << below(8)); break;
      case 1: input[at] = static_cast<std::uint8_t>(random()); break;
      case 2: std::fill_n(input.begin() + at, length, kTelling[below(std::size(kTelling))]); break;
      case 3: input.erase(input.begin() + at, input.begin() + at + length); break;
      case 4: input.insert(input.begin() + at, length, static_cast<std::uint8_t>(random())); break;
      case 5: input.resize(at); break;
      default: {
        const Input& other = inputs[below(inputs.size())];
        if (!other.empty()) input.insert(input.begin() + at, other.begin() + below(other.size()), other.end());
      }
    }
    if (input.size() > (1u << 16)) input.resize(1u << 16);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Input> inputs{{}};
  double seconds = 10;
  std::uint64_t seed = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("-max_total_time=")) seconds = std::atof(&argv[i][16]);
    if (argument.starts_with("-seed=")) seed = std::strtoull(&argv[i][6], nullptr, 10);
    if (argument.starts_with("-")) continue;
    for (const auto& file : std::filesystem::directory_iterator(argument)) {
      std::ifstream stream(file.path(), std::ios::binary);
      inputs.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    }
  }
  for (const Input& input : inputs) LLVMFuzzerTestOneInput(input.data(), input.size());
  std::mt19937_64 random(seed);
  const auto begin = std::chrono::steady_clock::now();
  std::uint64_t runs = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds) {
    Input input = inputs[random() % inputs.size()];
    change(input, inputs, random);
    std::ofstream("last-input", std::ios::binary).write(reinterpret_cast<const char*>(input.data()), static_cast<long>(input.size()));
    LLVMFuzzerTestOneInput(input.data(), input.size());
    ++runs;
  }
  std::fprintf(stderr, "Done %llu runs\n", static_cast<unsigned long long>(runs));
}
