//! The figures of all rounds: medians as a table, everything as JSON.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::case::{Case, Figure, Scale};
use crate::usage::machine;

/// Figures by case and name.
pub(crate) struct Report {
    scale: Value,
    machine: String,
    repeat: u16,
    cases: BTreeMap<Case, Vec<Row>>,
}

struct Row {
    name: String,
    unit: String,
    values: Vec<f64>,
}

/// One case's cost over another's.
struct Ratio {
    name: &'static str,
    over: Case,
    under: Case,
    /// What the issues aim at.
    most: Option<f64>,
}

const RATIOS: [Ratio; 4] = [
    Ratio { name: "(b) whole program / (a) floor", over: Case::Hot, under: Case::Floor, most: Some(2.0) },
    Ratio { name: "(c) users at random / (b) hot", over: Case::Random, under: Case::Hot, most: None },
    Ratio { name: "shard alone, hot / decode", over: Case::ShardHot, under: Case::Decode, most: None },
    Ratio {
        name: "shard with segments and reports / hot",
        over: Case::ShardReports,
        under: Case::ShardHot,
        most: Some(1.5),
    },
];

/// The figure that most cases have.
pub(crate) const CPU: &str = "CPU per event";

impl Report {
    pub(crate) fn new(scale: &Scale, repeat: u16) -> anyhow::Result<Self> {
        Ok(Self { scale: serde_json::to_value(scale)?, machine: machine(), repeat, cases: BTreeMap::new() })
    }

    pub(crate) fn add(&mut self, case: Case, figures: Vec<Figure>) {
        let rows = self.cases.entry(case).or_default();
        for Figure { name, unit, value } in figures {
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => row.values.push(value),
                None => rows.push(Row { name, unit, values: vec![value] }),
            }
        }
    }

    fn median(&self, case: Case, name: &str) -> Option<f64> {
        self.cases.get(&case)?.iter().find(|row| row.name == name).map(Row::median)
    }

    /// The table.
    pub(crate) fn print(&self) {
        println!("{}; {} rounds, medians (smallest to largest)", self.machine, self.repeat);
        println!("scale: {}", self.scale);
        for (case, rows) in &self.cases {
            println!("\n{:<14} {}", case.name(), case.title());
            for row in rows {
                let (low, high) = row.range();
                println!(
                    "    {:<38} {:>12} {:<12} ({} to {})",
                    row.name,
                    short(row.median()),
                    row.unit,
                    short(low),
                    short(high)
                );
            }
        }
        println!();
        for ratio in &RATIOS {
            if let Some(value) = self.ratio(ratio) {
                let aim = ratio.most.map(|most| format!("(aim: at most {most})")).unwrap_or_default();
                println!("    {:<38} {value:>12.2} {aim}", ratio.name);
            }
        }
    }

    /// Everything, one object.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let cases: serde_json::Map<String, Value> =
            self.cases.iter().map(|(case, rows)| (case.name(), rows.iter().map(Row::json).collect())).collect();
        let ratios: serde_json::Map<String, Value> =
            RATIOS.iter().filter_map(|ratio| Some((ratio.name.to_owned(), self.ratio(ratio)?.into()))).collect();
        let all = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "machine": self.machine,
            "scale": self.scale,
            "rounds": self.repeat,
            "cases": cases,
            "ratios": ratios,
        });
        Ok(fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?)
    }

    fn ratio(&self, ratio: &Ratio) -> Option<f64> {
        Some(self.median(ratio.over, CPU)? / self.median(ratio.under, CPU)?)
    }
}

impl Row {
    fn sorted(&self) -> Vec<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
    }

    fn range(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted[0], sorted[sorted.len() - 1])
    }

    fn json(&self) -> Value {
        let (low, high) = self.range();
        json!({
            "figure": self.name,
            "unit": self.unit,
            "median": self.median(),
            "smallest": low,
            "largest": high,
            "values": self.values,
        })
    }
}

/// Three digits that count, or all of a large number.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
