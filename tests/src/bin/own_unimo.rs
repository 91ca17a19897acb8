//! A program of somebody else: `unimo` with an objective, a source, an image encoder and an evaluator of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    unimo_train::cli::main_with(unimo_tests::outside::register)
}
