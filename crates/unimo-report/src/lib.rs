#![doc = include_str!("../README.md")]

pub mod charts;
pub mod html;
pub mod page;
pub mod record;
mod run;

pub use run::{ReportError, duration, gates, render};
