//! The metrics of downstream tasks against the implementations that are official for them, and their properties.
//!
//! The numbers are in `../fixtures`; each file says in `made_by` what computed them. Thousands of further cases of the same kinds were
//! compared when the metrics were written.

mod boxes;
mod classification;
mod correlation;
mod interval;
mod nlvr;
mod vqa;

use serde_json::Value;

/// For numbers of about 1 that both sides compute in f64, in another order: some roundings of 1e-16 each.
const ROUNDING: f64 = 1e-12;

/// A fixture, parsed.
fn fixture(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn rows<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap()
}

/// A list of numbers, texts or lists.
fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

#[track_caller]
fn close(got: f64, expected: f64, tolerance: f64) {
    assert!(
        (got - expected).abs() <= tolerance,
        "{got} instead of {expected}"
    );
}
