//! What was found, for programs and for people.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::stats::{Ratio, median, ratio};

/// What a number should be.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// At most this many times the limit.
    TimesLimit(f64),
}

/// A budget and the number it is for.
pub type Budgets = Vec<(&'static str, Budget)>;

/// What one contender needed in one round: numbers with names and units.
#[derive(Clone, Debug, Default)]
pub struct Sample(pub Vec<(String, f64, &'static str)>);

impl Sample {
    /// One more number.
    pub fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.0.push((what.into(), value, unit));
    }

    /// A number that was added.
    pub fn get(&self, what: &str) -> Option<f64> {
        self.0.iter().find(|(name, ..)| name == what).map(|(_, value, _)| *value)
    }
}

/// What all contenders needed in one round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The control plane under test.
    pub plane: Sample,
    /// The other one.
    pub peer: Option<Sample>,
    /// What is possible.
    pub limit: Option<Sample>,
}

/// One scenario.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name and its alias.
    pub scenario: String,
    /// What it was run with.
    pub setting: String,
    /// What the limit is.
    pub limit: &'static str,
    /// What was found.
    pub rounds: Vec<Round>,
    /// What should have been.
    pub budgets: Budgets,
    /// Load averages before, and cores used by others meanwhile.
    pub noise: (String, f64),
    /// How long it took.
    pub seconds: f64,
}

/// One number of a report.
struct Row {
    what: String,
    unit: &'static str,
    value: f64,
    limit: Option<f64>,
    times_limit: Option<Ratio>,
    peer: Option<f64>,
    times_peer: Option<Ratio>,
    budgets: Vec<(Budget, Option<bool>)>,
}

impl Report {
    fn rows(&self) -> Vec<Row> {
        let Some(first) = self.rounds.first() else { return vec![] };
        first.plane.0.iter().map(|(what, _, unit)| self.row(what, unit)).collect()
    }

    fn row(&self, what: &str, unit: &'static str) -> Row {
        let of = |sample: fn(&Round) -> Option<&Sample>| {
            let values: Vec<_> = self
                .rounds
                .iter()
                .filter_map(|round| Some((round.plane.get(what)?, sample(round)?.get(what)?)))
                .collect();
            let others: Vec<_> = values.iter().map(|(_, other)| *other).collect();
            ((!others.is_empty()).then(|| median(&others)), ratio(values))
        };
        let values: Vec<_> = self.rounds.iter().filter_map(|round| round.plane.get(what)).collect();
        let value = median(&values);
        let (limit, times_limit) = of(|round| round.limit.as_ref());
        let (peer, times_peer) = of(|round| round.peer.as_ref());
        let budgets = self.budgets.iter().filter(|(name, _)| *name == what);
        let budgets = budgets.map(|(_, budget)| (*budget, budget.met(value, times_limit))).collect();
        Row { what: what.into(), unit, value, limit, times_limit, peer, times_peer, budgets }
    }

    /// One line.
    pub fn json(&self) -> String {
        json!({
            "scenario": self.scenario,
            "setting": self.setting,
            "findings": self.rows().iter().map(Row::json).collect::<Vec<_>>(),
            "rounds": self.rounds.iter().map(Round::json).collect::<Vec<_>>(),
            "limit": self.limit,
            "load_average": self.noise.0,
            "cores_used_by_others": rounded(self.noise.1),
            "seconds": rounded(self.seconds),
        })
        .to_string()
    }
}

impl Round {
    fn json(&self) -> Value {
        let sample = |sample: &Sample| -> Value {
            sample
                .0
                .iter()
                .map(|(what, value, _)| (what.clone(), json!(rounded(*value))))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        json!({ "plane": sample(&self.plane), "peer": self.peer.as_ref().map(sample), "limit": self.limit.as_ref().map(sample) })
    }
}

impl Budget {
    /// Whether a number is what it should be, if that can be said. With several
    /// rounds the worse end of the interval has to be.
    fn met(self, value: f64, times_limit: Option<Ratio>) -> Option<bool> {
        Some(match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::TimesLimit(times) => {
                let ratio = times_limit?;
                ratio.interval.map_or(ratio.median, |(_, high)| high) <= times
            }
        })
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}", number(most)),
            Self::AtLeast(least) => format!(">= {}", number(least)),
            Self::TimesLimit(times) => format!("<= {times}x limit"),
        }
    }
}

impl Row {
    fn json(&self) -> Value {
        let mut value = json!({ "what": self.what, "value": rounded(self.value), "unit": self.unit });
        let mut ratio = |name: &str, other: Option<f64>, ratio: Option<Ratio>| {
            if let Some(other) = other {
                value[name] = json!(rounded(other));
                value[format!("times_{name}")] = json!(ratio.map(|ratio| rounded(ratio.median)));
                value[format!("times_{name}_interval")] =
                    json!(ratio.and_then(|ratio| ratio.interval).map(|(low, high)| [rounded(low), rounded(high)]));
            }
        };
        ratio("limit", self.limit, self.times_limit);
        ratio("peer", self.peer, self.times_peer);
        if !self.budgets.is_empty() {
            let budgets = self.budgets.iter().map(|(budget, met)| json!({ "budget": budget.text(), "met": met }));
            value["budgets"] = budgets.collect();
        }
        value
    }

    fn cells(&self) -> [String; 8] {
        let ratio = |ratio: Option<Ratio>| match ratio {
            None => String::new(),
            Some(Ratio { median, interval: None }) => format!("{median:.2}"),
            Some(Ratio { median, interval: Some((low, high)) }) => format!("{median:.2} ({low:.2}..{high:.2})"),
        };
        let met = self.budgets.iter().map(|(_, met)| met.map_or("", |met| if met { "yes" } else { "**no**" }));
        let budgets = self.budgets.iter().map(|(budget, _)| budget.text());
        [
            self.what.clone(),
            format!("{} {}", number(self.value), self.unit),
            self.limit.map(number).unwrap_or_default(),
            ratio(self.times_limit),
            self.peer.map(number).unwrap_or_default(),
            ratio(self.times_peer),
            budgets.collect::<Vec<_>>().join(", "),
            met.collect::<Vec<_>>().join(", "),
        ]
    }
}

/// All scenarios as a table in Markdown, which can be read as it is. Columns
/// that nothing is in are left out.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n### {}\n\n{}. Limit: {}. {} round(s) in {:.0} s; load average before: {}; {:.1} cores used by others.\n\n",
            report.scenario,
            report.setting,
            report.limit,
            report.rounds.len(),
            report.seconds,
            report.noise.0,
            report.noise.1
        );
        let mut rows =
            vec![["measured", "", "limit", "times limit", "peer", "times peer", "budget", "met"].map(String::from)];
        rows.extend(report.rows().iter().map(Row::cells));
        let widths: Vec<_> = (0..8)
            .map(|at| match rows[1..].iter().all(|row| row[at].is_empty()) {
                true => 0,
                false => rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0).max(3),
            })
            .collect();
        for (at, row) in rows.iter().enumerate() {
            let shown = || row.iter().zip(&widths).filter(|(_, width)| **width > 0);
            let cells: Vec<_> = shown().map(|(cell, width)| format!("{cell:width$}")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if at == 0 {
                let lines: Vec<_> = shown().map(|(_, width)| "-".repeat(*width)).collect();
                let _ = writeln!(text, "| {} |", lines.join(" | "));
            }
        }
    }
    text
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

#[cfg(test)]
mod tests;
