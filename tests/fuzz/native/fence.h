// Buffer: memory that ends where a forbidden page begins, so that one byte too far is seen also in libraries that no sanitizer knows.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

class Buffer {
 public:
  explicit Buffer(std::size_t nbytes) : nbytes_(nbytes) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t usable = (nbytes + page - 1) / page * page;
    mapped_nbytes_ = usable + page;
    void* place = mmap(nullptr, mapped_nbytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED || mprotect(static_cast<char*>(place) + usable, page, PROT_NONE) != 0) std::abort();
    mapped_ = place;
    data_ = static_cast<std::uint8_t*>(place) + usable - nbytes;
  }
  Buffer(const std::uint8_t* bytes, std::size_t nbytes) : Buffer(nbytes) {
    if (nbytes != 0) std::memcpy(data_, bytes, nbytes);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { munmap(mapped_, mapped_nbytes_); }

  std::span<std::uint8_t> span() { return {data_, nbytes_}; }

 private:
  void* mapped_;
  std::size_t mapped_nbytes_;
  std::size_t nbytes_;
  std::uint8_t* data_;
};

inline void require(bool holds) {
  if (!holds) std::abort();
}
