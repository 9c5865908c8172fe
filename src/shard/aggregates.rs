//! What is counted over a shard's users beside the cohorts, kept exactly and at once: how many are in each segment, what
//! became of those who returned, and whether those who entered a segment returned (SPEC-WINBACK section 10).
//!
//! There are two ways of counting, and a new aggregate takes one of them:
//!
//! - **Facts** are counted once, when they happen, and stay: a return, an attribution, an entry into a segment. The turn
//!   of the user calls a verb here ([`Aggregates::returned`] …).
//! - **Users as they are** are counted by their [`Share`], once a commit: the shard takes it before a user's first change
//!   and when it seals, and [`Aggregates::replace`] counts the difference. Whoever is gone has none.
//!
//! Both write cells of the [`Ledger`], which sees to roll-backs, commits, restarts, and adding up shards. The first byte
//! of a cell's key says what it counts:
//!
//! | key                                                  | counts                                                    |
//! |------------------------------------------------------|-----------------------------------------------------------|
//! | `s` segment                                          | users in it                                               |
//! | `r` away from (1), day (4), campaign                 | returned; active on day 1 … 30; first, second core action |
//! | `c` campaign                                         | attributed returns                                        |
//! | `l` day (4), segment                                 | treated: entered, returned; held out: entered, returned   |
//!
//! The cells of retention reports and of signals are told in [`counted`](super::counted).
//!
//! Days are UTC days, big-endian with the sign bit flipped; they are kept for [`KEPT_DAYS`] behind the watermark.

use crate::lifecycle::State;
use crate::shard::ledger::{Ledger, PLACES_MAX};
use crate::shard::share::Share;
use crate::signals;
use crate::store::{Store, StoreError};
use crate::time::{Day, EventTime};
use crate::win_back::comeback::{CURVE_DAYS, Comeback, Funnel};
use crate::win_back::trail::{Entry, RETURN_WITHIN};
use crate::win_back::{Arm, ReturnsCurve};

const SEGMENT: u8 = b's';
const RETURNS: u8 = b'r';
const CAMPAIGN: u8 = b'c';
const LIFT: u8 = b'l';

/// At most so many campaigns of a shard are told apart, those that were there first; the others are [`OTHER`].
pub const CAMPAIGNS_MAX: usize = 100;
/// All campaigns beyond [`CAMPAIGNS_MAX`] together.
pub const OTHER: &str = "(other)";
/// So many days behind the watermark are kept by day.
pub const KEPT_DAYS: i32 = 400;

/// More than any count is, and so few that those of any number of shards add up.
const COUNT_MAX: u64 = 1 << 48;

const DAY_LEN: usize = 4;
const FIRST_CORE: usize = CURVE_DAYS as usize + 1;
const SECOND_CORE: usize = CURVE_DAYS as usize + 2;

/// One shard's counts, or several shards' added up.
#[derive(Clone, Debug, Default)]
pub struct Aggregates {
    ledger: Ledger,
    /// Everything before this day is gone from the ledger.
    kept_from: Option<Day>,
}

/// What should be cells of another instance is none: it may be of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no cell of counts")]
pub struct CellError;

/// Returns of one day, state that was returned from, and campaign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returns {
    /// The UTC day of the return.
    pub day: Day,
    /// Lapsed or churned.
    pub away_from: State,
    /// `None` for those that no campaign brought.
    pub campaign: Option<Box<str>>,
    /// What became of them.
    pub curve: ReturnsCurve,
}

/// The two groups of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arms {
    /// Those whom the deliveries reached.
    pub treated: Arm,
    /// Those who were held out.
    pub held_out: Arm,
}

impl From<Ledger> for Aggregates {
    fn from(ledger: Ledger) -> Self {
        Self { ledger, kept_from: None }
    }
}

impl Aggregates {
    /// As a store has them.
    ///
    /// # Errors
    /// The store failed or is damaged.
    pub fn load(store: &impl Store) -> Result<Self, StoreError> {
        Ok(Self { ledger: Ledger::load(store, &[])?, kept_from: None })
    }

    /// Of a store, the sizes of segments and who returned of those who entered.
    ///
    /// # Errors
    /// The store failed or is damaged.
    pub fn load_segments(store: &impl Store) -> Result<Self, StoreError> {
        Self::load_kinds(store, [&[SEGMENT][..], &[LIFT]])
    }

    /// Of a store, what became of those who returned, and campaigns.
    ///
    /// # Errors
    /// The store failed or is damaged.
    pub fn load_returns(store: &impl Store) -> Result<Self, StoreError> {
        Self::load_kinds(store, [&[RETURNS][..], &[CAMPAIGN]])
    }

