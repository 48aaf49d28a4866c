//! What was found, for programs and for people.

use std::fmt::Write as _;

use serde_json::{Value, json};

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

/// One number beside its limit.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was measured.
    pub what: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The same of the limit.
    pub limit: Option<f64>,
    /// What it should be.
    pub budget: Option<Budget>,
}

/// A number without a limit or a budget.
pub fn finding(what: impl Into<String>, value: f64, unit: &'static str) -> Finding {
    Finding { what: what.into(), value, unit, limit: None, budget: None }
}

impl Finding {
    /// With the number of the limit.
    pub fn limit(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// With what it should be.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Whether it is what it should be, if that can be said.
    fn met(&self) -> Option<bool> {
        Some(match self.budget? {
            Budget::AtMost(most) => self.value <= most,
            Budget::AtLeast(least) => self.value >= least,
            Budget::TimesLimit(times) => self.value <= times * self.limit?,
        })
    }

    fn budget_text(&self) -> String {
        match self.budget {
            None => String::new(),
            Some(Budget::AtMost(most)) => format!("<= {}", number(most)),
            Some(Budget::AtLeast(least)) => format!(">= {}", number(least)),
            Some(Budget::TimesLimit(times)) => format!("<= {times}x limit"),
        }
    }

    fn json(&self) -> Value {
        let mut value = json!({ "what": self.what, "value": rounded(self.value), "unit": self.unit });
        if let Some(limit) = self.limit {
            value["limit"] = json!(rounded(limit));
        }
        if self.budget.is_some() {
            value["budget"] = json!(self.budget_text());
            value["met"] = json!(self.met());
        }
        value
    }
}

/// One scenario.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name.
    pub scenario: &'static str,
    /// What it was run with.
    pub setting: String,
    /// What the limit is.
    pub limit: &'static str,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Load averages before, and cores used by others meanwhile.
    pub noise: (String, f64),
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// One line.
    pub fn json(&self) -> String {
        json!({
            "scenario": self.scenario,
            "setting": self.setting,
            "findings": self.findings.iter().map(Finding::json).collect::<Vec<_>>(),
            "limit": self.limit,
            "load_average": self.noise.0,
            "cores_used_by_others": rounded(self.noise.1),
            "seconds": rounded(self.seconds),
        })
        .to_string()
    }
}

/// All scenarios as a table in Markdown, which can be read as it is.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n### {}\n\n{}. Limit: {}. Load average before: {}; {:.1} cores used by others.\n\n",
            report.scenario, report.setting, report.limit, report.noise.0, report.noise.1
        );
        let mut rows = vec![["measured", "", "limit", "ratio", "budget", "met"].map(String::from)];
        for finding in &report.findings {
            let ratio = finding.limit.filter(|limit| *limit > 0.0).map(|limit| format!("{:.2}", finding.value / limit));
            rows.push([
                finding.what.clone(),
                format!("{} {}", number(finding.value), finding.unit),
                finding.limit.map(number).unwrap_or_default(),
                ratio.unwrap_or_default(),
                finding.budget_text(),
                finding.met().map_or("", |met| if met { "yes" } else { "**no**" }).to_string(),
            ]);
        }
        let widths: Vec<_> =
            (0..6).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
        for (at, row) in rows.iter().enumerate() {
            let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if at == 0 {
                let lines: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
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
        _ => format!("{value:.2}"),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The value below which a part of the values are. Sorts them.
pub fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * part).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The value in the middle. Sorts them.
pub fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}
