//! Calibration against the published estimates for the CDNOW sample, and against small histories counted by hand.

use std::io::{BufReader, Cursor};

use super::bg_nbd::{FitProblem, Summary, fit, log_likelihood, summarise};
use super::render::render;
use super::*;
use crate::event::{Decoder, EventRules};
use crate::lifecycle::policy::Survival;
use crate::lifecycle::survival;

const CDNOW: &[u8] = include_bytes!("../../tests/data/cdnow-sample.jsonl.gz");

fn decoder() -> Decoder {
    Decoder::new(EventRules::default()).expect("the default rules are sound")
}

fn day(text: &str) -> Day {
    let date: chrono::NaiveDate = text.parse().expect("a date");
    let number = date.signed_duration_since(chrono::NaiveDate::default()).num_days();
    Day::from_number(i32::try_from(number).expect("a day of our era"))
}

fn options(decoder: &Decoder) -> Options<'_> {
    let now = WallTime::from_millis(1_800_000_000_000);
    Options { decoder, until: None, unit: Unit::Day, observed_days: None, now }
}

fn cdnow() -> BufReader<flate2::read::GzDecoder<&'static [u8]>> {
    BufReader::new(flate2::read::GzDecoder::new(CDNOW))
}

/// Events of users on days, as JSON lines.
fn lines(active: &[(&str, &[i64])]) -> Cursor<Vec<u8>> {
    let line =
        |user: &str, day: &i64| format!("{{\"user_id\":\"{user}\",\"event\":\"e\",\"time\":{}}}\n", day * 86_400);
    let text: String = active.iter().flat_map(|(user, days)| days.iter().map(|day| line(user, day))).collect();
    Cursor::new(text.into_bytes())
}

#[test]
fn the_published_estimates_come_out_to_three_digits() {
    let decoder = decoder();
    let until = Some(day("1997-09-30"));
    let report = run(cdnow(), &Options { until, unit: Unit::Week, ..options(&decoder) }).expect("a report");
    assert_eq!((report.data.users, report.data.rejected), (2357, 0));
    let Model::Fitted(fit) = report.model else { panic!("{:?}", report.model) };
    let p = fit.parameters;
    assert_eq!([p.r, p.alpha, p.a, p.b].map(|value| format!("{value:.3}")), ["0.243", "4.414", "0.793", "2.426"]);
    assert!((fit.log_likelihood + 9582.4).abs() < 0.05, "{}", fit.log_likelihood);
    assert!((fit.alpha_days - 7.0 * p.alpha).abs() < 1e-12);
}

#[test]
fn the_unit_of_time_changes_alpha_alone() {
    let decoder = decoder();
    let until = Some(day("1997-09-30"));
    let fitted = |unit| match run(cdnow(), &Options { until, unit, ..options(&decoder) }).expect("a report").model {
        Model::Fitted(fit) => fit,
        model @ Model::NotIdentified { .. } => panic!("{model:?}"),
    };
    let (days, weeks) = (fitted(Unit::Day), fitted(Unit::Week));
    let near = |one: f64, other: f64| assert!((one / other - 1.0).abs() < 1e-4, "{one} against {other}");
    near(days.alpha_days, weeks.alpha_days);
    near(days.parameters.r, weeks.parameters.r);
    near(days.parameters.a, weeks.parameters.a);
    near(days.parameters.b, weeks.parameters.b);
}

/// The summaries as the published table has them: weeks, rounded to two decimals.
fn published_table() -> Vec<Summary> {
    let history = History::read(cdnow(), &decoder(), Some(day("1997-09-30")), options(&decoder()).now).expect("read");
    let two_decimals = |weeks: f64| (weeks * 100.0).round() / 100.0;
    let rounded = |user: Summary| Summary { recency: two_decimals(user.recency), age: two_decimals(user.age), ..user };
    summarise(&history, Unit::Week).into_iter().map(rounded).collect()
}

#[test]
fn the_log_likelihood_of_the_published_table_is_the_known_one() {
    let published = Parameters { r: 0.243, alpha: 4.414, a: 0.793, b: 2.426 };
    let value = log_likelihood(&published_table(), &published);
    assert!((value + 9582.4268).abs() < 5e-5, "{value}");
}

