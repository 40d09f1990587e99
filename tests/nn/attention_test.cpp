#include "lora/nn/attention.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "lora/core/parameter.hpp"
#include "lora/parallel/workers.hpp"
#include "lora/testing/gradient.hpp"
#include "optim/reference.hpp"
#include "support/catch.hpp"
#include "support/heap.hpp"
#include "support/laws.hpp"

using lora::AttentionMask;
using lora::AttentionShape;
using lora::Index;
using lora::Matrix;
using lora::Sequences;
using lora::testing::Dual;
using lora::testing::random_matrix;
using lora_test::check;

namespace {

template <class S>
struct Problem {
  AttentionShape shape;
  Sequences queries, keys;
  Matrix<S> q, k, v, d_o;

  Problem(AttentionShape its_shape, Sequences its_queries, Sequences its_keys, lora::Rng& rng)
      : shape(its_shape),
        queries(std::move(its_queries)),
        keys(std::move(its_keys)),
        q(random_matrix<S>(shape.query_rows(), queries.total(), rng)),
        k(random_matrix<S>(shape.key_rows(), keys.total(), rng)),
        v(random_matrix<S>(shape.key_rows(), keys.total(), rng)),
        d_o(random_matrix<S>(shape.query_rows(), queries.total(), rng)) {}
};

template <class S>
struct Results {
  Matrix<S> o, lse, dq, dk, dv;

  bool operator==(const Results& other) const {
    return o == other.o && lse == other.lse && dq == other.dq && dk == other.dk && dv == other.dv;
  }
};

template <class S>
void compute(const Problem<S>& p, Results<S>& r, lora::Scratch& scratch, lora::Executor* executor = nullptr) {
  lora::detail::MutableColumns<S> lse(r.lse);
  lora::attention<S>(p.q, p.k, p.v, p.shape, p.queries, p.keys, r.o, &lse, scratch, {.executor = executor});
  lora::attention_backward<S>(p.q, p.k, p.v, p.shape, p.queries, p.keys, r.o, r.lse, p.d_o, r.dq, r.dk, r.dv, scratch,
                              {.executor = executor});
}

template <class S>
Results<S> compute(const Problem<S>& p, lora::Executor* executor = nullptr) {
  lora::Scratch scratch;
  Results<S> r{p.q, Matrix<S>(p.shape.heads, p.q.cols()), p.q, p.k, p.v};
  for (Matrix<S>* each : {&r.o, &r.lse, &r.dq, &r.dk, &r.dv})
    each->setConstant(std::numeric_limits<S>::quiet_NaN());  // all is written
  compute(p, r, scratch, executor);
  return r;
}

/// Number by number, in long double.
template <class S>
Results<long double> exact(const Problem<S>& p) {
  using Wide = Matrix<long double>;
  const Wide q = p.q.template cast<long double>(), k = p.k.template cast<long double>(),
             v = p.v.template cast<long double>(), d_o = p.d_o.template cast<long double>();
  Results<long double> r{Wide::Zero(q.rows(), q.cols()), Wide::Zero(p.shape.heads, q.cols()),
                         Wide::Zero(q.rows(), q.cols()), Wide::Zero(k.rows(), k.cols()),
                         Wide::Zero(k.rows(), k.cols())};
  const Index dim = p.shape.head_dim, group = p.shape.heads / p.shape.key_heads_or_heads();
  const long double s = static_cast<long double>(static_cast<S>(p.shape.scale_or_default()));
  for (Index i = 0; i < q.cols(); ++i) {
    const auto place = p.queries.place(i);
    const auto own = p.queries[place.sequence], all = p.keys[place.sequence];
    const Index position = place.position + all.count - own.count;
    std::vector<Index> seen;
    for (Index j = 0; j < all.count; ++j) {
      if (p.shape.mask == AttentionMask::causal && j > position) continue;
      if (p.shape.window > 0 && j + p.shape.window <= position) continue;
      seen.push_back(all.first + j);
    }
    for (Index h = 0; h < p.shape.heads; ++h) {
      const Index row = h * dim, key_row = h / group * dim;
      const auto head = [&](auto& matrix, Index at, Index col) { return matrix.col(col).segment(at, dim); };
      long double sum = 0, t = 0;
      for (const Index j : seen) sum += std::exp(s * head(k, key_row, j).dot(head(q, row, i)));
      r.lse(h, i) = std::log(sum);
      const auto probability = [&](Index j) { return std::exp(s * head(k, key_row, j).dot(head(q, row, i))) / sum; };
      for (const Index j : seen) head(r.o, row, i) += probability(j) * head(v, key_row, j);
      for (const Index j : seen) t += probability(j) * head(v, key_row, j).dot(head(d_o, row, i));
      for (const Index j : seen) {
        const long double e = s * probability(j) * (head(v, key_row, j).dot(head(d_o, row, i)) - t);
        head(r.dq, row, i) += e * head(k, key_row, j);
        head(r.dk, key_row, j) += e * head(q, row, i);
        head(r.dv, key_row, j) += probability(j) * head(d_o, row, i);
      }
    }
  }
  return r;
}

/// The largest difference in epsilon of the largest number, or of 1, the size of q, k, v and d_o.
template <class S>
double distance(const Matrix<S>& given, const Matrix<long double>& expected) {
  const long double largest = std::max(1.0L, expected.cwiseAbs().maxCoeff());
  const long double difference = (given.template cast<long double>() - expected).cwiseAbs().maxCoeff();
  return static_cast<double>(difference / (largest * static_cast<long double>(Eigen::NumTraits<S>::epsilon())));
}

template <class S>
void check_exact(const Problem<S>& problem) {
  const auto given = compute(problem);
  const auto expected = exact(problem);
  // scores of about sqrt(head_dim) with the error of a sum of head_dim products, in the exponent; then a sum of them
  CHECK(distance(given.o, expected.o) <= 30);
  CHECK(distance(given.lse, expected.lse) <= 30);
  CHECK(distance(given.dq, expected.dq) <= 60);
  CHECK(distance(given.dk, expected.dk) <= 60);
  CHECK(distance(given.dv, expected.dv) <= 60);
}

constexpr AttentionShape three_heads{.heads = 3, .head_dim = 20};
constexpr AttentionShape grouped{.heads = 6, .key_heads = 2, .head_dim = 8, .mask = AttentionMask::causal};

}  // namespace