    /// The cells whose keys begin with one of `prefixes`, of which none begins with another.
    pub(super) fn load_kinds<'p>(
        store: &impl Store,
        prefixes: impl IntoIterator<Item = &'p [u8]>,
    ) -> Result<Self, StoreError> {
        let mut ledger = Ledger::default();
        for prefix in prefixes {
            ledger.merge(&Ledger::load(store, prefix)?);
        }
        Ok(Self::from(ledger))
    }

    /// Every cell, for another instance; in no order.
    pub fn cells(&self) -> impl Iterator<Item = (&[u8], &[u64])> {
        self.ledger.cells(&[])
    }

    /// From the cells of another instance.
    ///
    /// # Errors
    /// [`CellError`]: these are no cells.
    pub fn from_cells(cells: impl IntoIterator<Item = (Vec<u8>, Vec<u64>)>) -> Result<Self, CellError> {
        let mut ledger = Ledger::default();
        for (key, counts) in cells {
            let fits = !key.is_empty() && counts.len() <= PLACES_MAX && counts.iter().all(|count| *count <= COUNT_MAX);
            if !fits {
                return Err(CellError);
            }
            ledger.add(&key, counts.into_iter().map(u64::cast_signed).enumerate());
        }
        Ok(Self::from(ledger))
    }

    /// The sizes of a store's segments alone.
    ///
    /// # Errors
    /// The store failed or is damaged.
    pub fn load_sizes(store: &impl Store) -> Result<Self, StoreError> {
        Ledger::load(store, &[SEGMENT]).map(Self::from)
    }

    /// Adds another shard's counts.
    pub fn merge(&mut self, other: &Self) {
        self.ledger.merge(&other.ledger);
    }

    // --- Users as they are.

    /// A user has changed.
    pub(crate) fn replace(&mut self, before: &Share, after: &Share) {
        if before.tallies != after.tallies {
            before.tallies.iter().for_each(|(number, tally)| self.retained(*number, *tally, -1));
            after.tallies.iter().for_each(|(number, tally)| self.retained(*number, *tally, 1));
        }
        if before.features != after.features {
            signals::differences(&before.features, &after.features, |group, dimension, value, by| {
                self.shows(group, dimension, value, by);
            });
        }
    }

    // --- Facts.

    /// A user enters a segment, or leaves it (`by` is 1 or -1).
    pub(crate) fn moved(&mut self, segment: &str, by: i64) {
        self.ledger.add(&named(SEGMENT, segment), [(0, by)]);
    }

    /// An entry into a segment counts for the lift.
    pub(crate) fn entered(&mut self, segment: &str, entry: &Entry) {
        self.lift(segment, entry, 0);
    }

    /// A user returned within the time that counts for this entry.
    pub(crate) fn returned_from(&mut self, segment: &str, entry: &Entry) {
        self.lift(segment, entry, 1);
    }

    fn lift(&mut self, segment: &str, entry: &Entry, place: usize) {
        if self.is_kept(entry.at.day()) {
            let key = [&[LIFT][..], &ordered(entry.at.day()), segment.as_bytes()].concat();
            self.ledger.add(&key, [(2 * usize::from(entry.held_out) + place, 1)]);
        }
    }

    /// A user returned.
    pub(crate) fn returned(&mut self, comeback: &Comeback) {
        self.count(comeback, 1);
    }

    /// What became of a return has changed: `before` is as it was last counted.
    pub(crate) fn went_on(&mut self, before: &Comeback, after: &Comeback) {
        if before != after {
            self.count(before, -1);
            self.count(after, 1);
        }
    }

    /// A return is attributed to a campaign; to be called before [`Aggregates::went_on`]. Returns the name by which the
    /// campaign is counted.
    pub(crate) fn attributed<'c>(&mut self, campaign: &'c str) -> &'c str {
        let known = !self.ledger.counts(&named(CAMPAIGN, campaign)).is_empty();
        let label = if known || self.ledger.len_of(CAMPAIGN) < CAMPAIGNS_MAX { campaign } else { OTHER };
        self.ledger.add(&named(CAMPAIGN, label), [(0, 1)]);
        label
    }

    fn count(&mut self, comeback: &Comeback, by: i64) {
        if !self.is_kept(comeback.at.day()) {
            return;
        }
        let label = comeback.campaign.as_deref().map_or("", |campaign| {
            let known = !self.ledger.counts(&named(CAMPAIGN, campaign)).is_empty();
            if known { campaign } else { OTHER }
        });
        let day = ordered(comeback.at.day());
        let key = [&[RETURNS, comeback.away_from as u8][..], &day, label.as_bytes()].concat();
        let active = (1..=CURVE_DAYS).filter(|day| comeback.active_on(*day)).map(usize::from);
        let first = (comeback.funnel() >= Funnel::FirstCore).then_some(FIRST_CORE);
        let second = (comeback.funnel() >= Funnel::SecondCore).then_some(SECOND_CORE);
        self.ledger.add(&key, [0].into_iter().chain(active).chain(first).chain(second).map(|place| (place, by)));
    }

    // --- Upkeep.

    /// Lets go of days long past; once a day of the watermark.
    pub(crate) fn keep_to(&mut self, watermark: EventTime) {
        let from = Day::from_number(watermark.day().number().saturating_sub(KEPT_DAYS));
        if self.kept_from.is_some_and(|known| known >= from) {
            return;
        }
        self.kept_from = Some(from);
        self.ledger.retain(|key| day_of(key).is_none_or(|day| day >= from));
    }

    fn is_kept(&self, day: Day) -> bool {
        self.kept_from.is_none_or(|from| day >= from)
    }

    pub(crate) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) const fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    pub(crate) fn committed(&mut self) {
        self.ledger.committed();
    }

    pub(crate) fn rollback(&mut self) {
        self.ledger.rollback();
        self.kept_from = None;
    }

    // --- What there is.

    /// How many users are in a segment.
    #[must_use]
    pub fn size(&self, segment: &str) -> u64 {
        self.ledger.counts(&named(SEGMENT, segment)).first().copied().unwrap_or(0)
    }

    /// Attributed returns by campaign; at most [`CAMPAIGNS_MAX`] and [`OTHER`] a shard.
    pub fn campaigns(&self) -> impl Iterator<Item = (&str, u64)> {
        let cells = self.ledger.cells(&[CAMPAIGN]);
        cells.filter_map(|(key, counts)| Some((std::str::from_utf8(&key[1..]).ok()?, *counts.first()?)))
    }

    /// Everybody who returned, by day, state and campaign, in this order.
    #[must_use]
    pub fn returns(&self) -> Vec<Returns> {
        let cells = self.ledger.cells(&[RETURNS]);
        let mut all: Vec<Returns> = cells.filter_map(|(key, counts)| returns(key, counts)).collect();
        let order = |a: &Returns| (a.day, a.away_from, a.campaign.clone());
        all.sort_by_key(order);
        all
    }

    /// The two groups of a segment: everybody who entered it on a day since `from` after whose end
    /// [`RETURN_WITHIN`] has passed at the watermark, and those of them who returned in that time.
    #[must_use]
    pub fn arms(&self, segment: &str, from: Option<Day>, watermark: EventTime) -> Arms {
        let mut arms = Arms::default();
        for (key, counts) in self.ledger.cells(&[LIFT]) {
            let Some(day) = day_of(key).filter(|day| from.is_none_or(|from| *day >= from)) else { continue };
            let next_day = Day::from_number(day.number().saturating_add(1));
            if &key[1 + DAY_LEN..] != segment.as_bytes() || next_day.start() + RETURN_WITHIN > watermark {
                continue;
            }
            let count = |place: usize| counts.get(place).copied().unwrap_or(0);
            arms.treated.users += count(0);
            arms.treated.returned += count(1);
            arms.held_out.users += count(2);
            arms.held_out.returned += count(3);
        }
        arms
    }
}