/// An independent search stopped at (.2426, 4.4135, .7928, 2.4256): nothing near it may be higher than what is found here.
#[test]
fn the_maximum_of_the_published_table_is_a_maximum() {
    let table = published_table();
    let found = fit(&table, Unit::Week).expect("a maximum");
    let other = Parameters { r: 0.2426, alpha: 4.4135, a: 0.7928, b: 2.4256 };
    assert!(found.log_likelihood >= log_likelihood(&table, &other));
    for factor in [0.999, 0.9999, 1.0001, 1.001] {
        let p = found.parameters;
        for near in [
            Parameters { r: p.r * factor, ..p },
            Parameters { alpha: p.alpha * factor, ..p },
            Parameters { a: p.a * factor, ..p },
            Parameters { b: p.b * factor, ..p },
            Parameters { a: p.a * factor, b: p.b * factor, ..p },
            Parameters { r: p.r * factor, alpha: p.alpha * factor, ..p },
        ] {
            assert!(log_likelihood(&table, &near) < found.log_likelihood, "{near:?}");
        }
    }
}

/// The engine's P(alive), which takes days, agrees with known figures, which are in weeks.
#[test]
fn p_alive_agrees_with_an_independent_implementation() {
    let rule = Survival { r: 0.243, alpha: 4.414 * 7.0, a: 0.793, b: 2.426, threshold: None, min_repeat: 2 };
    for (x, t_x, age, expected) in
        [(2, 30.43, 38.86, 0.726_579), (1, 1.71, 38.86, 0.212_101), (7, 29.43, 38.86, 0.641_756)]
    {
        let history = survival::History { repeat_days: x, recency_days: t_x * 7.0 };
        let p = rule.p_alive(history, age * 7.0);
        assert!((p - expected).abs() < 1e-6, "{x} {t_x}: {p}");
    }
}

/// The probability of each small history adds up to 1 over all that can happen: a check of the likelihood that knows
/// nothing of its derivation. With `T` = 1 and one repeat at most being likely, x = 0 and x = 1 (integrated over `t_x`)
/// hold nearly everything.
#[test]
fn the_likelihood_is_a_probability() {
    let rare = Parameters { r: 0.5, alpha: 40.0, a: 1.2, b: 2.0 };
    let of = |repeats, recency| log_likelihood(&[Summary { repeats, recency, age: 1.0, users: 1 }], &rare).exp();
    let steps = 1000;
    let once: f64 = (0..steps).map(|i| of(1, (f64::from(i) + 0.5) / f64::from(steps))).sum::<f64>() / f64::from(steps);
    let never = of(0, 0.0);
    // What is missing are two and more repeats: of the order of (r / alpha)^2.
    assert!(never + once < 1.0 && never + once > 0.9997, "{never} + {once}");
}

#[test]
fn without_returns_there_is_no_model() {
    let once = [Summary { repeats: 0, recency: 0.0, age: 30.0, users: 100 }];
    assert_eq!(fit(&once, Unit::Day), Err(FitProblem::NoRepeats));
}

#[test]
fn users_who_are_all_alike_do_not_determine_a_model() {
    let regular = [Summary { repeats: 29, recency: 29.0, age: 29.5, users: 1000 }];
    assert!(matches!(fit(&regular, Unit::Day), Err(FitProblem::Unbounded { .. })), "{:?}", fit(&regular, Unit::Day));
}

#[test]
fn gaps_are_counted_between_distinct_days() {
    let decoder = decoder();
    let report =
        run(lines(&[("a", &[0, 1, 1, 1, 8]), ("b", &[3]), ("c", &[9, 4])]), &options(&decoder)).expect("a report");
    assert_eq!(report.gaps.count, 3);
    assert!((report.gaps.mean_days - 13.0 / 3.0).abs() < 1e-12);
    let of = |percent| report.gaps.percentiles.iter().find(|p| p.percent == percent).map(|p| p.days);
    assert_eq!((of(25), of(50), of(99)), (Some(1), Some(5), Some(7)));
    let total: u64 = report.gaps.classes.iter().map(|class| class.count).sum();
    assert_eq!(total, 3);
}

