//! The checks that a change must pass.

use std::process::{Command, ExitCode};
use std::time::Instant;

use crate::software_gpu;
use crate::unimo::{Failure, Program, build, cargo, features};

/// Which checks to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Format, lints, documentation and tests.
    Workspace,
    /// The GPU features compile.
    Features,
    /// The WGPU backend computes what the CPU does.
    Wgpu,
    /// The CUDA backend computes what the CPU does.
    Cuda,
}

/// One command of cargo.
struct Step {
    name: &'static str,
    env: &'static [(&'static str, &'static str)],
    args: &'static str,
}

impl Step {
    /// The command as a user would type it.
    fn shown(&self) -> String {
        let env = self.env.iter().map(|(name, value)| {
            if value.contains(' ') {
                format!("{name}=\"{value}\" ")
            } else {
                format!("{name}={value} ")
            }
        });
        format!("{}cargo {}", env.collect::<String>(), self.args)
    }
}

const WORKSPACE: &[Step] = &[
    Step {
        name: "fmt",
        env: &[],
        args: "fmt --all --check",
    },
    Step {
        name: "clippy",
        env: &[],
        args: "clippy --release --workspace --all-targets -- -D warnings",
    },
    Step {
        name: "docs",
        env: &[("RUSTDOCFLAGS", "-D warnings")],
        args: "doc --release --workspace --no-deps",
    },
    Step {
        name: "tests",
        env: &[],
        args: "test --release --workspace",
    },
];

const FEATURES: &[Step] = &[
    Step {
        name: "none",
        env: &[],
        args: "check --release -p unimo-batch -p unimo-core -p unimo-encoders -p unimo-objectives -p unimo-phrases -p unimo-data -p unimo-eval -p unimo-report --no-default-features",
    },
    Step {
        name: "wgpu",
        env: &[],
        args: "check --release -p unimo-train -p unimo-dev --features wgpu",
    },
    Step {
        name: "flex, wgpu and cuda",
        // The build script of the CUDA compiler downloads LLVM, unless it believes that it runs on docs.rs. Types can be checked
        // without LLVM.
        env: &[("DOCS_RS", "1")],
        args: "check --release -p unimo-train -p unimo-dev --features wgpu,cuda-nvrtc",
    },
];

/// Runs the checks one by one, up to the first that fails.
///
/// `asked` are features to build with in addition to the backend's own, such as `cuda-nvrtc`.
pub fn run(what: What, asked: Option<&str>) -> ExitCode {
    let result = match what {
        What::Workspace => steps(WORKSPACE),
        What::Features => steps(FEATURES),
        What::Wgpu => backend("wgpu", asked),
        What::Cuda => backend("cuda", asked),
    };
    match result {
        Ok(()) => {
            eprintln!("\nall checks passed");
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(),
    }
}

fn steps(steps: &[Step]) -> Result<(), Failure> {
    for step in steps {
        let mut command = cargo();
        command
            .args(step.args.split(' '))
            .envs(step.env.iter().copied());
        timed(step.name, &step.shown(), &mut command)?;
    }
    Ok(())
}

/// Builds `unimo-dev` for a device and compares that device with the CPU.
fn backend(device: &str, asked: Option<&str>) -> Result<(), Failure> {
    let features = features(asked, &["--device".into(), device.into()]);
    let binary = build(Program::Dev, &features)?;
    let mut command = Command::new(&binary);
    command.args(["check", "backend", "--device", device]);
    if device == "wgpu" {
        for (name, value) in software_gpu::environment() {
            command.env(name, value);
        }
    }
    timed(
        device,
        &format!("unimo-dev check backend --device {device}"),
        &mut command,
    )
}

fn timed(name: &str, shown: &str, command: &mut Command) -> Result<(), Failure> {
    eprintln!("\n=== {name}: {shown}");
    let started = Instant::now();
    let status = command
        .status()
        .map_err(|error| Failure::of_start(shown, &error))?;
    let seconds = started.elapsed().as_secs_f64();
    if !status.success() {
        eprintln!("=== {name}: FAILED after {seconds:.1} s");
        return Err(Failure::of_status(shown, status));
    }
    eprintln!("=== {name}: passed in {seconds:.1} s");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_one_would_type_them() {
        let shown: Vec<String> = WORKSPACE.iter().chain(FEATURES).map(Step::shown).collect();
        assert_eq!(
            shown,
            [
                "cargo fmt --all --check",
                "cargo clippy --release --workspace --all-targets -- -D warnings",
                "RUSTDOCFLAGS=\"-D warnings\" cargo doc --release --workspace --no-deps",
                "cargo test --release --workspace",
                "cargo check --release -p unimo-batch -p unimo-core -p unimo-encoders -p unimo-objectives -p unimo-phrases -p unimo-data -p unimo-eval -p unimo-report --no-default-features",
                "cargo check --release -p unimo-train -p unimo-dev --features wgpu",
                "DOCS_RS=1 cargo check --release -p unimo-train -p unimo-dev --features wgpu,cuda-nvrtc",
            ]
        );
    }

    #[cfg(unix)]
    #[test]
    fn the_first_failure_ends_it_with_its_command_and_code() {
        let failed = timed(
            "x",
            "false --flag",
            Command::new("sh").args(["-c", "exit 7"]),
        )
        .unwrap_err();
        assert_eq!(
            format!("{failed:?}"),
            "Failure { message: \"`false --flag` failed: exit status: 7\", code: 7 }"
        );
        assert!(timed("x", "true", Command::new("sh").args(["-c", "exit 0"])).is_ok());
        let missing =
            timed("x", "none", &mut Command::new("./there-is-no-such-program")).unwrap_err();
        assert!(format!("{missing:?}").contains("`none` could not be started"));
    }
}
