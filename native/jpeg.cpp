#include "jpeg.h"

#include <csetjmp>
#include <cstdio>
#include <stdexcept>

#include <jpeglib.h>
#include <jerror.h>

namespace chunkstore {
namespace {

// A progressive image of a few kilobytes may name thousands of scans over all its pixels, each of which costs a pass.
constexpr int kMaxScans = 500;

struct Failure {
  jpeg_error_mgr manager;  // first, so that libjpeg's pointer to it is a pointer to this
  std::jmp_buf handler;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void fail(j_common_ptr info) {
  auto* failure = reinterpret_cast<Failure*>(info->err);
  failure->manager.format_message(info, failure->message);
  std::longjmp(failure->handler, 1);
}

void judge_message(j_common_ptr info, int level) {
  if (level >= 0) return;  // traces
  switch (info->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_ADOBE_XFORM:
    case JWRN_JFIF_MAJOR:
    case JWRN_TOO_MUCH_DATA:
      ++info->err->num_warnings;
      return;
    default:
      fail(info);
  }
}

void print_nothing(j_common_ptr) {}

void limit_scans(j_common_ptr info) {
  if (info->is_decompressor == 0) return;
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
    auto* failure = reinterpret_cast<Failure*>(info->err);
    std::snprintf(failure->message, sizeof failure->message, "more than %d scans", kMaxScans);
    std::longjmp(failure->handler, 1);
  }
}

// libjpeg's objects. longjmp passes over no destructor: everything between setjmp and it is C, or trivial.
struct Decoder {
  jpeg_decompress_struct info;
  Failure failure;
  jpeg_progress_mgr progress;
};

void open_decoder(Decoder& decoder, std::span<const std::uint8_t> data) {
  decoder.info.err = jpeg_std_error(&decoder.failure.manager);
  decoder.failure.manager.error_exit = fail;
  decoder.failure.manager.emit_message = judge_message;
  decoder.failure.manager.output_message = print_nothing;
  jpeg_create_decompress(&decoder.info);
  decoder.progress = {};
  decoder.progress.progress_monitor = limit_scans;
  decoder.info.progress = &decoder.progress;
  // Older releases take a pointer to non-const, and never write through it.
  jpeg_mem_src(&decoder.info, const_cast<unsigned char*>(data.data()), static_cast<unsigned long>(data.size()));
  jpeg_read_header(&decoder.info, TRUE);
}

JpegSize size_of(const jpeg_decompress_struct& info) {
  return {info.image_height, info.image_width, static_cast<std::size_t>(info.num_components)};
}

// All libjpeg calls of a decode; `false` with a message in decoder.failure. It holds no object with a destructor.
bool run(Decoder& decoder, std::span<const std::uint8_t> data, std::uint8_t* out, const JpegSize* wanted, JpegSize* found) {
  decoder.info.mem = nullptr;  // lets jpeg_destroy know that nothing was created yet
  decoder.failure.message[0] = '\0';
  if (setjmp(decoder.failure.handler) != 0) return false;
  open_decoder(decoder, data);
  *found = size_of(decoder.info);
  if (out == nullptr) return true;
  if (found->height != wanted->height || found->width != wanted->width) {
    std::snprintf(decoder.failure.message, sizeof decoder.failure.message,
                  "the image is %zu x %zu (height x width), the output %zu x %zu", found->height, found->width, wanted->height,
                  wanted->width);
    return false;
  }
  if (decoder.info.jpeg_color_space == JCS_CMYK || decoder.info.jpeg_color_space == JCS_YCCK) {
    std::snprintf(decoder.failure.message, sizeof decoder.failure.message, "a CMYK image; Pillow decodes those");
    return false;
  }
  decoder.info.out_color_space = wanted->components == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_start_decompress(&decoder.info);
  const std::size_t row_nbytes = wanted->width * wanted->components;
  while (decoder.info.output_scanline < decoder.info.output_height) {
    JSAMPROW row = out + decoder.info.output_scanline * row_nbytes;
    jpeg_read_scanlines(&decoder.info, &row, 1);
  }
  jpeg_finish_decompress(&decoder.info);
  return true;
}

JpegSize run_or_throw(std::span<const std::uint8_t> data, std::uint8_t* out, const JpegSize* wanted) {
  if (data.empty()) throw std::invalid_argument("jpeg: no data");
  Decoder decoder;
  JpegSize found{};
  const bool ok = run(decoder, data, out, wanted, &found);
  jpeg_destroy_decompress(&decoder.info);
  if (!ok) throw std::invalid_argument(std::string("jpeg: ") + decoder.failure.message);
  return found;
}

}  // namespace

JpegSize jpeg_size(std::span<const std::uint8_t> data) { return run_or_throw(data, nullptr, nullptr); }

void jpeg_decode(std::span<const std::uint8_t> data, std::span<std::uint8_t> out, std::size_t height, std::size_t width,
                 std::size_t components) {
  if (components != 1 && components != 3) throw std::invalid_argument("jpeg: the output has neither 1 nor 3 components");
  // Quotients, so that no product can wrap around.
  if (height == 0 || width == 0 || out.size() / height / width != components || out.size() != height * width * components) {
    throw std::invalid_argument("jpeg: the output's length is not height x width x components");
  }
  const JpegSize wanted{height, width, components};
  run_or_throw(data, out.data(), &wanted);
}

#define CHUNKSTORE_TEXT_OF(value) #value
#define CHUNKSTORE_TEXT(value) CHUNKSTORE_TEXT_OF(value)

std::string jpeg_version() {
#if defined(LIBJPEG_TURBO_VERSION)
  return CHUNKSTORE_TEXT(LIBJPEG_TURBO_VERSION);
#else
  return "libjpeg " CHUNKSTORE_TEXT(JPEG_LIB_VERSION);
#endif
}

}  // namespace chunkstore
