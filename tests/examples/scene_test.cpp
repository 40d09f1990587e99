#include "examples/plotting/scene.hpp"

#include "support/catch.hpp"

#include <cmath>

using namespace examples;

TEST_CASE("scene: the nearest thing on a ray") {
  using detail::Vector3;
  const detail::Ball& ball = detail::balls[0];
  // From straight above: the top of the ball; beside all balls the floor, whose tiles alternate; upwards nothing.
  const auto top = detail::nearest({ball.centre + Vector3(0, 5, 0), {0, -1, 0}});
  REQUIRE(top.has_value());
  CHECK(std::abs(top->distance - (5 - ball.radius)) < 1e-12);
  CHECK((top->normal - Vector3::UnitY()).norm() < 1e-12);
  CHECK(top->brightness == ball.brightness);

  const auto floor = [](double x, double z) { return detail::nearest({{x, 2, z}, {0, -1, 0}}); };
  REQUIRE(floor(10.5, 10.5).has_value());
  CHECK(floor(10.5, 10.5)->distance == 2);
  CHECK(floor(10.5, 10.5)->brightness > floor(11.5, 10.5)->brightness);
  CHECK(floor(11.5, 10.5)->brightness == floor(-0.5 - 10, 10.5)->brightness);
  CHECK(floor(-0.5 - 10, -0.5 - 10)->brightness == floor(10.5, 10.5)->brightness);

  CHECK_FALSE(detail::nearest({{10, 1, 10}, {0, 1, 0}}).has_value());
  // A ray that leaves a surface does not meet that surface.
  CHECK_FALSE(detail::nearest({ball.centre + Vector3(0, ball.radius, 0), {0, 1, 0}}).has_value());
  CHECK_FALSE(detail::nearest({{10, 0, 10}, {0, 1, 0}}).has_value());
}

TEST_CASE("scene: a picture of grey levels, the same at every size") {
  const Eigen::MatrixXd small = rendered_scene(32);
  CHECK(small.rows() == 32);
  CHECK(small.cols() == 32);
  CHECK(small.minCoeff() >= 0);
  CHECK(small.maxCoeff() <= 1);
  CHECK(small.maxCoeff() - small.minCoeff() > 0.6);
  CHECK(small == rendered_scene(32));
  CHECK(std::abs(small.mean() - rendered_scene(48).mean()) < 0.01);
  // no floor above the horizon: the sky is the same from left to right, nearly
  CHECK(small.row(0).maxCoeff() - small.row(0).minCoeff() < 0.02);
}