TEMPLATE_TEST_CASE("Attention: as number by number in long double, for many sizes", "", float, double) {
  lora::Rng rng(1);
  const Sequences few({1, 2, 7}), some({16, 33, 1, 31}), many({65, 130});
  for (const AttentionMask mask : {AttentionMask::none, AttentionMask::causal}) {
    for (const Index dim : {1, 3, 16, 20, 32, 40, 64}) {
      CAPTURE(dim, int(mask));
      const AttentionShape shape{.heads = 2, .head_dim = dim, .mask = mask};
      check_exact(Problem<TestType>(shape, few, few, rng));
      check_exact(Problem<TestType>(shape, some, some, rng));
    }
    const AttentionShape shape{.heads = 4, .key_heads = 2, .head_dim = 24, .scale = 0.3, .mask = mask};
    check_exact(Problem<TestType>(shape, many, many, rng));
  }
}

TEMPLATE_TEST_CASE("Attention: windows, and keys of other sequences", "", float, double) {
  lora::Rng rng(2);
  for (const Index window : {1, 2, 15, 40, 200}) {
    CAPTURE(window);
    const AttentionShape shape{
        .heads = 2, .key_heads = 1, .head_dim = 18, .mask = AttentionMask::causal, .window = window};
    check_exact(Problem<TestType>(shape, Sequences({3, 100, 17}), Sequences({3, 100, 17}), rng));
    check_exact(Problem<TestType>(shape, Sequences({3, 40, 1}), Sequences({4, 101, 64}), rng));
  }
  check_exact(Problem<TestType>(three_heads, Sequences({3, 40, 1}), Sequences({50, 1, 64}), rng));
}

TEST_CASE("Attention: long sequences, in panels of every number of queries") {
  lora::Rng rng(3);
  for (const Index length : {255, 300, 700, 1100}) {
    CAPTURE(length);
    const AttentionShape shape{.heads = 1, .head_dim = 9, .mask = AttentionMask::causal};
    check_exact(Problem<float>(shape, Sequences({length}), Sequences({length}), rng));
    check_exact(Problem<float>({.heads = 1, .head_dim = 4}, Sequences({33}), Sequences({length}), rng));
  }
}

