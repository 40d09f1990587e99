// expect: lora: visit takes its object by value, so that what happens to its parts is lost with the copy
#include "lora/core/parameters.hpp"

struct Net {
  lora::Parameter<float> part;
#ifdef LORA_CONTROL
  static void visit(auto& self, auto&& f) { f("part", self.part); }
#else
  static void visit(auto self, auto&& f) { f("part", self.part); }
#endif
};

/// The other ways to write it stay allowed.
struct Named {
  Net net;
  template <class Self, class F>
  static void visit(Self& self, F&& f) {
    f("net", self.net);
  }
};
struct Twice {
  Named named;
  static void visit(Twice& self, auto&& f) { f("named", self.named); }
  static void visit(const Twice& self, auto&& f) { f("named", self.named); }
};
struct Forwarded {
  Twice twice;
  static void visit(auto&& self, auto&& f) { f("twice", self.twice); }
};

void freeze(Forwarded& model) { lora::freeze(model); }
