#![doc = include_str!("../README.md")]

pub mod charts;
pub mod compare;
mod interval;
pub mod numbers;
pub mod page;
pub mod record;
mod run;
mod sections;
mod summary;

pub use run::{ReportError, damaged, render};
pub use sections::gates::gates;
