#include "lora/core/path.hpp"

#include "support/catch.hpp"
#include "support/heap.hpp"

namespace {

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t value = 14695981039346656037ull;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return value;
}

}  // namespace

TEST_CASE("path: segments are joined by dots") {
  const lora::Path root;
  CHECK(root.str().empty());
  const lora::Path encoder(&root, "encoder");
  const lora::Path layers(&encoder, "layers");
  const lora::Path third(&layers, lora::Name(lora::Index(3)));
  const lora::Path weight(&third, "weight");
  CHECK(encoder.str() == "encoder");
  CHECK(third.str() == "encoder.layers.3");
  CHECK(weight.str() == "encoder.layers.3.weight");
  for (const lora::Index number : {0, 7, 10, 120, 9876543}) {
    CHECK(lora::Path(&root, lora::Name(number)).str() == std::to_string(number));
    CHECK(lora::Path(&encoder, lora::Name("fc", number)).str() == "encoder.fc" + std::to_string(number));
  }
}

TEST_CASE("path: the hash is FNV-1a of the text") {
  const lora::Path root;
  const lora::Path fc(&root, lora::Name("fc", 1));
  const lora::Path weight(&fc, "weight");
  CHECK(root.hash() == 0xcbf29ce484222325ull);
  CHECK(weight.hash() == fnv1a("fc1.weight"));
  CHECK(weight.hash() == lora::Path(&root, "fc1.weight").hash());
  CHECK(weight.hash() != fc.hash());
}

TEST_CASE("path: ends_with matches the whole name or its end after a dot") {
  const lora::Path root;
  const lora::Path attention(&root, "attention");
  const lora::Path query(&attention, "q_proj");
  CHECK(query.ends_with("q_proj"));
  CHECK(query.ends_with("attention.q_proj"));
  CHECK_FALSE(query.ends_with("proj"));
  CHECK_FALSE(query.ends_with("tention.q_proj"));
  CHECK_FALSE(query.ends_with("attention"));
  CHECK_FALSE(query.ends_with("an.attention.q_proj"));
  CHECK(attention.ends_with("attention"));
}

TEST_CASE("path: what lies inside an adapter that is not selected is not active") {
  const lora::Path root;
  const lora::Path layer(&root, "fc1");
  const lora::Path selected(&layer, "german", true);
  const lora::Path idle(&layer, "french", false);
  CHECK((layer.active() && !layer.in_adapter()));
  CHECK((selected.active() && selected.in_adapter()));
  CHECK((!idle.active() && idle.in_adapter()));
  const lora::Path inner(&idle, "A");
  CHECK((!inner.active() && inner.in_adapter()));
  CHECK_FALSE(lora::Path(&idle, "nested", true).active());
}

TEST_CASE("path: walking and hashing need no heap") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  std::uint64_t hash = 0;
  const auto made = lora_test::heap_allocations_in([&] {
    const lora::Path root;
    const lora::Path part(&root, "a_name_that_is_longer_than_any_small_string_buffer");
    hash = lora::Path(&part, lora::Name("layer", 17)).hash();
  });
  CHECK(made == 0);
  CHECK(hash == fnv1a("a_name_that_is_longer_than_any_small_string_buffer.layer17"));
}
