#![doc = include_str!("../README.md")]

pub mod backend_check;
pub mod bench;
pub mod dtypes;
pub mod houses;
pub mod pages;
pub mod parity;
pub mod search;
pub mod torture;
pub mod torture_files;
pub mod trace;
