//! Retention's promises: cohorts by tables, and every order of events within the bound against a naive count.

use proptest::prelude::*;

use super::*;

const HOUR_MS: i64 = 3_600_000;

fn report(period: Period, count: u8) -> Report {
    Report { name: "core".to_owned(), start: EventList::all(), back: EventList::all(), period, count }
}

fn at(text: &str) -> EventTime {
    let time = chrono::DateTime::parse_from_rfc3339(text).expect("a time");
    EventTime::from_millis(time.timestamp_millis())
}

#[test]
fn cohorts_are_calendar_periods() {
    let table = [
        (Period::Day, "2026-02-28T23:59:59.999Z", "2026-02-28", "2026-03-01"),
        (Period::Week, "2026-03-01T23:59:59.999Z", "2026-02-23", "2026-03-02"),
        (Period::Week, "2026-03-02T00:00:00Z", "2026-03-02", "2026-03-09"),
        (Period::Week, "1969-12-31T12:00:00Z", "1969-12-29", "1970-01-05"),
        (Period::Month, "2024-02-29T12:00:00Z", "2024-02-01", "2024-03-01"),
        (Period::Month, "1969-12-31T12:00:00Z", "1969-12-01", "1970-01-01"),
    ];
    for (period, time, first, next) in table {
        let cohort = period.cohort(at(time));
        let days = [cohort, period.next(cohort)].map(|day| day.start().to_string());
        assert_eq!(days, [first, next].map(|day| format!("{day}T00:00:00.000Z")), "{time}");
    }
    for extreme in [EventTime::MIN, EventTime::MAX] {
        for period in Period::ALL {
            let _ = period.next(period.cohort(extreme));
        }
    }
}

#[test]
fn periods_begin_at_the_millisecond_of_the_first_a() {
    let report = report(Period::Day, 2);
    let mut mark = Mark::default();
    let start = at("2026-03-01T10:00:00Z");
    mark.record(&report, start, true, true);
    assert_eq!(mark.periods, 0, "A itself is no return");
    let hours = |hours| start + Span::from_millis(hours * HOUR_MS);
    mark.record(&report, hours(24), false, true);
    assert_eq!(mark.periods, 0b10, "the end of a period belongs to the next");
    mark.record(&report, hours(72), false, true);
    assert_eq!((mark.periods, mark.settled), (0b10, true), "period 3 is none, and A stays where it is");
    mark.record(&report, hours(71), false, true);
    assert_eq!(mark.periods, 0b110, "a late B is counted all the same");
}

/// An A that comes late moves the cohort and every period.
#[test]
fn an_earlier_a_moves_the_cohort_and_its_periods() {
    let report = report(Period::Week, 3);
    let mut mark = Mark::default();
    for (time, is_start) in
        [("2026-03-11T00:00:00Z", true), ("2026-03-12T00:00:00Z", false), ("2026-03-19T00:00:00Z", false)]
    {
        mark.record(&report, at(time), is_start, true);
    }
    assert_eq!(mark.tally(&report).map(|tally| tally.periods), Some(0b11));
    mark.record(&report, at("2026-03-04T12:00:00Z"), true, true);
    let tally = mark.tally(&report).expect("there is an A");
    assert_eq!((tally.cohort, tally.periods), (at("2026-03-02T00:00:00Z").day(), 0b111));
}

#[test]
fn a_cell_is_complete_when_it_is_over_for_the_last_user_of_its_cohort() {
    let report = report(Period::Week, 2);
    let monday = at("2026-03-02T00:00:00Z");
    let complete = |days: i64, ms: i64| {
        let watermark = monday + Span::from_millis(days * DAY_MS + ms);
        (0..=2).map(|k| report.is_complete(monday.day(), k, watermark)).collect::<Vec<_>>()
    };
    assert_eq!(complete(14, -1), [false, false, false]);
    assert_eq!(complete(14, 0), [true, false, false]);
    assert_eq!(complete(28, 0), [true, true, true]);
}

/// What a recount over all events of a user gives.
fn naive(report: &Report, events: &[(i64, bool, bool)]) -> Option<Tally> {
    let start = events.iter().filter(|event| event.1).map(|event| event.0).min()?;
    let len = report.period.len().as_millis();
    let mut periods = 0;
    for (time, _, is_return) in events {
        let k = (time - start).div_euclid(len);
        if *is_return && *time > start && k <= i64::from(report.count) {
            periods |= 1 << k;
        }
    }
    Some(Tally { cohort: report.period.cohort(EventTime::from_millis(start)), periods })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Events in any order that keeps to the bound, duplicates among them: at every moment the tally is that of a recount.
    #[test]
    fn tallies_equal_a_recount_at_every_moment(
        period in prop::sample::select(Period::ALL.to_vec()),
        count in 1_u8..6,
        steps in prop::collection::vec((-24_i64..8, -1_i64..2, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let report = report(period, count);
        // Quarters of a period, a millisecond more or less: most bounds are met exactly, and most just missed.
        let (unit, reach) = (period.len().as_millis() / 4, report.reach().as_millis());
        let (mut mark, mut events, mut clock) = (Mark::default(), Vec::new(), at("2026-01-01T00:00:00Z").as_millis());
        for (ahead, edge, is_start, is_return) in steps {
            let time = clock / unit * unit + ahead * unit + edge;
            let time = time.max(clock - reach + 1);
            clock = clock.max(time);
            // What is neither does not reach the report.
            let is_return = is_return || !is_start;
            events.push((time, is_start, is_return));
            mark.record(&report, EventTime::from_millis(time), is_start, is_return);
            prop_assert_eq!(mark.tally(&report), naive(&report, &events), "{:?}", events);
            prop_assert!(mark.returns.len() <= Mark::returns_max(count), "{} are kept", mark.returns.len());
        }
    }
}