fn named(kind: u8, name: &str) -> Vec<u8> {
    [&[kind][..], name.as_bytes()].concat()
}

/// The order of the bytes is the order of the days.
const fn ordered(day: Day) -> [u8; DAY_LEN] {
    (day.number().cast_unsigned() ^ (1 << 31)).to_be_bytes()
}

fn day_at(key: &[u8], place: usize) -> Option<Day> {
    let bytes = key.get(place..place + DAY_LEN)?.try_into().ok()?;
    Some(Day::from_number((u32::from_be_bytes(bytes) ^ (1 << 31)).cast_signed()))
}

/// The day of a cell that has one.
fn day_of(key: &[u8]) -> Option<Day> {
    match *key.first()? {
        RETURNS => day_at(key, 2),
        LIFT => day_at(key, 1),
        _ => None,
    }
}

fn returns(key: &[u8], counts: &[u64]) -> Option<Returns> {
    let count = |place: usize| counts.get(place).copied().unwrap_or(0);
    let curve = ReturnsCurve {
        returned: count(0),
        active: std::array::from_fn(|day| count(day + 1)),
        first_core: count(FIRST_CORE),
        second_core: count(SECOND_CORE),
    };
    let campaign = std::str::from_utf8(key.get(2 + DAY_LEN..)?).ok()?;
    Some(Returns {
        day: day_at(key, 2)?,
        away_from: *State::ALL.get(usize::from(key[1]))?,
        campaign: (!campaign.is_empty()).then(|| campaign.into()),
        curve,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    fn day(days: i64) -> EventTime {
        EventTime::from_millis(0) + Span::from_days(days)
    }

    #[test]
    fn a_return_moves_to_its_campaign_and_its_curve_grows() {
        let mut aggregates = Aggregates::default();
        let mut comeback = Comeback::new(day(10), 3, State::Churned, day(1));
        aggregates.returned(&comeback);
        let before = comeback.clone();
        comeback.record(day(12), true);
        comeback.attribute(day(10), Some("spring"), Span::ZERO).expect("the first");
        assert_eq!(aggregates.attributed("spring"), "spring");
        aggregates.went_on(&before, &comeback);
        let all = aggregates.returns();
        assert_eq!(all.len(), 1, "the cell without a campaign is empty: {all:?}");
        assert_eq!(
            (all[0].day, all[0].away_from, all[0].campaign.as_deref()),
            (day(10).day(), State::Churned, Some("spring"))
        );
        assert_eq!((all[0].curve.returned, all[0].curve.active[1], all[0].curve.first_core), (1, 1, 1));
        assert_eq!(aggregates.campaigns().collect::<Vec<_>>(), [("spring", 1)]);
    }

    #[test]
    fn campaigns_beyond_the_bound_are_counted_together() {
        let mut aggregates = Aggregates::default();
        for number in 0..CAMPAIGNS_MAX + 20 {
            let mut comeback = Comeback::new(day(10), 3, State::Lapsed, day(1));
            aggregates.returned(&comeback);
            let before = comeback.clone();
            let name = format!("campaign {number}");
            comeback.attribute(day(10), Some(&name), Span::ZERO).expect("the first");
            assert_eq!(aggregates.attributed(&name), if number < CAMPAIGNS_MAX { &name } else { OTHER });
            aggregates.went_on(&before, &comeback);
            // Counted out and in again under the same name.
            let before = comeback.clone();
            comeback.record(day(13), false);
            aggregates.went_on(&before, &comeback);
        }
        let other = aggregates.returns().into_iter().find(|returns| returns.campaign.as_deref() == Some(OTHER));
        assert_eq!(other.map(|other| (other.curve.returned, other.curve.active[2])), Some((20, 20)));
        assert_eq!(aggregates.campaigns().count(), CAMPAIGNS_MAX + 1);
    }

    #[test]
    fn the_lift_waits_until_everybody_had_thirty_days() {
        let mut aggregates = Aggregates::default();
        let entry = |at, held_out| Entry { segment: 0, at, held_out, returned: false };
        for (at, held_out, returned) in [(5, false, true), (5, false, false), (5, true, true), (6, true, false)] {
            aggregates.entered("s", &entry(day(at), held_out));
            if returned {
                aggregates.returned_from("s", &entry(day(at), held_out));
            }
        }
        aggregates.entered("t", &entry(day(5), false));
        let arm = |users, returned| Arm { users, returned };
        let millisecond = Span::from_millis(1);
        assert_eq!(aggregates.arms("s", None, day(36) - millisecond), Arms::default());
        assert_eq!(aggregates.arms("s", None, day(36)), Arms { treated: arm(2, 1), held_out: arm(1, 1) });
        assert_eq!(aggregates.arms("s", None, day(37)), Arms { treated: arm(2, 1), held_out: arm(2, 1) });
        let later = aggregates.arms("s", Some(day(6).day()), day(37));
        assert_eq!(later, Arms { treated: arm(0, 0), held_out: arm(1, 0) });
    }

    #[test]
    fn days_long_past_are_let_go() {
        let mut aggregates = Aggregates::default();
        let comeback = |at| Comeback::new(day(at), 3, State::Lapsed, day(1));
        aggregates.returned(&comeback(10));
        aggregates.returned(&comeback(11));
        aggregates.moved("s", 1);
        aggregates.keep_to(day(411));
        let days: Vec<Day> = aggregates.returns().iter().map(|returns| returns.day).collect();
        assert_eq!(days, [day(11).day()]);
        aggregates.went_on(&comeback(10), &Comeback { active_days: 3, ..comeback(10) });
        assert_eq!((aggregates.returns().len(), aggregates.size("s")), (1, 1));
    }
}
