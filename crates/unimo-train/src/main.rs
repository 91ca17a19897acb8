//! The program `unimo`.

use std::process::ExitCode;

fn main() -> ExitCode {
    unimo_train::cli::main()
}