TEMPLATE_TEST_CASE("Attention: a sequence has the same bits alone, and in any order", "", float, double) {
  lora::Rng rng(4);
  const std::vector<Index> lengths = {5, 64, 1, 33, 64, 100};
  for (AttentionShape shape : {three_heads, grouped}) {
    const Problem<TestType> all(shape, Sequences(lengths), Sequences(lengths), rng);
    const auto expected = compute(all);
    const std::vector<std::size_t> order = {3, 5, 0, 4, 2, 1};
    std::vector<Index> permuted;
    for (const std::size_t s : order) permuted.push_back(lengths[s]);
    const auto gather = [&](const Matrix<TestType>& matrix) {
      Matrix<TestType> made(matrix.rows(), matrix.cols());
      Index next = 0;
      for (const std::size_t s : order) {
        const auto columns = all.queries[Index(s)];
        made.middleCols(next, columns.count) = matrix.middleCols(columns.first, columns.count);
        next += columns.count;
      }
      return made;
    };
    Problem<TestType> other = all;
    other.queries = other.keys = Sequences(permuted);
    other.q = gather(all.q), other.k = gather(all.k), other.v = gather(all.v), other.d_o = gather(all.d_o);
    const Results<TestType> r{gather(expected.o), gather(expected.lse), gather(expected.dq), gather(expected.dk),
                              gather(expected.dv)};
    CHECK(compute(other) == r);

    for (Index s = 0; s < all.queries.count(); ++s) {
      const auto own = all.queries[s];
      const auto some = [&](const auto& matrix) { return Matrix<TestType>(matrix.middleCols(own.first, own.count)); };
      Problem<TestType> alone = all;
      alone.queries = alone.keys = Sequences({own.count});
      alone.q = some(all.q), alone.k = some(all.k), alone.v = some(all.v), alone.d_o = some(all.d_o);
      const Results<TestType> part{some(expected.o), some(expected.lse), some(expected.dq), some(expected.dk),
                                   some(expected.dv)};
      CHECK(compute(alone) == part);
    }
  }
}

TEMPLATE_TEST_CASE("Attention: the same bits wherever matrices lie", "", float, double) {
  lora::Rng rng(5);
  const Sequences sequences({9, 20});
  const Problem<TestType> p({.heads = 2, .head_dim = 11}, sequences, sequences, rng);
  const auto expected = compute(p);
  for (Index offset = 0; offset < 5; ++offset) {
    const auto wide = [&](const Matrix<TestType>& matrix) {
      Matrix<TestType> made = Matrix<TestType>::Constant(matrix.rows() + 7, matrix.cols() + 2, 3);
      made.block(offset, 1, matrix.rows(), matrix.cols()) = matrix;
      return made;
    };
    const auto part = [&](auto& matrix, const auto& like) { return matrix.block(offset, 1, like.rows(), like.cols()); };
    const auto q = wide(p.q), k = wide(p.k), v = wide(p.v), d_o = wide(p.d_o);
    auto o = wide(p.q), lse = wide(expected.lse), dq = wide(p.q), dk = wide(p.k), dv = wide(p.v);
    lora::detail::MutableColumns<TestType> lse_part = part(lse, expected.lse);
    lora::Scratch scratch;
    lora::attention<TestType>(part(q, p.q), part(k, p.k), part(v, p.v), p.shape, sequences, sequences, part(o, p.q),
                              &lse_part, scratch);
    lora::attention_backward<TestType>(part(q, p.q), part(k, p.k), part(v, p.v), p.shape, sequences, sequences,
                                       part(o, p.q), part(lse, expected.lse), part(d_o, p.q), part(dq, p.q),
                                       part(dk, p.k), part(dv, p.v), scratch);
    CHECK((o == wide(expected.o) && lse == wide(expected.lse)));
    CHECK((dq == wide(expected.dq) && dk == wide(expected.dk) && dv == wide(expected.dv)));
    // without lse
    o.setZero();
    lora::attention<TestType>(part(q, p.q), part(k, p.k), part(v, p.v), p.shape, sequences, sequences, part(o, p.q),
                              nullptr, scratch);
    CHECK(part(o, p.q) == expected.o);
  }
}

