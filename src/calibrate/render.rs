//! The report for a terminal: text and bars, no colours, so that it also reads well in a file.

use std::fmt::Write as _;

use super::{Fit, Model, Report, ReturnsAfter, Suggested};

/// Columns of a bar: with labels, a line fits into 80 columns.
const BAR_COLUMNS: usize = 40;
/// Idle times that the chart shows, in days; those beyond the data are left out.
const SHOWN_DAYS: [u32; 16] = [1, 2, 3, 5, 7, 10, 14, 21, 30, 45, 60, 90, 120, 180, 270, 365];

/// Draws a report.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::with_capacity(4096);
    let data = &report.data;
    line(&mut text, format_args!("{} users active from {} to {}", data.users, data.first_day, data.last_day));
    line(
        &mut text,
        format_args!(
            "{} activities, {} users active on more than one day; {} events left out, {} lines are no events\n",
            data.activities, data.repeat_users, data.ignored, data.rejected
        ),
    );
    gaps(&mut text, report);
    returns(&mut text, report);
    suggested(&mut text, &report.suggested);
    model(&mut text, &report.model);
    text
}

#[expect(clippy::cast_precision_loss, reason = "counts of gaps are far below 2^53")]
fn gaps(text: &mut String, report: &Report) {
    let gaps = &report.gaps;
    if gaps.count == 0 {
        return line(text, format_args!("No gaps: nobody was active on a second day.\n"));
    }
    line(text, format_args!("Gaps between active days: {}, {:.1} days in the mean", gaps.count, gaps.mean_days));
    let largest = gaps.classes.iter().map(|class| class.count).max().unwrap_or(0).max(1);
    for class in &gaps.classes {
        let label = if class.from == class.to { class.to.to_string() } else { format!("{}-{}", class.from, class.to) };
        let share = class.count as f64 / gaps.count as f64;
        let drawn = bar(class.count as f64 / largest as f64);
        line(text, format_args!("{label:>9} d  {drawn:<BAR_COLUMNS$}  {:>5.1} %", share * 100.0));
    }
    let percentiles: Vec<String> =
        gaps.percentiles.iter().map(|p| format!("{} % within {} d", p.percent, p.days)).collect();
    line(text, format_args!("  {}\n", percentiles.join(", ")));
}

fn returns(text: &mut String, report: &Report) {
    line(
        text,
        format_args!(
            "Users who ever returned, by days of silence (observed for at least {} more days)",
            report.observed_days
        ),
    );
    for after in report.returns.iter().filter(|after| SHOWN_DAYS.contains(&after.idle_days)) {
        let ReturnsAfter { idle_days, users, .. } = after;
        let drawn = bar(after.share());
        line(
            text,
            format_args!("{idle_days:>9} d  {drawn:<BAR_COLUMNS$}  {:>5.1} % of {users}", after.share() * 100.0),
        );
    }
    if report.returns.is_empty() {
        line(text, format_args!("  The history is too short to say."));
    }
    text.push('\n');
}

fn suggested(text: &mut String, suggested: &Suggested) {
    let Suggested { at_risk_days, lapsed_days, churned_days } = *suggested;
    line(text, format_args!("Suggested thresholds: fewer than 50, 20 and 5 % return after so long a silence"));
    line(text, format_args!("\n[policy]"));
    for (key, days, share) in [("lapsed_after", lapsed_days, 20), ("churned_after", churned_days, 5)] {
        threshold(text, key, days, share);
    }
    line(text, format_args!("\n[policy.at_risk]"));
    threshold(text, "inactive_after", at_risk_days, 50);
    text.push('\n');
}

fn threshold(text: &mut String, key: &str, days: Option<u32>, share: u8) {
    match days {
        Some(days) => line(text, format_args!("{key} = \"{days}d\"")),
        None => line(
            text,
            format_args!("# {key}: the share never falls below {share} % among enough users; read a longer history"),
        ),
    }
}

fn model(text: &mut String, model: &Model) {
    match model {
        Model::Fitted(Fit { unit, parameters: p, alpha_days, log_likelihood, users }) => {
            line(text, format_args!("BG/NBD by maximum likelihood over {users} users, time in {}s:", unit.as_str()));
            line(text, format_args!("  r = {:.4}, alpha = {:.4}, a = {:.4}, b = {:.4}", p.r, p.alpha, p.a, p.b));
            line(text, format_args!("  log-likelihood = {log_likelihood:.4}\n"));
            line(text, format_args!("[policy.survival]              # time unit one day"));
            line(text, format_args!("r = {:.6}\nalpha = {alpha_days:.6}\na = {:.6}\nb = {:.6}", p.r, p.a, p.b));
        }
        Model::NotIdentified { why } => line(text, format_args!("BG/NBD: {why}.")),
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

/// `share` (0 to 1) of [`BAR_COLUMNS`], to an eighth of a column; anything above nothing shows.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to 320")]
fn bar(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * (BAR_COLUMNS * 8) as f64).ceil() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}
