//! The outcome of a measurement: named figures, in order.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// Named figures. The unit stands in the name.
#[derive(Default)]
pub(crate) struct Figures(Map<String, Value>);

impl Figures {
    /// Adds one figure.
    pub(crate) fn add(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Adds a figure rounded to three decimals.
    pub(crate) fn add_number(&mut self, name: &str, value: f64) {
        self.add(name, json!((value * 1e3).round() / 1e3));
    }

    /// Adds p50, p99 and the largest of some durations, in milliseconds.
    pub(crate) fn add_latencies(&mut self, name: &str, mut latencies: Vec<Duration>) {
        latencies.sort_unstable();
        for (label, share) in [("p50", 0.50), ("p99", 0.99), ("max", 1.0)] {
            let value = percentile(&latencies, share).as_secs_f64() * 1e3;
            self.add_number(&format!("{name}_{label}_ms"), value);
        }
    }

    /// Prints a table, or one JSON object.
    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", Value::Object(self.0.clone()));
            return;
        }
        let width = self.0.keys().map(String::len).max().unwrap_or_default();
        for (name, value) in &self.0 {
            println!("{name:width$}  {value}");
        }
    }
}

/// The smallest value that at least `share` of the sorted values do not exceed.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 0.50), Duration::from_millis(50));
        assert_eq!(percentile(&values, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&values, 1.0), Duration::from_millis(100));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
