#include "lora/core/buffer.hpp"

#include "support/catch.hpp"
#include "support/heap.hpp"

TEST_CASE("buffer: grows to the largest size and never shrinks") {
  lora::Buffer<double> buffer;
  CHECK(buffer.bytes() == 0);
  const auto view = buffer.resize(64, 10);
  CHECK((view.rows() == 64 && view.cols() == 10));
  CHECK(buffer.bytes() == 64 * 10 * 8);
  const double* memory = view.data();

  buffer.resize(64, 3);
  CHECK((buffer.rows() == 64 && buffer.cols() == 3));
  CHECK(buffer.view().data() == memory);
  CHECK(buffer.bytes() == 64 * 10 * 8);
  CHECK(
      (buffer.resize(10, 64).data() == memory && buffer.rows() == 10));  // the same number of entries in another shape

  buffer.resize(64, 11);
  CHECK(buffer.bytes() == 64 * 11 * 8);
}

TEST_CASE("buffer: alternating batches allocate nothing after the largest") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Buffer<float> buffer;
  lora::Buffer<float, 8> narrow;
  const auto pass = [&](lora::Index samples) {
    return lora_test::heap_allocations_in([&] {
      buffer.resize(20, samples).setZero();
      narrow.resize(8, samples).setZero();
    });
  };
  CHECK(pass(64) == 2);
  CHECK(pass(48) == 0);
  CHECK(pass(64) == 0);
  CHECK(pass(1) == 0);
  CHECK(pass(65) == 2);
}

TEST_CASE("buffer: with compile-time sizes the memory lies inside the object") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  double sum = 0;
  const auto made = lora_test::heap_allocations_in([&] {
    lora::Buffer<float, 3, 5> buffer;
    buffer.resize(3, 5).setOnes();
    sum = static_cast<double>(buffer.view().sum());
  });
  CHECK(made == 0);
  CHECK(sum == 15);
  CHECK(lora::Buffer<float, 3, 5>().bytes() == 3 * 5 * 4);
  CHECK(lora::Buffer<float, 3, 5>().cols() == 5);
}

TEST_CASE("buffer: a view writes, a const view reads the same entries") {
  lora::Buffer<double, lora::Dynamic, 2> buffer;
  CHECK(buffer.view().cols() == 2);  // before the first resize: no rows, of the size that is known
  CHECK(buffer.view().rows() == 0);
  buffer.resize(2, 2) << 1, 2, 3, 4;
  CHECK(std::as_const(buffer).view()(1, 0) == 3);
  CHECK(std::as_const(buffer).view().data()[1] == 3);  // column-major
}
