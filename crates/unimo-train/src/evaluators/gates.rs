//! The gates of the cross-layer attention, averaged over held-out pairs.

use burn::tensor::Tensor;
use unimo_data::{EvalSet, TextTokenizer};
use unimo_encoders::fusion::FusionConfig;
use unimo_encoders::output::{Keep, LayerGates};
use unimo_eval::Pair;
use unimo_report::record::{GatesRecord, StreamGates, WordGates};

use crate::error::TrainError;
use crate::evaluators::encoded::Encoded;
use crate::model::{Model, host};
use crate::recipe::Recipe;

/// Mean gates over some true pairs, and the gates of one caption's words.
pub(crate) fn gates(
    model: &Model,
    encoded: &Encoded<'_>,
    set: &EvalSet,
    tokenizer: &TextTokenizer,
    recipe: &Recipe,
) -> Result<Option<GatesRecord>, TrainError> {
    let Some(config) = &recipe.model.fusion else {
        return Ok(None);
    };
    let pairs: Vec<Pair> = set
        .captions()
        .iter()
        .enumerate()
        .take(recipe.eval.batch_size)
        .map(|(text, caption)| Pair {
            image: caption.image,
            text,
        })
        .collect();
    let (texts, images) = encoded.rows(&pairs)?;
    let fused = model.backbone.fuse(&texts, &images, Keep::Gates);
    let tokens: Vec<Vec<i32>> = pairs
        .iter()
        .map(|pair| {
            let length = recipe.data.max_text_length;
            Ok(set.encode(pair.text, tokenizer, length)?.ids)
        })
        .collect::<Result<_, TrainError>>()?;
    Ok(gates_record(config, &fused.gates, &tokens, tokenizer))
}

/// Mean gates over rows whose texts are `tokens`, and the gates of the first text's words; `None` without gates.
pub(crate) fn gates_record(
    config: &FusionConfig,
    gates: &[LayerGates],
    tokens: &[Vec<i32>],
    tokenizer: &TextTokenizer,
) -> Option<GatesRecord> {
    let layers = gates.len();
    if layers == 0 {
        return None;
    }
    let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
    let stream = |of: fn(&LayerGates) -> &Tensor<3>, lengths: Option<&[usize]>| StreamGates {
        levels: config.level_names(layers - 1),
        layers: gates.iter().map(|g| mean_gates(of(g), lengths)).collect(),
    };
    let words = tokens.first().and_then(|ids| {
        let per_word = gates.iter().all(|g| g.text.dims()[1] > 1);
        per_word.then(|| WordGates {
            caption: ids
                .iter()
                .map(|id| tokenizer.decode(&[*id]).trim().to_owned())
                .collect(),
            layers: gates
                .iter()
                .map(|g| {
                    let levels = g.text.dims()[2];
                    let first = g.text.clone().narrow(0, 0, 1);
                    let values = host(first);
                    let rows = values.chunks(levels).take(ids.len());
                    rows.map(|row| row.iter().map(|v| Some(f64::from(*v))).collect())
                        .collect()
                })
                .collect(),
        })
    });
    Some(GatesRecord {
        text: Some(stream(|g| &g.text, Some(&lengths))),
        image: Some(stream(|g| &g.image, None)),
        words,
    })
}

/// # Shapes
///
/// - gates: `[B, R, S]`; positions beyond `lengths` do not count where `R` is the text's length
/// - output: `[S]`
fn mean_gates(gates: &Tensor<3>, lengths: Option<&[usize]>) -> Vec<Option<f64>> {
    let [rows, positions, levels] = gates.dims();
    let values = host(gates.clone());
    let mut sums = vec![0.0; levels];
    let mut count = 0usize;
    for row in 0..rows {
        let real = lengths.map_or(positions, |l| l[row].min(positions));
        for position in 0..real {
            let at = (row * positions + position) * levels;
            for (sum, value) in sums.iter_mut().zip(&values[at..at + levels]) {
                *sum += f64::from(*value);
            }
            count += 1;
        }
    }
    sums.iter()
        .map(|sum| Some(sum / count.max(1) as f64))
        .collect()
}
