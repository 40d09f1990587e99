// expect: apply_transposed
#include "lora/adapters/adapted.hpp"
#include "lora/adapters/lora.hpp"

struct Base {
  using Scalar = float;
  static constexpr int Out = lora::Dynamic, In = lora::Dynamic;
  Eigen::MatrixXf weight;
  void apply(const auto& x, auto& y, lora::Executor* = nullptr) const { y.noalias() = weight * x; }
#ifdef LORA_CONTROL
  void apply_transposed(const auto& dy, auto& dx, lora::Executor* = nullptr) const {
    dx.noalias() = weight.transpose() * dy;
  }
#endif
  lora::Index rows() const { return weight.rows(); }
  lora::Index cols() const { return weight.cols(); }
  lora::Index bytes() const { return weight.size() * 4; }
  Eigen::MatrixXf columns(lora::Index first, lora::Index count) const { return weight.middleCols(first, count); }
};

lora::Index rows(const lora::Adapted<Base, lora::Lora<float>>& layer) { return layer.out_features(); }
