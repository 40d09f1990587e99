#pragma once
/// Learning-rate schedules: the factor is a pure function of the step, so a resumed run needs only the step.
///
///   step < warmup     factor = step / warmup
///   constant          factor = 1
///   linear            factor = last + (1 - last) (1 - u)                    u = (step - warmup) / (total - warmup), at
///   cosine            factor = last + (1 - last) (1 + cos(pi u)) / 2        most 1
///
/// Steps count from 0: the first is taken with factor 0 if there is a warm-up and with 1 if there is none; step
/// `warmup` has factor 1; from step `total` on the factor is `final_factor` (last). With final_factor 0 these are the
/// factors of Hugging Face's get_{constant,linear,cosine}_schedule_with_warmup up to `total`; beyond it their cosine
/// rises again, this one stays.
///
///   Schedule schedule{.shape = ScheduleShape::cosine, .warmup = 100, .total = 5000};
///   optimizer.step(net, schedule(step));

#include "lora/core/error.hpp"

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <string_view>

namespace lora::inline LORA_ABI {

enum class ScheduleShape { constant, linear, cosine };

struct Schedule {
  ScheduleShape shape = ScheduleShape::constant;
  std::uint64_t warmup = 0;  ///< steps over which the factor rises from 0 to 1
  std::uint64_t total = 0;   ///< the step at which the descent has ended; a constant schedule has none
  double final_factor = 0;

  /// Throws ConfigError for settings that contradict each other, as validate does.
  double operator()(std::uint64_t step) const;
};

/// Throws ConfigError unless final_factor is finite and at least 0, and, where the factor descends, total > warmup.
inline void validate(const Schedule& schedule, std::string_view who = "Schedule") {
  if (!(std::isfinite(schedule.final_factor) && schedule.final_factor >= 0)) {
    detail::fail<ConfigError>(
        who, "final_factor is " + detail::text_of(schedule.final_factor) + ", expected a finite number, 0 or more");
  }
  if (schedule.shape != ScheduleShape::constant && schedule.total <= schedule.warmup) {
    detail::fail<ConfigError>(who, "total is " + std::to_string(schedule.total) +
                                       ", expected more than warmup = " + std::to_string(schedule.warmup));
  }
}

inline double Schedule::operator()(std::uint64_t step) const {
  validate(*this);
  if (step < warmup) return static_cast<double>(step) / static_cast<double>(warmup);
  if (shape == ScheduleShape::constant) return 1;
  if (step >= total) return final_factor;
  const double progress = static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
  const double left = shape == ScheduleShape::linear ? 1 - progress : (1 + std::cos(std::numbers::pi * progress)) / 2;
  return final_factor + (1 - final_factor) * left;
}

}  // namespace lora::inline LORA_ABI
