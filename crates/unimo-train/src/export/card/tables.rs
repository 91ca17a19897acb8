//! Tables of scores, and how numbers and names are spelled in them.

use std::fmt::Write;

use serde_json::Value;
use unimo_eval::interval::wilson;
use unimo_report::record::{EvalRecord, Figure, RecallRecord};

use super::without_folders;

/// The share of intervals that hold the true value.
const CONFIDENCE: f64 = 0.95;

/// A table of retrieval.
pub(super) fn retrieval(out: &mut String, record: &EvalRecord) {
    let _ = write!(
        out,
        "Retrieval, {}: {} images, {} texts, step {}.\n\n| method | direction | R@1 | R@5 | R@10 | median rank |\n|---|---|---|---|---|---|\n",
        without_folders(&record.split),
        grouped(record.images as usize),
        grouped(record.texts as usize),
        record.step
    );
    let mut row = |method: &str, direction: &str, recall: &RecallRecord, queries: Option<u64>| {
        let cell = |share: f64| match queries {
            Some(queries) => share_of(share, queries),
            None => percent(share),
        };
        let rank = if recall.median_rank.is_finite() {
            recall.median_rank.to_string()
        } else {
            String::new()
        };
        let _ = writeln!(
            out,
            "| {method} | {direction} | {} | {} | {} | {rank} |",
            cell(recall.r1),
            cell(recall.r5),
            cell(recall.r10)
        );
    };
    const DIRECTIONS: [&str; 2] = ["text to image", "image to text"];
    for found in &record.retrieval {
        row(
            &found.method,
            DIRECTIONS[0],
            &found.text_to_image,
            Some(record.texts),
        );
        row(
            &found.method,
            DIRECTIONS[1],
            &found.image_to_text,
            Some(record.images),
        );
    }
    if let Some(chance) = &record.chance {
        row("chance", DIRECTIONS[0], &chance.text_to_image, None);
        row("chance", DIRECTIONS[1], &chance.image_to_text, None);
    }
}

/// A table of the numbers of another evaluator.
pub(super) fn numbers(out: &mut String, record: &EvalRecord, figures: &[Figure]) {
    let _ = write!(
        out,
        "{}, {}: {} samples, step {}.\n\n| number | value | chance |\n|---|---|---|\n",
        record.evaluator,
        without_folders(&record.split),
        grouped(record.texts as usize),
        record.step
    );
    for (name, scalar) in &record.scalars {
        let short = name.rsplit('.').next().unwrap_or(name);
        let figure = figures
            .iter()
            .find(|figure| figure.name == short && figure.value == scalar.value);
        let interval = figure.and_then(|figure| figure.interval);
        let value = match interval {
            Some([low, high]) => format!(
                "{} [{}, {}]",
                percent(scalar.value),
                percent(low),
                percent(high)
            ),
            None => percent(scalar.value),
        };
        let chance = scalar.chance.map(percent).unwrap_or_default();
        let _ = writeln!(out, "| {name} | {value} | {chance} |");
    }
}

pub(super) fn percent(share: f64) -> String {
    if share.is_finite() {
        format!("{:.1}", 100.0 * share)
    } else {
        "unknown".to_owned()
    }
}

/// A share of so many queries with Wilson's interval.
pub(super) fn share_of(share: f64, queries: u64) -> String {
    let right = (share * queries as f64).round();
    let whole = share.is_finite() && right >= 0.0;
    let interval = if whole {
        wilson(right as usize, queries as usize, CONFIDENCE)
    } else {
        Ok(None)
    };
    match interval {
        Ok(Some(interval)) => format!(
            "{} [{}, {}]",
            percent(share),
            percent(interval.low),
            percent(interval.high)
        ),
        _ => percent(share),
    }
}

/// A unit variant's name as a recipe spells it.
pub(super) fn spelled<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// A number with a comma between thousands.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_the_interval_of_their_queries() {
        // statsmodels 0.14: proportion_confint(25, 500, method="wilson").
        assert_eq!(share_of(0.05, 500), "5.0 [3.4, 7.3]");
        assert_eq!(share_of(f64::NAN, 500), "unknown");
        assert_eq!(share_of(1.0, 0), "100.0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(999), "999");
    }
}
