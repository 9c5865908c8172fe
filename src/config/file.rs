//! The file as typed: a TOML table with the environment laid over it, read value by value under full paths.
//!
//! Reading never stops at the first mistake: a value of the wrong kind is noted, its default stands in, and reading goes
//! on. Every path that is asked for is thereby known, so that what is left over at the end is what nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use toml::{Table, Value};

use super::problem::Problem;
use super::units;
use crate::time::Span;

/// What the environment variables begin with.
const PREFIX: &str = "EBBTIDE_";
/// Top-level keys that the environment may set. Others need a section: an orchestrator sets variables such as
/// `EBBTIDE_PORT` and `EBBTIDE_SERVICE_HOST` by itself for a service of this name, and means nothing by them.
const TOP_LEVEL: [&str; 5] = ["instance_id", "workers", "commit_interval", "standbys", "segments"];
/// What turns an optional rule off.
const OFF: &str = "off";

/// A configuration being read.
#[derive(Debug)]
pub struct Reader {
    root: Table,
    /// Path to variable name and raw text.
    env: BTreeMap<String, (String, String)>,
    known: BTreeSet<String>,
    /// Paths below which any key is allowed.
    free: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Lays the environment over the file.
    #[must_use]
    pub fn new(root: Table, env: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut reader =
            Self { root, env: BTreeMap::new(), known: BTreeSet::new(), free: BTreeSet::new(), problems: Vec::new() };
        for (variable, text) in env {
            if let Some(path) = variable.strip_prefix(PREFIX).map(str::to_ascii_lowercase)
                && (path.contains("__") || TOP_LEVEL.contains(&path.as_str()))
            {
                reader.lay_over(&path.replace("__", "."), variable, text);
            }
        }
        reader
    }