TEMPLATE_TEST_CASE("Attention: a causal mask ignores the future", "", float, double) {
  lora::Rng rng(6);
  for (const Index dim : {8, 32}) {
    const AttentionShape shape{.heads = 2, .head_dim = dim, .mask = AttentionMask::causal};
    const Sequences sequences({100});
    const Problem<TestType> p(shape, sequences, sequences, rng);
    const auto expected = compute(p);
    for (const Index now : {0, 1, 40, 63, 64, 98}) {
      CAPTURE(dim, now);
      Problem<TestType> other = p;
      const Index later = 99 - now;
      other.k.rightCols(later) = 1e3 * random_matrix<TestType>(other.k.rows(), later, rng);
      other.v.rightCols(later) = 1e3 * random_matrix<TestType>(other.k.rows(), later, rng);
      other.q.rightCols(later).setZero();
      const auto r = compute(other);
      CHECK(r.o.leftCols(now + 1) == expected.o.leftCols(now + 1));
      CHECK(r.dq.leftCols(now + 1) == expected.dq.leftCols(now + 1));
      CHECK(r.o.rightCols(later) != expected.o.rightCols(later));
      // and what later tokens wish does not reach the gradient of a query before them
      other = p;
      other.d_o.rightCols(later).setZero();
      const auto s = compute(other);
      CHECK(s.dq.leftCols(now + 1) == expected.dq.leftCols(now + 1));
      CHECK((s.dk.rightCols(later).array() == 0).all());
      CHECK((s.dv.rightCols(later).array() == 0).all());
    }
  }
}

TEST_CASE("Attention: shared key heads are the same as copies of them, and a wide window is none") {
  lora::Rng rng(7);
  const Sequences sequences({30, 70});
  const Problem<float> p(grouped, sequences, sequences, rng);
  const auto expected = compute(p);
  Problem<float> copies = p;
  copies.shape.key_heads = 0;
  copies.k.resize(48, 100), copies.v.resize(48, 100);
  for (Index h = 0; h < 6; ++h) {
    copies.k.middleRows(8 * h, 8) = p.k.middleRows(h / 3 * 8, 8);
    copies.v.middleRows(8 * h, 8) = p.v.middleRows(h / 3 * 8, 8);
  }
  const auto r = compute(copies);
  CHECK((r.o == expected.o && r.lse == expected.lse && r.dq == expected.dq));
  Matrix<float> sum = Matrix<float>::Zero(16, 100);
  for (Index h = 0; h < 6; ++h) sum.middleRows(h / 3 * 8, 8) += r.dk.middleRows(8 * h, 8);
  CHECK((sum - expected.dk).norm() <= 1e-6F * sum.norm());

  Problem<float> wide = p;
  wide.shape.window = 70;
  CHECK(compute(wide) == expected);
}

TEST_CASE("Attention: threads change no bit", "[threads]") {
  lora::Rng rng(8);
  const Sequences sequences({40, 64, 3, 90, 64});
  lora::Workers workers(3);
  for (AttentionShape shape : {three_heads, grouped}) {
    const Problem<float> p(shape, sequences, sequences, rng);
    const auto expected = compute(p);
    for (int round = 0; round < 3; ++round) CHECK(compute(p, &workers) == expected);
  }
}

TEST_CASE("Attention: nothing allocates after the largest batch") {
  if (!lora_test::heap_is_counted) LORA_TEST_SKIP("allocations are not counted in this build");
  lora::Rng rng(9);
  const Problem<float> large(three_heads, Sequences({300, 20}), Sequences({300, 20}), rng);
  std::vector<Problem<float>> smaller;
  for (const Index length : {1, 3, 17, 33, 64, 69, 250, 256, 257, 299}) {
    smaller.emplace_back(three_heads, Sequences({length}), Sequences({length}), rng);
    smaller.emplace_back(AttentionShape{.heads = 3, .head_dim = 13, .mask = AttentionMask::causal}, Sequences({length}),
                         Sequences({length}), rng);
  }
  lora::Scratch scratch;
  auto r = compute(large);
  compute(large, r, scratch);
  std::vector<Results<float>> results;
  for (const auto& p : smaller) results.push_back(compute(p));
  CHECK(lora_test::heap_allocations_in([&] {
          compute(large, r, scratch);
          for (std::size_t k = 0; k < smaller.size(); ++k) compute(smaller[k], results[k], scratch);
        }) == 0);

  // A panel of a shorter sequence has more queries, and in narrow heads it is most of the memory.
  const AttentionShape narrow{.heads = 1, .head_dim = 2};
  const Problem<float> longer(narrow, Sequences({300}), Sequences({300}), rng);
  const Problem<float> shorter(narrow, Sequences({250}), Sequences({250}), rng);
  auto r_longer = compute(longer), r_shorter = compute(shorter);
  lora::Scratch own;
  compute(longer, r_longer, own);
  CHECK(lora_test::heap_allocations_in([&] { compute(shorter, r_shorter, own); }) == 0);
}

