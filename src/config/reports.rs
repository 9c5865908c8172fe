//! `[[retention]]` and `[signals]`: what is reported of the user base (SPEC-WINBACK sections 11 and 12).

use toml::{Table, Value};

use super::check::{event_list, pattern};
use super::file::Reader;
use crate::event::{EventList, ReportLists};
use crate::retention::{COUNT_MAX, Period, REPORTS_MAX, Report};

/// Longest name of a report: it stands in URLs and under the keys of the changelog.
const NAME_MAX: usize = 64;
/// Periods of a report that names no count: a quarter of weeks.
const DEFAULT_COUNT: u8 = 12;

/// Reads every `[[retention]]`.
pub(super) fn read_retention(reader: &mut Reader) -> Vec<Report> {
    const PATH: &str = "retention";
    let Some(items) = reader.list(PATH) else { return Vec::new() };
    let mut reports: Vec<Report> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let path = format!("{PATH}[{index}]");
        match item {
            // A section without keys is what is left of a commented example: nothing is meant by it.
            Value::Table(table) if table.is_empty() => {}
            Value::Table(table) => {
                let report = report(reader, &path, table);
                if reports.iter().any(|known| known.name == report.name) && !report.name.is_empty() {
                    reader.problem(&format!("{path}.name"), format_args!("`{}` is another report's name", report.name));
                }
                reports.push(report);
            }
            _ => reader.problem(&path, "must be a section [[retention]] with a name, a start and a period"),
        }
    }
    if reports.len() > REPORTS_MAX {
        reader.problem(PATH, format_args!("{} reports, at most {REPORTS_MAX} are possible", reports.len()));
        reports.truncate(REPORTS_MAX);
    }
    reports
}

/// What the decoder has to know of the reports.
pub(super) fn lists(reports: &[Report]) -> Vec<ReportLists> {
    let lists = reports.iter().map(|report| ReportLists { start: report.start.clone(), back: report.back.clone() });
    lists.collect()
}

/// Reads `[signals]`: whether they are kept.
pub(super) fn read_signals(reader: &mut Reader) -> bool {
    reader.boolean("signals.enabled", false)
}

/// One report, read by a reader of its own under its own paths.
fn report(reader: &mut Reader, path: &str, table: Table) -> Report {
    let mut own = Reader::new(table, []);
    let name = own.text("name").unwrap_or_default();
    if name.is_empty() && !own.has_problem("name") {
        own.problem("name", "is needed: what URLs and the output call the report");
    } else if name.len() > NAME_MAX || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    {
        own.problem("name", format_args!("must be 1 to {NAME_MAX} letters, digits, `.`, `_` or `-`"));
    }
    let periods = Period::ALL.map(|period| (period.as_str(), period));
    let count = own.integer("count", 1, i64::from(COUNT_MAX)).and_then(|count| u8::try_from(count).ok());
    let report = Report {
        name,
        start: events(&mut own, "start").unwrap_or_else(EventList::all),
        back: events(&mut own, "return").unwrap_or_else(EventList::all),
        period: own.choice("period", &periods, Period::Week),
        count: count.unwrap_or(DEFAULT_COUNT),
    };
    for problem in own.finish() {
        reader.problem(&format!("{path}.{}", problem.path), problem.message);
    }
    report
}

/// A list of events, or one alone; `None` where nothing is said.
fn events(own: &mut Reader, path: &str) -> Option<EventList> {
    let list = match own.value(path)? {
        Value::Array(_) => event_list(own, path)?,
        one => EventList::new(pattern(own, path, one).into_iter().collect()),
    };
    if list.patterns().is_empty() && !own.has_problem(path) {
        own.problem(path, "is empty, so no event would count; leave it out for every activity");
    }
    Some(list)
}
