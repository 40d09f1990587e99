// expect: lora: a visited part must be a lora::Parameter, an Eigen matrix or frozen base, a type with a static
#include "lora/core/parameters.hpp"

struct Net {
#ifdef LORA_CONTROL
  lora::Parameter<float> part;
#else
  double part = 0;
#endif
  static void visit(auto& self, auto&& f) { f("part", self.part); }
};

Eigen::Index count(const Net& net) { return lora::count_parameters(net).total; }