    fn lay_over(&mut self, path: &str, variable: String, text: String) {
        // `true`, `3` and `["a"]` mean what they would mean in the file; everything else is text.
        let value = format!("value = {text}").parse::<Table>().ok().filter(|table| table.len() == 1);
        let value = value.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.clone()));
        let mut table = &mut self.root;
        let mut keys = path.split('.').peekable();
        while let Some(key) = keys.next() {
            if keys.peek().is_none() {
                table.insert(key.to_owned(), value);
                break;
            }
            let entry = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            let Value::Table(inner) = entry else { break };
            table = inner;
        }
        self.env.insert(path.to_owned(), (variable, text));
    }

    /// Notes a problem.
    pub fn problem(&mut self, path: &str, message: impl Display) {
        let origin = self.env.get(path).map(|(variable, _)| format!(" (set by {variable})")).unwrap_or_default();
        self.problems.push(Problem { path: path.to_owned(), message: format!("{message}{origin}") });
    }

    /// Whether anything was noted at or below `path`.
    #[must_use]
    pub fn has_problem(&self, path: &str) -> bool {
        self.problems.iter().any(|problem| problem.path.starts_with(path))
    }

    /// The value at `path`, if it is there.
    pub fn value(&mut self, path: &str) -> Option<Value> {
        self.known.insert(path.to_owned());
        let mut keys = path.split('.');
        let mut value = self.root.get(keys.next()?)?;
        for key in keys {
            value = value.as_table()?.get(key)?;
        }
        Some(value.clone())
    }

    /// Whether `path` is there at all.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        let mut keys = path.split('.');
        let first = keys.next().and_then(|key| self.root.get(key));
        keys.fold(first, |value, key| value?.as_table()?.get(key)).is_some()
    }

    fn wrong_kind(&mut self, path: &str, wanted: &str, value: &Value) {
        self.problem(path, format_args!("must be {wanted}, not {}", kind(value)));
    }

    /// Text; from the environment whatever was typed.
    pub fn text(&mut self, path: &str) -> Option<String> {
        let value = self.value(path)?;
        if let Some((_, raw)) = self.env.get(path) {
            return Some(value.as_str().map_or_else(|| raw.clone(), str::to_owned));
        }
        match value {
            Value::String(text) => Some(text),
            other => {
                self.wrong_kind(path, "text in quotes", &other);
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, path: &str, default: bool) -> bool {
        match self.value(path) {
            None => default,
            Some(Value::Boolean(value)) => value,
            Some(other) => {
                self.wrong_kind(path, "true or false", &other);
                default
            }
        }
    }

    /// A whole number of `least ..= most`.
    pub fn integer(&mut self, path: &str, least: i64, most: i64) -> Option<i64> {
        match self.value(path)? {
            Value::Integer(number) if (least..=most).contains(&number) => Some(number),
            Value::Integer(number) => {
                self.problem(path, format_args!("must be {least} to {most}, not {number}"));
                None
            }
            other => {
                self.wrong_kind(path, "a whole number", &other);
                None
            }
        }
    }

    /// A number for which `fits` holds; `wanted` says in words what that is.
    pub fn number(&mut self, path: &str, wanted: &str, fits: impl Fn(f64) -> bool) -> Option<f64> {
        let value = self.value(path)?;
        #[expect(clippy::cast_precision_loss, reason = "a parameter beyond 2^53 fits no rule anyway")]
        let number = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
        match number {
            Some(number) if fits(number) => Some(number),
            Some(number) => {
                self.problem(path, format_args!("must be {wanted}, not {number}"));
                None
            }
            None => {
                self.wrong_kind(path, wanted, &value);
                None
            }
        }
    }

    /// A length of time, zero included.
    pub fn span(&mut self, path: &str, default: Span) -> Span {
        self.optional_span(path).unwrap_or(default)
    }

    /// A length of time above zero.
    pub fn positive_span(&mut self, path: &str, default: Span) -> Span {
        let span = self.span(path, default);
        if span <= Span::ZERO {
            self.problem(path, "must be longer than zero");
            return default;
        }
        span
    }

    /// A length of time above zero, or `"off"` (also written `false`).
    pub fn span_or_off(&mut self, path: &str, default: Option<Span>) -> Option<Span> {
        match self.value(path) {
            None => default,
            Some(value) if is_off(&value) => None,
            Some(_) => match self.optional_span(path) {
                Some(span) if span <= Span::ZERO => {
                    self.problem(path, "must be longer than zero, or \"off\"");
                    default
                }
                Some(span) => Some(span),
                None => default,
            },
        }
    }

    /// A length of time, zero included, that may be left out.
    pub fn optional_span(&mut self, path: &str) -> Option<Span> {
        let value = self.value(path)?;
        let parsed = match &value {
            Value::String(text) => units::parse_span(text),
            // Zero needs no unit.
            Value::Integer(number) => units::parse_span(&number.to_string()),
            Value::Float(number) => units::parse_span(&number.to_string()),
            other => Err(format!("must be a length of time like \"30d\", not {}", kind(other))),
        };
        parsed.map_err(|message| self.problem(path, message)).ok()
    }

    /// A size in bytes.
    pub fn size(&mut self, path: &str, default: u64) -> u64 {
        let parsed = match self.value(path) {
            None => return default,
            Some(Value::String(text)) => units::parse_size(&text),
            Some(Value::Integer(number)) => u64::try_from(number).map_err(|_| "must not be negative".to_owned()),
            Some(other) => Err(format!("must be a size like \"256MiB\", not {}", kind(&other))),
        };
        parsed.unwrap_or_else(|message| {
            self.problem(path, message);
            default
        })
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, path: &str, words: &[(&str, T)], default: T) -> T {
        let Some(text) = self.text(path) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let guess = nearest(&text, all.iter().copied()).map(|word| format!("; did you mean `{word}`?"));
        self.problem(path, format_args!("`{text}` is none of {}{}", all.join(", "), guess.unwrap_or_default()));
        default
    }

    /// A list of texts; from the environment also separated by commas.
    pub fn texts(&mut self, path: &str) -> Option<Vec<String>> {
        let items = self.list(path)?;
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text),
                other => self.wrong_kind(&format!("{path}[{index}]"), "text in quotes", &other),
            }
        }
        Some(texts)
    }

    /// A list of anything; from the environment also texts separated by commas.
    pub fn list(&mut self, path: &str) -> Option<Vec<Value>> {
        match self.value(path)? {
            Value::Array(items) => Some(items),
            Value::String(text) if self.env.contains_key(path) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(items.map(|item| Value::String(item.to_owned())).collect())
            }
            other => {
                self.wrong_kind(path, "a list like [\"a\", \"b\"]", &other);
                None
            }
        }
    }

    /// Everything below `path` as texts, under dotted names: `sasl.mechanism = ".."` and `"sasl.mechanism" = ".."` are
    /// the same.
    pub fn free_texts(&mut self, path: &str) -> BTreeMap<String, String> {
        self.free.insert(path.to_owned());
        let mut texts = BTreeMap::new();
        match self.value(path) {
            None => {}
            Some(Value::Table(table)) => self.flatten(path, "", table, &mut texts),
            Some(other) => self.wrong_kind(path, "a table", &other),
        }
        texts
    }

    fn flatten(&mut self, path: &str, prefix: &str, table: Table, texts: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            let here = format!("{path}.{name}");
            let raw = self.env.get(&here).filter(|_| !value.is_str()).map(|(_, raw)| raw.clone());
            match (raw, value) {
                (Some(text), _) | (None, Value::String(text)) => drop(texts.insert(name, text)),
                (None, Value::Integer(number)) => drop(texts.insert(name, number.to_string())),
                (None, Value::Float(number)) => drop(texts.insert(name, number.to_string())),
                (None, Value::Boolean(truth)) => drop(texts.insert(name, truth.to_string())),
                (None, Value::Table(inner)) => self.flatten(path, &name, inner, texts),
                (None, other) => self.wrong_kind(&here, "text, a number, true or false", &other),
            }
        }
    }

    /// Every problem, those of keys that nobody asked for included, by path.
    #[must_use]
    pub fn finish(mut self) -> Vec<Problem> {
        let root = std::mem::take(&mut self.root);
        self.unknown("", &root);
        self.problems.sort();
        self.problems.dedup();
        self.problems
    }

    fn unknown(&mut self, prefix: &str, table: &Table) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            if self.known.contains(&path) || self.free.contains(&path) {
                continue;
            }
            let below = format!("{path}.");
            let is_section = self.known.iter().any(|known| known.starts_with(&below));
            match value {
                Value::Table(inner) if is_section => self.unknown(&path, inner),
                other if is_section => self.wrong_kind(&path, &format!("a section [{path}]"), other),
                _ => {
                    let elsewhere = format!(".{key}");
                    let moved = self.known.iter().find(|known| known.ends_with(&elsewhere)).cloned();
                    let guess = moved
                        .or_else(|| self.suggest(prefix, key))
                        .map(|known: String| format!("; did you mean `{known}`?"));
                    self.problem(&path, format_args!("no such key{}", guess.unwrap_or_default()));
                }
            }
        }
    }

    /// The key that was probably meant: one that reads alike in the same section, one of the same name elsewhere, or a
    /// section that reads alike.
    fn suggest(&self, prefix: &str, key: &str) -> Option<String> {
        let own: BTreeSet<&str> = self
            .known
            .iter()
            .filter_map(|known| {
                if prefix.is_empty() { Some(known.as_str()) } else { known.strip_prefix(prefix)?.strip_prefix('.') }
            })
            .map(|rest| rest.split('.').next().unwrap_or(rest))
            .collect();
        if let Some(found) = nearest(key, own.iter().copied()) {
            return Some(if prefix.is_empty() { found.to_owned() } else { format!("{prefix}.{found}") });
        }
        let last = |known: &String| known.rsplit('.').next() == Some(key);
        self.known.iter().find(|known| last(known)).cloned().or_else(|| {
            let names: BTreeSet<&str> = self.known.iter().filter_map(|known| known.rsplit('.').next()).collect();
            let found = nearest(key, names.iter().copied())?;
            self.known.iter().find(|known| known.rsplit('.').next() == Some(found)).cloned()
        })
    }
}

/// Whether a value turns an optional rule off.
#[must_use]
pub fn is_off(value: &Value) -> bool {
    value.as_str() == Some(OFF) || value.as_bool() == Some(false)
}

/// The word that reads most like `typed`, if one does: at most a third of it differs.
fn nearest<'w>(typed: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    let limit = (typed.chars().count() / 3).max(1);
    words
        .map(|word| (strsim::damerau_levenshtein(&typed, &word.replace('-', "_")), word))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, word)| word)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
