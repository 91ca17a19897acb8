//! Memory of this process and of the machine.

use unimo_encoders::backbone::BackboneConfig;

use crate::error::TrainError;

/// The largest resident set that the process had: `VmHWM` in Linux' `/proc/self/status`; unknown elsewhere.
pub fn host_peak() -> Option<u64> {
    of_line("/proc/self/status", "VmHWM:")
}

/// The machine's memory: `MemTotal` in Linux' `/proc/meminfo`; unknown elsewhere.
fn host_total() -> Option<u64> {
    of_line("/proc/meminfo", "MemTotal:")
}

/// The bytes that a line of a file of `/proc` gives in kibibytes.
fn of_line(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Checks that the weights of a model can be held at all, before they are made: what cannot be allocated ends the process.
///
/// # Errors
///
/// They need more than the machine has; names the largest part.
pub(crate) fn check_weights(model: &BackboneConfig) -> Result<(), TrainError> {
    fits(model, host_total().unwrap_or(u64::MAX))
}

fn fits(model: &BackboneConfig, total: u64) -> Result<(), TrainError> {
    /// Bytes of a value, f32.
    const EACH: f64 = 4.0;
    const GIGA: f64 = 1e9;
    let parts = model.matrix_values();
    let all = EACH * parts.iter().map(|(_, values)| values).sum::<f64>();
    let largest = parts.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    match largest {
        Some((name, values)) if all > total as f64 => Err(TrainError::Check(format!(
            "the weights of the model alone take {:.1} GB, and this machine has {:.1}: [{name}] takes {:.1} GB of it",
            all / GIGA,
            total as f64 / GIGA,
            EACH * values / GIGA
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::recipe::{Overrides, Recipe};

    use super::*;

    #[test]
    fn weights_that_no_machine_holds_are_refused() {
        let with = |set: &[&str]| {
            let set = set.iter().map(|set| (*set).to_owned()).collect();
            Recipe::load("unimo3-tiny", &Overrides { data: None, set }).unwrap()
        };
        check_weights(&with(&[]).model).unwrap();
        let wide = with(&["model.text.width=1000000", "model.text.heads=10"]);
        let error = fits(&wide.model, 24 << 30).unwrap_err().to_string();
        assert!(error.contains("[model.text] takes"), "{error}");
        let error = fits(&with(&[]).model, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("this machine has 0.0"), "{error}");
    }
}
