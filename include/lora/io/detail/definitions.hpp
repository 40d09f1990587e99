#pragma once
/// What of io is compiled once for a program by the target lora::compiled_io, instead of in each of its files: what is
/// no template, and templates for float and double. A header declares and describes it, and defines it at the end:
///
///   #ifdef LORA_IO_DEFINITIONS
///   LORA_IO_INLINE Json parse_json(std::string_view who, std::string_view text) { ... }
///   #endif
///   LORA_IO_INSTANCE(class AtomicFile<PosixFiles>)
///
/// Without that target every file has the definitions, as inline functions, and what it uses of the templates.

#include "lora/abi.hpp"

#if !defined(LORA_COMPILED_IO)
#define LORA_IO_DEFINITIONS
#define LORA_IO_INLINE inline
#define LORA_IO_INSTANCE(...)
#define LORA_IO_DOUBLE_INSTANCE(...)
#else
#ifdef LORA_COMPILED_IO_HERE  // compiled_io.cpp
#define LORA_IO_DEFINITIONS
#define LORA_IO_INLINE
#define LORA_IO_INSTANCE(...) template __VA_ARGS__;
#else
#define LORA_IO_INSTANCE(...) extern template __VA_ARGS__;
#endif
#ifdef LORA_COMPILED_IO_DOUBLE_HERE  // compiled_io_double.cpp, so that no process needs more than 1 GB
#define LORA_IO_DOUBLE_INSTANCE(...) template __VA_ARGS__;
#else
#define LORA_IO_DOUBLE_INSTANCE(...) extern template __VA_ARGS__;
#endif
#endif
