//! Returned users together: the retention curve and the funnel of one group of returns.

use super::comeback::{CURVE_DAYS, Comeback, Funnel};
use crate::time::{EventTime, Span};

/// Counts of one group: a reactivation day, `away_from` and campaign. Kept exact by taking a user's [`Comeback`] out as
/// it was, and putting it in as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReturnsCurve {
    /// Users who returned.
    pub returned: u64,
    /// Of those, active on day `k` after the return at index `k - 1`.
    pub active: [u64; CURVE_DAYS as usize],
    /// With a first core action within 30 days.
    pub first_core: u64,
    /// With a second.
    pub second_core: u64,
}

impl ReturnsCurve {
    /// Counts a return.
    pub fn add(&mut self, comeback: &Comeback) {
        self.count(comeback, |count| *count += 1);
    }

    /// Takes a return out that was [added](Self::add) as it is.
    ///
    /// # Panics
    /// When it was not: the counts would be wrong from now on.
    pub fn remove(&mut self, comeback: &Comeback) {
        self.count(comeback, |count| {
            *count = count.checked_sub(1).expect("a return is only taken out as it was put in");
        });
    }

    /// Adds another group.
    pub fn merge(&mut self, other: &Self) {
        self.returned += other.returned;
        self.active.iter_mut().zip(&other.active).for_each(|(mine, theirs)| *mine += theirs);
        self.first_core += other.first_core;
        self.second_core += other.second_core;
    }

    /// The share active on day `k`, 1 to 30; `None` without returns.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count of users is far below 2^53")]
    pub fn share(&self, day: u8) -> Option<f64> {
        let active = self.active.get(usize::from(day).checked_sub(1)?)?;
        (self.returned > 0).then(|| *active as f64 / self.returned as f64)
    }

    /// Whether day `k` is over at the watermark for everybody who returned on a UTC day that begins at `day_start`.
    #[must_use]
    pub fn is_complete(day_start: EventTime, day: u8, watermark: EventTime) -> bool {
        watermark >= day_start + Span::from_days(i64::from(day) + 2)
    }

    fn count(&mut self, comeback: &Comeback, change: impl Fn(&mut u64)) {
        change(&mut self.returned);
        (1..=CURVE_DAYS).zip(&mut self.active).filter(|(day, _)| comeback.active_on(*day)).for_each(|(_, n)| change(n));
        if comeback.funnel() >= Funnel::FirstCore {
            change(&mut self.first_core);
        }
        if comeback.funnel() >= Funnel::SecondCore {
            change(&mut self.second_core);
        }
    }
}
