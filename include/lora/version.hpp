#pragma once

/// Version of the library, and the only place it is written: CMake reads these three numbers.
/// Semantic versioning; before 1.0 a new minor number may change the API.
#define LORA_VERSION_MAJOR 0
#define LORA_VERSION_MINOR 1
#define LORA_VERSION_PATCH 0

/// One number that grows with every release: 0.1.0 is 100, 1.2.3 is 10203.
#define LORA_VERSION (LORA_VERSION_MAJOR * 10000 + LORA_VERSION_MINOR * 100 + LORA_VERSION_PATCH)

#define LORA_DETAIL_QUOTE(x) #x
#define LORA_DETAIL_DOTTED(major, minor, patch) \
  LORA_DETAIL_QUOTE(major) "." LORA_DETAIL_QUOTE(minor) "." LORA_DETAIL_QUOTE(patch)

/// The same as text, "0.1.0".
#define LORA_VERSION_STRING LORA_DETAIL_DOTTED(LORA_VERSION_MAJOR, LORA_VERSION_MINOR, LORA_VERSION_PATCH)
