//! The numbers of steps and evaluations under the names that TensorBoard and MLflow show them by.

use serde_json::Value;
use unimo_report::record::{EvalRecord, StepRecord};

/// Numbers of an objective that are counts, not curves.
const COUNTS: [&str; 3] = ["count", "left_out", "without_negative"];

/// The numbers of a step. Names with a common part before `/` belong together.
pub fn of_step(record: &StepRecord) -> Vec<(String, f64)> {
    let mut numbers = vec![
        ("train/loss".to_owned(), record.loss),
        ("train/lr".to_owned(), record.lr),
        ("train/grad_norm".to_owned(), record.grad_norm),
        ("speed/pairs_per_second".to_owned(), record.pairs_per_second),
        ("speed/wait_seconds".to_owned(), record.wait_seconds),
    ];
    let scale = record.loss_scale;
    numbers.extend(scale.map(|scale| ("train/loss_scale".to_owned(), scale)));
    for (objective, said) in &record.losses {
        let said = said.as_object().into_iter().flatten();
        let curves = said.filter(|(name, _)| !COUNTS.contains(&name.as_str()));
        // Without predictions there is no accuracy.
        let curves = curves.filter_map(|(name, value)| Some((name, Value::as_f64(value)?)));
        numbers.extend(curves.map(|(name, value)| (format!("{name}/{objective}"), value)));
    }
    numbers
}

/// The numbers of an evaluation that are finite: as `eval/score` the one that selects the best weights, and every other.
pub fn of_evaluation(record: &EvalRecord) -> Vec<(String, f64)> {
    let mut numbers = Vec::new();
    numbers.extend(
        record
            .goodness()
            .map(|score| ("eval/score".to_owned(), score)),
    );
    for method in &record.retrieval {
        for (direction, recall) in [
            ("text_to_image", &method.text_to_image),
            ("image_to_text", &method.image_to_text),
        ] {
            for (name, value) in [
                ("r1", recall.r1),
                ("r5", recall.r5),
                ("r10", recall.r10),
                ("median_rank", recall.median_rank),
            ] {
                let name = format!("eval_{}/{direction}_{name}", method.method);
                numbers.push((name, value));
            }
        }
    }
    let others = record.scalars.iter();
    numbers.extend(others.map(|(name, scalar)| (format!("eval/{name}"), scalar.value)));
    numbers.retain(|(_, value)| value.is_finite());
    numbers
}
