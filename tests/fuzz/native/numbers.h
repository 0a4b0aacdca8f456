// Numbers: what a fuzzer's bytes say, taken one after another.
#pragma once

#include <cstddef>
#include <cstdint>

// Takes numbers from the fuzzer's bytes; 0 when they are used up.
class Numbers {
 public:
  Numbers(const std::uint8_t* bytes, std::size_t nbytes) : bytes_(bytes), nbytes_(nbytes) {}
  std::uint8_t small() { return at_ < nbytes_ ? bytes_[at_++] : 0; }
  std::size_t left() const { return nbytes_ - at_; }
  const std::uint8_t* rest() const { return bytes_ + at_; }
  // Mostly small ones of either sign, sometimes any number of 64 bits.
  std::int64_t any() {
    const std::uint8_t first = small();
    if (first < 250) return static_cast<std::int64_t>(first) - 8;
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | small();
    return static_cast<std::int64_t>(value);
  }

 private:
  const std::uint8_t* bytes_;
  std::size_t nbytes_;
  std::size_t at_ = 0;
};
