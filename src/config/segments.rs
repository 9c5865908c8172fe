//! `[[segments]]` and `[win_back]`: the live audiences, and how what comes of them is measured (SPEC-WINBACK sections 9
//! and 10).

use toml::{Table, Value};

use super::file::Reader;
use crate::lifecycle::State;
use crate::segment::{Draft, Segments};
use crate::win_back::{Holdout, WinBackRules};

/// Draws the held-out users where the configuration names no salt of its own.
const DEFAULT_SALT: &str = "ebbtide";

/// Reads every `[[segments]]`; `track` are the tracked properties.
pub(super) fn read_segments(reader: &mut Reader, track: &[String]) -> Vec<Draft> {
    const PATH: &str = "segments";
    let Some(items) = reader.list(PATH) else { return Vec::new() };
    // A section without keys is what is left of a commented example: nothing is meant by it.
    let items: Vec<Value> =
        items.into_iter().filter(|item| item.as_table().is_none_or(|table| !table.is_empty())).collect();
    let mut drafts = Vec::new();
    let mut places = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let path = format!("{PATH}[{index}]");
        match item {
            Value::Table(table) => {
                drafts.push(draft(reader, &path, table));
                places.push(path);
            }
            _ => reader.problem(&path, "must be a section [[segments]] with a name"),
        }
    }
    // What only the definitions themselves can say; what they say of a value that was not even read would be noise.
    if let Err(problems) = Segments::new(drafts.clone(), track) {
        for (index, problem) in problems {
            let path = places.get(index).map_or_else(|| PATH.to_owned(), |place| format!("{place}.{}", problem.key));
            if !reader.has_problem(&path) {
                reader.problem(&path, problem.message);
            }
        }
    }
    drafts
}

/// One segment, read by a reader of its own under its own paths.
fn draft(reader: &mut Reader, path: &str, table: Table) -> Draft {
    let mut own = Reader::new(table, []);
    let name = own.text("name").unwrap_or_default();
    if name.is_empty() && !own.has_problem("name") {
        own.problem("name", "is needed: what records, metrics and URLs call the segment");
    }
    let draft = Draft {
        name,
        states: states(&mut own),
        activated: own.value("activated").is_some().then(|| own.boolean("activated", false)),
        core_min: count(&mut own, "core_actions.min"),
        core_max: count(&mut own, "core_actions.max"),
        idle_from: own.optional_span("idle.from"),
        idle_to: own.optional_span("idle.to"),
        when: own.text("when"),
    };
    for problem in own.finish() {
        reader.problem(&format!("{path}.{}", problem.path), problem.message);
    }
    draft
}

fn states(own: &mut Reader) -> Vec<State> {
    let Some(names) = own.texts("state") else { return Vec::new() };
    if names.is_empty() {
        own.problem("state", "is empty, so nobody would be in the segment; leave it out for any state");
    }
    let mut states = Vec::with_capacity(names.len());
    for (index, name) in names.into_iter().enumerate() {
        if let Some(state) = State::named(&name) {
            states.push(state);
        } else {
            let all = State::ALL.map(State::as_str).join(", ");
            own.problem(&format!("state[{index}]"), format_args!("`{name}` is none of {all}"));
        }
    }
    states
}

fn count(own: &mut Reader, path: &str) -> Option<u64> {
    own.integer(path, 0, i64::MAX).and_then(|count| u64::try_from(count).ok())
}

/// Reads `[win_back]`.
pub(super) fn read_win_back(reader: &mut Reader) -> WinBackRules {
    let default = WinBackRules::default();
    let window = reader.positive_span("win_back.window", default.window);
    let share = reader.number("win_back.holdout", "0.0 to 1.0", |share| (0.0..=1.0).contains(&share)).unwrap_or(0.0);
    let salt = reader.text("win_back.salt").unwrap_or_else(|| DEFAULT_SALT.to_owned());
    let holdout = if share > 0.0 { Holdout::new(share, salt).ok() } else { None };
    WinBackRules { window, holdout }
}