/// Counted by hand, to day 20, each silence observed for 5 more days.
#[test]
fn returns_count_each_user_at_the_first_silence_of_that_length() {
    let decoder = decoder();
    let history = [
        ("a", &[0, 2, 10][..]), // idle 2 (returned), then 8 (returned), then 10 so far
        ("b", &[0][..]),        // idle 20 so far
        ("c", &[19, 20][..]),   // not observed for 5 days after anything
    ];
    let options = Options { observed_days: Some(5), ..options(&decoder) };
    let report = run(lines(&history), &options).expect("a report");
    let at = |days: usize| (report.returns[days - 1].users, report.returns[days - 1].returned);
    assert_eq!(at(1), (2, 1), "a at its first silence, b");
    assert_eq!(at(2), (2, 1));
    assert_eq!(at(3), (2, 1), "a at its second silence, from day 2");
    assert_eq!(at(8), (2, 1));
    assert_eq!(at(9), (1, 0), "a's third silence reached 9 days at day 19: not observed long enough");
    assert_eq!(at(15), (1, 0));
    assert_eq!(report.returns.len(), 15, "b's silence reached 16 days at day 16: not observed for 5 more");
}

/// Against a count that walks over every user, silence and day.
#[test]
fn returns_equal_a_naive_count_on_the_sample() {
    let history = History::read(cdnow(), &decoder(), None, options(&decoder()).now).expect("read");
    let observed = 120;
    let naive = |idle: u32| {
        let first_silence = |days: &[Day]| {
            let ends = days.iter().skip(1).copied().map(Some).chain([None]);
            days.iter()
                .copied()
                .zip(ends)
                .find(|(start, end)| gaps::days_between(*start, end.unwrap_or(history.last_day())) >= idle)
        };
        let seen = |start: Day| gaps::days_between(start, history.last_day()) >= idle + observed;
        let silences: Vec<_> = history.users().filter_map(first_silence).filter(|(start, _)| seen(*start)).collect();
        (silences.len() as u64, silences.iter().filter(|(_, end)| end.is_some()).count() as u64)
    };
    for after in gaps::returns_by_idle_time(&history, observed) {
        assert_eq!((after.users, after.returned), naive(after.idle_days), "{} days", after.idle_days);
    }
}

#[test]
fn suggested_thresholds_follow_the_shares_and_their_order() {
    let returns: Vec<ReturnsAfter> = (1..=10)
        .map(|day| ReturnsAfter { idle_days: day, users: 100, returned: u64::from(50 - 5 * (day - 1)) })
        .collect();
    assert_eq!(gaps::falls_below(&returns, 0.5), Some(2), "50 % is not below 50 %");
    assert_eq!(gaps::falls_below(&returns, 0.2), Some(8));
    assert_eq!(gaps::falls_below(&returns, 0.04), None);
    let few: Vec<ReturnsAfter> =
        returns.iter().map(|after| ReturnsAfter { users: 29, returned: 0, ..*after }).collect();
    assert_eq!(gaps::falls_below(&few, 0.5), None, "29 users say nothing");
}

#[test]
fn the_picture_has_every_part_and_fits_the_terminal() {
    let decoder = decoder();
    let report = run(cdnow(), &options(&decoder)).expect("a report");
    let text = render(&report);
    for part in
        ["2357 users", "1997-01-01 to 1998-06-30", "inactive_after = \"", "[policy.survival]", "log-likelihood", "█"]
    {
        assert!(text.contains(part), "{part} is missing from\n{text}");
    }
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(120), "{widest:?}\n{text}");
    let json = serde_json::to_value(&report).expect("a report is JSON");
    assert_eq!(json["model"]["outcome"], "fitted");
}

#[test]
fn nothing_but_rubbish_says_what_is_wrong() {
    let decoder = decoder();
    let error = run(Cursor::new(b"nonsense\n\n{}\n".to_vec()), &options(&decoder)).expect_err("no activity");
    assert!(matches!(&error, CalibrateError::NoActivity { lines: 2, rejected: 2, .. }), "{error}");
}

#[test]
fn a_line_without_end_is_skipped_in_bounded_memory() {
    let decoder = decoder();
    let mut text = vec![b' '; 0];
    text.extend_from_slice(b"{\"user_id\":\"");
    text.resize(40 << 20, b'x');
    text.extend_from_slice(b"\n{\"user_id\":\"a\",\"event\":\"e\",\"time\":0}\n");
    let report = run(Cursor::new(text), &options(&decoder)).expect("a report");
    assert_eq!((report.data.users, report.data.rejected), (1, 1));
}