TEST_CASE("Attention: large scores, and numbers that are none") {
  lora::Rng rng(10);
  const Sequences sequences({40});
  Problem<float> p({.heads = 1, .head_dim = 8, .scale = 1}, sequences, sequences, rng);
  p.q *= 1e4F;  // one key has all of the probability
  p.k *= 1e4F;
  const auto r = compute(p);
  CHECK((r.o.allFinite() && r.lse.allFinite() && r.dq.allFinite() && r.dk.allFinite()));
  for (Index j = 0; j < 40; ++j) {
    Index best = 0;
    (p.k.transpose() * p.q.col(j)).maxCoeff(&best);
    CHECK(r.o.col(j) == p.v.col(best));
  }
  p.v(3, 7) = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(compute(p).o(3, 0)));
  p.v(3, 7) = 0;
  p.q(2, 5) = std::numeric_limits<float>::quiet_NaN();
  const auto broken = compute(p);
  CHECK(broken.o.col(5).array().isNaN().all());
  CHECK(broken.o.leftCols(5).allFinite());
}

TEST_CASE("Attention: what does not fit is refused") {
  lora::Rng rng(11);
  const Sequences sequences({3, 4});
  const Problem<float> p(three_heads, sequences, sequences, rng);
  const auto refuse = [&](auto change) {
    Problem<float> other = p;
    change(other);
    compute(other);
  };
  CHECK_THROWS_AS(refuse([](auto& other) { other.shape.heads = 0; }), lora::ConfigError);
  const auto message = [&](auto change) {
    try {
      refuse(change);
    } catch (const lora::Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(message([](auto& o) { o.shape.head_dim = 0; }) == "attention: head_dim is 0, expected at least 1");
  CHECK(message([](auto& o) { o.shape.key_heads = 2; }) ==
        "attention: key_heads is 2, expected a divisor of heads = 3");
  CHECK(message([](auto& o) { o.shape.key_heads = -1; }) ==
        "attention: key_heads is -1, expected a divisor of heads = 3");
  CHECK(message([](auto& o) { o.shape.scale = std::numeric_limits<double>::infinity(); }) ==
        "attention: scale is inf, expected a finite number");
  CHECK(message([](auto& o) { o.shape.window = 3; }) == "attention: window is 3 without a causal mask, expected 0");
  CHECK(message([](auto& o) { o.shape.window = -3; }) == "attention: window is -3, expected at least 0");
  CHECK(message([](auto& o) { o.k.resize(40, 7); }) == "attention: k has 40 rows, expected key_heads x head_dim = 60");
  CHECK(message([](auto& o) { o.queries = Sequences({3, 5}); }) ==
        "attention: q has 7 columns, expected the columns of its sequences = 8");
  CHECK(message([](auto& o) { o.keys = Sequences({7}); }) ==
        "attention: k has 1 sequences, expected the sequences of q = 2");
  CHECK(message([](auto& o) {
          o.shape.mask = AttentionMask::causal;
          o.keys = Sequences({4, 3});
        }) == "attention: sequence 1 has 4 queries and 3 keys, expected at least as many keys for a causal mask");
  auto r = compute(p);
  lora::Scratch scratch;
  r.dk.resize(60, 8);
  CHECK_THROWS_WITH(compute(p, r, scratch), "attention_backward: dk has 8 columns, expected the columns of k = 7");
  r = compute(p);
  r.lse.resize(2, 7);
  CHECK_THROWS_WITH(compute(p, r, scratch), "attention: lse has 2 rows, expected heads = 3");
}

namespace {

/// Attention as a layer of q, whose parameters are k and v.
template <class S>
struct Core {
  AttentionShape shape;
  Sequences queries, keys;
  lora::Parameter<S> k, v;

  struct Cache {
    Matrix<S> o, lse, dq, dk, dv;
    lora::Scratch scratch;
  };
  static void visit(auto& self, auto&& f) {
    f("k", self.k);
    f("v", self.v);
  }
  Matrix<S> forward(const Matrix<S>& q, Cache& cache) const {
    cache.o.resizeLike(q);
    cache.lse.resize(shape.heads, q.cols());
    lora::detail::MutableColumns<S> lse(cache.lse);
    lora::attention<S>(q, k.value, v.value, shape, queries, keys, cache.o, &lse, cache.scratch);
    return cache.o;
  }
  Matrix<S> backward(const Matrix<S>& q, const Matrix<S>& d_o, Cache& cache) {
    cache.dq.resizeLike(q), cache.dk.resizeLike(k.value), cache.dv.resizeLike(v.value);
    lora::attention_backward<S>(q, k.value, v.value, shape, queries, keys, cache.o, cache.lse, d_o, cache.dq, cache.dk,
                                cache.dv, cache.scratch);
    k.gradient() += cache.dk;
    v.gradient() += cache.dv;
    return cache.dq;
  }
};

}  // namespace

TEST_CASE("Attention: backward is the derivative of forward") {
  lora::Rng rng(12);
  const AttentionShape windowed{.heads = 2, .head_dim = 3, .scale = 0.7, .mask = AttentionMask::causal, .window = 3};
  const Sequences sequences({3, 1, 6}), longer({5, 1, 7});
  for (const AttentionShape& shape : {AttentionShape{.heads = 2, .head_dim = 3},
                                      AttentionShape{.heads = 4, .key_heads = 2, .head_dim = 2}, windowed}) {
    for (const Sequences& keys : {sequences, longer}) {
      const auto make = [&]<class S>(S) {
        Core<S> core{shape, sequences, keys, {}, {}};
        core.k.value = random_matrix<S>(shape.key_rows(), keys.total(), rng);
        core.v.value = random_matrix<S>(shape.key_rows(), keys.total(), rng);
        return core;
      };
      auto core = make(double());
      auto dual = make(Dual());
      const auto q = random_matrix(shape.query_rows(), sequences.total(), rng);
      check(lora::testing::check_gradients(core, q), 3);
      check(lora::testing::check_dual(core, dual, q), 3);
    }
  }
}

TEST_CASE("Attention: as in PyTorch") {
  // those of reference.py
  const auto pattern = [](Index rows, Index cols, Index a, Index b, Index most) {
    return Matrix<double>(Matrix<double>::NullaryExpr(
        rows, cols, [=](Index i, Index j) { return double((a * i + b * j) % most - most / 2) / 4; }));
  };
  const auto near = [](const Matrix<double>& given, const auto& stored) {
    REQUIRE(given.size() == static_cast<Index>(stored.size()));
    for (Index k = 0; k < given.size(); ++k) CHECK(std::abs(given(k) - stored[std::size_t(k)]) <= 1e-14);
  };
  lora::Rng rng(13);
  const Sequences sequences({3, 5});
  Problem<double> p({.heads = 4, .key_heads = 2, .head_dim = 3}, sequences, sequences, rng);
  p.q = pattern(12, 8, 5, 7, 17), p.k = pattern(6, 8, 4, 9, 19), p.v = pattern(6, 8, 7, 3, 13);
  p.d_o = pattern(12, 8, 3, 8, 11);
  auto r = compute(p);
  near(r.o, reference::attention);
  near(r.dq, reference::attention_q);
  near(r.dk, reference::attention_k);
  near(r.dv, reference::attention_v);
  p.shape.mask = AttentionMask::causal;
  r = compute(p);
  near(r.o, reference::causal_attention);
  near(r.dq, reference::causal_attention_q);
  near(r.dk, reference::causal_attention_k);
  near(r.dv, reference::causal_attention_v);
}
