#include "build_info.h"

#include <blosc2.h>

#include "crc32c.h"
#include "zstd_prototypes.h"
#if defined(CHUNKSTORE_JPEG)
#include "jpeg.h"
#endif

namespace chunkstore {

std::vector<std::pair<std::string, std::string>> build_info() {
#if defined(CHUNKSTORE_JPEG)
  const std::string jpeg = jpeg_version();
#else
  const std::string jpeg;
#endif
#if defined(__clang__)
  const std::string compiler = __VERSION__;
#else
  const std::string compiler = "GCC " __VERSION__;
#endif
  return {{"blosc2", BLOSC2_VERSION_STRING},       {"zstd", ZSTD_versionString()}, {"lz4", LZ4_versionString()},
          {"jpeg", jpeg},                          {"crc32c", crc32c_implementation()}, {"compiler", compiler}};
}

}  // namespace chunkstore
