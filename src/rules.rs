//! The rules of a shard: what its input means and from when on silence counts. Pure; made by the configuration.

use std::fmt::Write as _;

use crate::event::Decoder;
use crate::lifecycle::Policy;
use crate::retention::Report;
use crate::segment::Draft;
use crate::shard::watermark::TimeRules;
use crate::win_back::WinBackRules;

/// Everything that a shard needs to know beside its state.
#[derive(Debug)]
pub struct Rules {
    /// The thresholds that judge a user.
    pub policy: Policy,
    /// How a record becomes an event.
    pub decoder: Decoder,
    /// How event time moves.
    pub time: TimeRules,
    /// Names of the tracked properties; a user's properties are indexes into it.
    pub track: Vec<String>,
    /// The segments; checked, but compiled by each shard for its own places of properties.
    pub segments: Vec<Draft>,
    /// How returns are measured.
    pub win_back: WinBackRules,
    /// The retention reports; the decoder knows their lists, in the same order.
    pub retention: Vec<Report>,
    /// Whether signals are kept.
    pub signals: bool,
    /// What the output says about where it came from.
    pub origin: Origin,
}

/// Where a shard's records come from, as output headers name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The consumer group: `ce_source` is `/ebbtide/<group>/<partition>`.
    pub group: String,
    /// The input topic: a dead letter's `ebbtide_topic`.
    pub topic: String,
}

/// The configuration's default names.
impl Default for Origin {
    fn default() -> Self {
        Self { group: "ebbtide".to_owned(), topic: "events".to_owned() }
    }
}

impl Rules {
    /// Of the policy alone, stable across builds: when it differs from the one that a shard remembers, every user is
    /// judged again (SPEC section 7).
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint(&self.policy)
    }
}

/// FNV-1a over a frozen text form. The text names each field, so that two fields can never change places unseen; a new
/// field is written only where it is on, so that old fingerprints stay valid.
fn fingerprint(policy: &Policy) -> u64 {
    let mut text = String::with_capacity(256);
    let Policy { inactive_after, declining, survival, lapsed_after, churned_after, forget_after } = policy;
    let _ = write!(text, "lapsed={};churned={};", lapsed_after.as_millis(), churned_after.as_millis());
    if let Some(span) = inactive_after {
        let _ = write!(text, "inactive={};", span.as_millis());
    }
    if let Some(span) = forget_after {
        let _ = write!(text, "forget={};", span.as_millis());
    }
    if let Some(d) = declining {
        let (decline, recover) = (d.decline_ratio.to_bits(), d.recover_ratio.to_bits());
        let _ = write!(text, "declining={},{decline:x},{recover:x},{};", d.window_days, d.min_baseline);
    }
    if let Some(s) = survival {
        let [r, alpha, a, b] = [s.r, s.alpha, s.a, s.b].map(f64::to_bits);
        let _ = write!(text, "survival={r:x},{alpha:x},{a:x},{b:x},{};", s.min_repeat);
        if let Some(threshold) = s.threshold {
            let _ = write!(text, "threshold={:x};", threshold.to_bits());
        }
    }
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    #[test]
    fn the_default_policy_keeps_its_fingerprint() {
        assert_eq!(fingerprint(&Policy::default()), DEFAULT_FINGERPRINT);
    }

    /// Changing this number re-judges every user of every installation: change it only with the defaults themselves.
    const DEFAULT_FINGERPRINT: u64 = 13_767_466_337_627_228_493;

    #[test]
    fn every_threshold_changes_the_fingerprint() {
        let base = Policy::default();
        let changed = [
            Policy { inactive_after: None, ..base.clone() },
            Policy { declining: None, ..base.clone() },
            Policy { lapsed_after: Span::from_days(31), ..base.clone() },
            Policy { churned_after: Span::from_days(91), ..base.clone() },
            Policy { forget_after: Some(Span::from_days(400)), ..base.clone() },
        ];
        let mut seen: Vec<u64> = changed.iter().map(fingerprint).chain([fingerprint(&base)]).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 6);
    }
}
