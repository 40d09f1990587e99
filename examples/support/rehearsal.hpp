#pragma once
/// Mini-batches of a new task, with some pictures of an old one among them.

#include <Eigen/Core>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "digits.hpp"

namespace examples {

struct RehearsalSettings {
  Eigen::Index fresh = 32;     // pictures of the new task in a batch
  Eigen::Index rehearsed = 8;  // pictures of the old one; 0 is training without rehearsal
  Eigen::Index kept = 120;     // the first pictures of the old task, from which these are drawn
};

/// The new task's pictures in random order, over and over; after those of each batch the old ones, drawn with
/// replacement. Both tasks must outlive it.
class RehearsalBatches {
 public:
  RehearsalBatches(const Digits& fresh, const Digits& old, const RehearsalSettings& settings, lora::Rng rng)
      : fresh_(fresh), old_(old), settings_(settings), rng_(rng), order_(fresh.labels.size()) {
    settings_.kept = std::min(settings_.kept, old.count());
    std::iota(order_.begin(), order_.end(), 0);
  }

  /// Pictures in a batch.
  Eigen::Index size() const { return settings_.fresh + settings_.rehearsed; }
  /// Batches until every new picture has been seen.
  std::uint64_t per_epoch() const {
    return static_cast<std::uint64_t>((fresh_.count() + settings_.fresh - 1) / settings_.fresh);
  }

  /// `count` batches, side by side.
  Digits next(Eigen::Index count = 1) {
    Digits batch{Eigen::MatrixXf(fresh_.pixels.rows(), count * size()), {}};
    const auto add = [&](const Digits& digits, Eigen::Index picture) {
      batch.pixels.col(std::ssize(batch.labels)) = digits.pixels.col(picture);
      batch.labels.push_back(digits.labels[static_cast<std::size_t>(picture)]);
    };
    for (Eigen::Index k = 0; k < count; ++k) {
      for (Eigen::Index j = 0; j < settings_.fresh; ++j) {
        if (position_ == 0) rng_.shuffle(order_);
        add(fresh_, order_[position_]);
        position_ = (position_ + 1) % order_.size();
      }
      for (Eigen::Index j = 0; j < settings_.rehearsed; ++j) {
        add(old_, static_cast<Eigen::Index>(rng_.below(static_cast<std::uint64_t>(settings_.kept))));
      }
    }
    return batch;
  }

 private:
  const Digits& fresh_;
  const Digits& old_;
  RehearsalSettings settings_;
  lora::Rng rng_;
  std::vector<Eigen::Index> order_;
  std::size_t position_ = 0;
};

}  // namespace examples
