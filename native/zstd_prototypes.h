// The few functions of zstd and lz4 that are used, from zstd 1.x's and lz4 1.x's stable interfaces.
//
// The blosc2 wheel ships both inside libblosc2.a but without zstd.h and lz4.h, so their prototypes stand here. Only calls
// whose signatures the two projects promise to keep are declared.
// https://facebook.github.io/zstd/zstd_manual.html, https://github.com/lz4/lz4/blob/dev/lib/lz4.h
#pragma once

#include <cstddef>

extern "C" {

struct ZSTD_DCtx_s;
ZSTD_DCtx_s* ZSTD_createDCtx();
std::size_t ZSTD_freeDCtx(ZSTD_DCtx_s* context);
std::size_t ZSTD_decompressDCtx(ZSTD_DCtx_s* context, void* out, std::size_t out_nbytes, const void* data, std::size_t nbytes);
std::size_t ZSTD_findFrameCompressedSize(const void* data, std::size_t nbytes);
unsigned long long ZSTD_getFrameContentSize(const void* data, std::size_t nbytes);
unsigned ZSTD_isError(std::size_t code);
const char* ZSTD_getErrorName(std::size_t code);
const char* ZSTD_versionString();

const char* LZ4_versionString();
int LZ4_decompress_safe(const char* data, char* out, int nbytes, int out_nbytes);

}  // extern "C"

namespace chunkstore {

// ZSTD_CONTENTSIZE_UNKNOWN and ZSTD_CONTENTSIZE_ERROR of zstd.h.
inline constexpr unsigned long long kZstdContentSizeUnknown = 0ULL - 1;
inline constexpr unsigned long long kZstdContentSizeError = 0ULL - 2;

}  // namespace chunkstore
