//! What a reactivated user does next: attributed to a campaign or not, active on which days, and back at the core action
//! or not. A value that is kept with the user.

use crate::lifecycle::State;
use crate::time::{DAY_MS, EventTime, Span};

/// Days after a return that are looked at; the last of them ends 31 days after it.
pub const CURVE_DAYS: u8 = 30;
/// Longest campaign name that is kept, in bytes; longer ones are cut.
pub const CAMPAIGN_BYTES_MAX: usize = 128;
/// The campaign of a win-back event that names none.
pub const UNKNOWN_CAMPAIGN: &str = "unknown";

/// A user's latest return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comeback {
    /// When the user returned: the `reactivated` transition's `effective_at`.
    pub at: EventTime,
    /// The transition's number.
    pub seq: u64,
    /// What the user returned from: [`State::Lapsed`] or [`State::Churned`].
    pub away_from: State,
    /// When the absence began.
    pub away_since: EventTime,
    /// The campaign that it is attributed to; `None` as long as there is none.
    pub campaign: Option<Box<str>>,
    /// Bit `k` is set when the user was active on day `k` after the return: `[at + k d, at + (k + 1) d)`, 1 to 30. Bit 0
    /// is the day of the return itself and always set.
    pub active_days: u32,
    /// The earliest core actions at or after the return, ascending; within 30 days of it.
    pub core_actions: (Option<EventTime>, Option<EventTime>),
}

/// A return that a campaign brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// The campaign's name, or [`UNKNOWN_CAMPAIGN`].
    pub campaign: Box<str>,
    /// The win-back event's time.
    pub at: EventTime,
}

/// How far a returned user got within 30 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Funnel {
    /// Returned, no core action.
    Returned,
    /// One core action.
    FirstCore,
    /// Two or more.
    SecondCore,
}

impl Comeback {
    /// A return, before the event that brought it is [recorded](Self::record).
    #[must_use]
    pub const fn new(at: EventTime, seq: u64, away_from: State, away_since: EventTime) -> Self {
        Self { at, seq, away_from, away_since, campaign: None, active_days: 1, core_actions: (None, None) }
    }

    /// How long the user was away.
    #[must_use]
    pub fn away(&self) -> Span {
        self.at - self.away_since
    }

    /// Counts an activity of the user, the returning event included; late ones too, in any order.
    pub fn record(&mut self, at: EventTime, core: bool) {
        let since = at - self.at;
        if since < Span::ZERO {
            return;
        }
        let day = since.as_millis() / DAY_MS;
        if day <= i64::from(CURVE_DAYS) {
            self.active_days |= 1 << day;
        }
        if core && since < Span::from_days(i64::from(CURVE_DAYS)) {
            self.add_core(at);
        }
    }

    /// Takes a win-back event, which names `campaign` or none. Returns the attribution if this event brings it: within
    /// `window` of the return, the first of this absence to arrive.
    pub fn attribute(&mut self, at: EventTime, campaign: Option<&str>, window: Span) -> Option<Attribution> {
        let since = at - self.at;
        if self.campaign.is_some() || since < Span::ZERO || since > window {
            return None;
        }
        let name = campaign.filter(|name| !name.is_empty()).unwrap_or(UNKNOWN_CAMPAIGN);
        let name: Box<str> = Box::from(&name[..name.floor_char_boundary(CAMPAIGN_BYTES_MAX)]);
        self.campaign = Some(name.clone());
        Some(Attribution { campaign: name, at })
    }

    /// Whether the user was active on day `k` after the return, 1 to 30.
    #[must_use]
    pub const fn active_on(&self, day: u8) -> bool {
        day <= CURVE_DAYS && self.active_days & (1 << day) != 0
    }

    /// How far the user got.
    #[must_use]
    pub const fn funnel(&self) -> Funnel {
        match self.core_actions {
            (None, _) => Funnel::Returned,
            (Some(_), None) => Funnel::FirstCore,
            (Some(_), Some(_)) => Funnel::SecondCore,
        }
    }

    /// From the return to the second core action.
    #[must_use]
    pub fn to_second_core(&self) -> Option<Span> {
        self.core_actions.1.map(|second| second - self.at)
    }

    /// Whether nothing can change any more as of `watermark`, late events aside: what is aggregated stays, and the user
    /// need not keep this.
    #[must_use]
    pub fn is_over(&self, watermark: EventTime) -> bool {
        watermark >= self.at + Span::from_days(i64::from(CURVE_DAYS) + 1)
    }

    fn add_core(&mut self, at: EventTime) {
        let (first, second) = self.core_actions;
        self.core_actions = match (first, second) {
            (None, _) => (Some(at), None),
            (Some(first), _) if at < first => (Some(at), Some(first)),
            (Some(first), None) => (Some(first), Some(at)),
            (Some(first), Some(second)) => (Some(first), Some(second.min(at))),
        };
    }
}
