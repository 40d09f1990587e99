#include "lora/testing/dual.hpp"

#include "support/catch.hpp"

#include <cmath>
#include <functional>

namespace {

using lora::testing::Dual;

/// f at x with its derivative, which must be that of central differences.
void check(const std::function<Dual(Dual)>& f, double x) {
  CAPTURE(x);
  const double h = 1e-5;
  const Dual y = f(Dual(x, 2.0));  // direction 2: derivatives are multiplied by it
  const double numeric = (f(x + h).value - f(x - h).value) / (2 * h);
  CHECK(y.value == f(x).value);
  CHECK(std::abs(y.derivative - 2 * numeric) < 1e-8 * (1 + std::abs(numeric)));
  CHECK(f(x).derivative == 0);
}

}  // namespace

TEST_CASE("dual: arithmetic carries the derivative") {
  for (const double x : {-1.7, -0.3, 0.4, 2.5}) {
    check([](Dual a) { return a + a * a; }, x);
    check([](Dual a) { return 3.0 - a; }, x);
    check([](Dual a) { return -a * +a; }, x);
    check([](Dual a) { return (a + 1.0) / (a * a + 2.0); }, x);
    // aliased, through a reference so that no compiler takes it for a slip
    check([](Dual a) { return a *= static_cast<const Dual&>(a); }, x);
    check([](Dual a) { return a /= static_cast<const Dual&>(a); }, x);
    check([](Dual a) { return a -= 2.0 * a; }, x);
  }
}

TEST_CASE("dual: functions carry the derivative") {
  for (const double x : {-1.7, -0.3, 0.4, 2.5}) {
    check([](Dual a) { return exp(a); }, x);
    check([](Dual a) { return expm1(a); }, x);
    check([](Dual a) { return tanh(a); }, x);
    check([](Dual a) { return erf(a); }, x);
    check([](Dual a) { return erfc(a); }, x);
    check([](Dual a) { return abs(a); }, x);
    check([](Dual a) { return max(a, Dual(0.1)); }, x);
    check([](Dual a) { return min(a, Dual(0.1)); }, x);
    if (x < -1) continue;
    check([](Dual a) { return log1p(a); }, x);
    if (x < 0) continue;
    check([](Dual a) { return log(a); }, x);
    check([](Dual a) { return sqrt(a); }, x);
    check([](Dual a) { return pow(a, 1.5); }, x);
  }
}

TEST_CASE("dual: is compared by value, and a number without direction is a constant") {
  CHECK(Dual(1, 5) == Dual(1, 7));
  CHECK(Dual(1, 5) < 2);
  CHECK(Dual(3) > Dual(2, 9));
  CHECK((Dual(2) <= Dual(2) && Dual(2) >= Dual(2) && Dual(2) != Dual(3)));
  CHECK(Dual(4).derivative == 0);
  CHECK((isfinite(Dual(1, 1)) && !isfinite(Dual(1, INFINITY)) && isnan(Dual(NAN)) && isinf(Dual(INFINITY))));
}

TEST_CASE("dual: Eigen's products and reductions carry the derivative") {
  // d/dt |A (x + t v)|^2 = 2 (A x) . (A v)
  lora::Matrix<double> A(2, 3), x(3, 1), v(3, 1);
  A << 1, -2, 3, 4, 0, 5;
  x << 0.5, 1, -1;
  v << 2, 0, 1;
  lora::Matrix<Dual> moving(3, 1);
  for (int i = 0; i < 3; ++i) moving(i) = Dual(x(i), v(i));
  const lora::Matrix<Dual> y = A.cast<Dual>() * moving;
  CHECK(y.squaredNorm().value == (A * x).squaredNorm());
  CHECK(y.squaredNorm().derivative == 2 * (A * x).cwiseProduct(A * v).sum());
  CHECK(y.maxCoeff().value == (A * x).maxCoeff());
}
