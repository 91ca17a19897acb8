//! The sections of a report, and what they have in common.

use crate::numbers::grouped;
use crate::record::StepRecord;

pub(crate) mod files;
pub(crate) mod gates;
pub(crate) mod grad_cam;
pub(crate) mod key_words;
pub(crate) mod losses;
pub(crate) mod patches;
pub(crate) mod pictures;
pub(crate) mod predictions;
pub(crate) mod retrieval;
pub(crate) mod scores;
pub(crate) mod stories;
pub(crate) mod walks;

/// Names of the objectives, in the order in which the run first logged them.
pub(crate) fn objective_names(steps: &[StepRecord]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in steps.iter().flat_map(|step| step.losses.keys()) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

pub(crate) fn method_name(method: &str) -> String {
    method.to_uppercase().replace('+', " + ")
}

/// `12×` for a share that is twelve times chance.
pub(crate) fn multiple_of_chance(share: f64, chance: f64) -> Option<String> {
    let multiple = share / chance;
    (chance > 0.0 && multiple.is_finite()).then(|| {
        if multiple < 10.0 {
            format!("{multiple:.1}×")
        } else {
            format!("{}×", grouped(multiple))
        }
    })
}

/// Share of the training time that was spent waiting for the loader.
pub(crate) fn wait_share(steps: &[StepRecord]) -> Option<f64> {
    let timed = || {
        steps
            .iter()
            .filter(|step| step.step_seconds.is_finite() && step.wait_seconds.is_finite())
    };
    let total: f64 = timed().map(|step| step.step_seconds).sum();
    let wait: f64 = timed().map(|step| step.wait_seconds).sum();
    (total > 0.0).then(|| (wait / total).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_multiple_of_chance_is_none() {
        assert_eq!(
            (multiple_of_chance(0.5, 0.2), multiple_of_chance(0.5, 0.0)),
            (Some("2.5×".to_owned()), None)
        );
    }
}
