#pragma once
/// A picture that is computed: balls on a chequered floor, by following one ray of light for each sample.

#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

namespace examples {

namespace detail {

using Vector3 = Eigen::Vector3d;

struct Ray {
  Vector3 origin, direction;  // of length 1

  Vector3 at(double distance) const { return origin + distance * direction; }
};

struct Ball {
  Vector3 centre;
  double radius, brightness, mirror;  // mirror: the share of light that is reflected
};

struct Hit {
  double distance;
  Vector3 normal;
  double brightness, mirror;
};

inline const std::array<Ball, 4> balls = {{{{-0.35, 1.0, 0.3}, 1.0, 0.75, 0.35},
                                           {{1.25, 0.55, -0.9}, 0.55, 0.25, 0.25},
                                           {{-1.55, 0.4, -1.15}, 0.4, 0.95, 0.1},
                                           {{0.25, 0.28, -1.75}, 0.28, 0.5, 0.5}}};

/// The nearest thing the ray meets, if any. The ball is |x - centre| = radius, the floor y = 0.
inline std::optional<Hit> nearest(const Ray& ray) {
  constexpr double touching = 1e-6;  // a ray that starts on a surface has not met it
  Hit hit{std::numeric_limits<double>::infinity(), {}, 0, 0};
  if (ray.direction.y() < 0 && ray.origin.y() > touching) {
    hit.distance = -ray.origin.y() / ray.direction.y();
    const Vector3 point = ray.at(hit.distance);
    const bool dark = (static_cast<long>(std::floor(point.x())) + static_cast<long>(std::floor(point.z()))) % 2 != 0;
    hit = {hit.distance, Vector3::UnitY(), dark ? 0.22 : 0.85, 0.12};
  }
  for (const Ball& ball : balls) {
    const Vector3 to_centre = ball.centre - ray.origin;
    const double along = to_centre.dot(ray.direction);
    const double inside = ball.radius * ball.radius - (to_centre - along * ray.direction).squaredNorm();
    if (inside <= 0) continue;
    const double distance = along - std::sqrt(inside);
    if (distance <= touching || distance >= hit.distance) continue;
    hit = {distance, (ray.at(distance) - ball.centre) / ball.radius, ball.brightness, ball.mirror};
  }
  if (std::isinf(hit.distance)) return std::nullopt;
  return hit;
}

/// The light, 0 to 1, that comes back along a ray.
inline double light(const Ray& ray, int reflections = 3) {
  const double horizon = std::exp(-4 * std::max(ray.direction.y(), 0.0));
  const double sky = 0.45 + 0.5 * horizon;
  const std::optional<Hit> hit = nearest(ray);
  if (!hit) return sky;

  const Vector3 sun = Vector3(-0.6, 0.75, -0.65).normalized();
  const Vector3 point = ray.at(hit->distance) + 1e-6 * hit->normal;
  const bool shaded = nearest({point, sun}).has_value();
  const double diffuse = shaded ? 0 : std::max(hit->normal.dot(sun), 0.0);
  double result = hit->brightness * (0.22 + 0.78 * diffuse);

  const Vector3 mirrored = (ray.direction - 2 * ray.direction.dot(hit->normal) * hit->normal).normalized();
  if (!shaded) result += hit->mirror * std::pow(std::max(mirrored.dot(sun), 0.0), 60);  // the sun itself
  if (reflections > 0) result += hit->mirror * (light({point, mirrored}, reflections - 1) - result);
  const double mist = std::exp(-0.012 * hit->distance * hit->distance);
  return std::min(mist * result + (1 - mist) * sky, 1.0);
}

}  // namespace detail

/// The scene as a matrix (side, side), 0 (black) to 1 (white), each pixel the mean of 4 x 4 samples.
inline Eigen::MatrixXd rendered_scene(Eigen::Index side) {
  constexpr int samples = 4;
  const double step = 1.0 / static_cast<double>(samples * side);
  Eigen::MatrixXd picture = Eigen::MatrixXd::Zero(side, side);
  for (Eigen::Index row = 0; row < samples * side; ++row) {
    for (Eigen::Index column = 0; column < samples * side; ++column) {
      const double x = (static_cast<double>(column) + 0.5) * step - 0.5;
      const double y = 0.5 - (static_cast<double>(row) + 0.5) * step;
      const detail::Vector3 direction(x, y - 0.17, 1);
      picture(row / samples, column / samples) += detail::light({{0, 1.7, -5}, direction.normalized()});
    }
  }
  return picture / (samples * samples);
}

}  // namespace examples
