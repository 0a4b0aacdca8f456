// build_info: what this build consists of, for `chunkstore info --build` and bug reports.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace chunkstore {

// (component, version) in a fixed order; an empty version says that the component is not built in.
std::vector<std::pair<std::string, std::string>> build_info();

}  // namespace chunkstore
