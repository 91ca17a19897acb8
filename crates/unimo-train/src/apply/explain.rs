//! `unimo explain`: where each word of a caption looks in an image, and what makes the model say that they belong together.
//!
//! Two maps per word, over the patches of the image:
//!
//! - attention: the weights of the text stream's attention to the image stream, mean over heads;
//! - Grad-CAM (`grad_cam.rs`) of the log-odds of "they belong together".
//!
//! Shape legend: `H` heads, `Lt` and `Lv` positions of text and image, `S` levels.

mod page;

use std::path::{Path, PathBuf};

use burn::tensor::{Gradients, Tensor};
use serde::Serialize;
use unimo_core::attention::Weights;
use unimo_core::world::World;
use unimo_data::{Encoded, TextTokenizer, images};
use unimo_encoders::output::{FusionOutput, Keep, StreamAttention};
use unimo_report::record::GatesRecord;

use super::{ModelArgs, Predictor, inputs, probability, write_text};
use crate::error::TrainError;
use crate::evaluators::gates;
use crate::grad_cam::{Glass, cam};
use crate::model::{Model, host};
use crate::outputs;

/// `unimo explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The image.
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// The caption.
    #[arg(long, value_parser = inputs::words)]
    pub text: String,
    /// Write a page here: the maps of all words, layer by layer, and the gates.
    #[arg(long, value_name = "FILE", default_value = "explain.html")]
    pub html: PathBuf,
    /// Write the maps of all words as one SVG image here.
    #[arg(long, value_name = "FILE.svg")]
    pub picture: Option<PathBuf>,
    /// Write all numbers here, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Where a model looked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The image's path.
    pub image: String,
    /// The caption as the model read it.
    pub text: String,
    /// Probability of "they belong together", if the model has a matching head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Number of patches along each side of the image.
    pub grid: usize,
    /// The maps of the whole caption, of the first position (which the matching head reads for the caption), and of each word.
    pub parts: Vec<Part>,
    /// The gates of the cross-layer attention, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gates: Option<GatesRecord>,
}

/// What a map explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All positions together.
    Caption,
    /// The first position.
    Summary,
    /// The tokens of one word.
    Word,
}

/// The maps of one word, or of several positions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// The word.
    pub name: String,
    /// What it covers.
    pub scope: Scope,
    /// Its positions in the tokenized caption.
    pub positions: Vec<usize>,
    /// Both maps over all layers: the mean of the attention, the sum of Grad-CAM.
    #[serde(flatten)]
    pub total: Maps,
    /// Both maps of each text-to-image attention.
    pub layers: Vec<LayerMaps>,
}

/// The maps of one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerMaps {
    /// The layer, counted from 1.
    pub layer: usize,
    /// The kind of attention.
    pub interaction: Interaction,
    /// Its maps.
    #[serde(flatten)]
    pub maps: Maps,
}

/// How a layer reads the other stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Interaction {
    /// It reads the state before the layer.
    InLayer,
    /// It reads several states, through the gate.
    CrossLayer,
}

/// Values over the image's patches, row by row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Maps {
    /// Mean attention weights over the positions; the rest of their sum of 1 is on the class tokens.
    pub attention: Vec<f32>,
    /// Grad-CAM, as a sum over the positions; `None` without a matching head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_cam: Option<Vec<f32>>,
}

/// Runs the command.
///
/// # Errors
///
/// The model or the image cannot be read, the model has no attention between text and image, or a file cannot be written.
pub fn run(args: &ExplainArgs) -> Result<(), TrainError> {
    if let Some(picture) = &args.picture
        && picture
            .extension()
            .is_none_or(|e| !e.eq_ignore_ascii_case("svg"))
    {
        return Err(TrainError::Check(format!(
            "--picture {} cannot be written: the image is SVG, give it a name that ends in .svg",
            picture.display()
        )));
    }
    outputs::check(
        &[
            Some(&args.html),
            args.picture.as_deref(),
            args.json.as_deref(),
        ],
        &[Some(&args.image)],
        &[Path::new(&args.model.model)],
    )?;
    let predictor = Predictor::open(&args.model)?;
    let explanation = explain(&predictor, &args.image, &args.text)?;
    predictor.say_what_was_cut(&World::ALONE)?;
    let picture = predictor.view(&args.image).map_err(TrainError::Check)?;
    let mut written = vec![(
        &args.html,
        page::html(&explanation, &picture, &predictor.given),
    )];
    if let Some(path) = &args.picture {
        written.push((path, page::svg(&explanation, &picture)));
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string(&explanation)
            .map_err(|e| TrainError::Check(format!("the maps cannot be written: {e}")))?;
        written.push((path, json + "\n"));
    }
    for (path, text) in written {
        write_text(path, &text)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The maps of every word of a caption over an image.
///
/// # Errors
///
/// As [`run`].
pub fn explain(predictor: &Predictor, image: &Path, text: &str) -> Result<Explanation, TrainError> {
    let model = predictor.pair("attention between text and image")?;
    let Some(fusion) = &model.backbone.fusion else {
        return Err(predictor.lacks(
            "attention of one stream to the other",
            if model.backbone.joint.is_some() {
                "its cross-modal encoder has a single stream, [model.joint]"
            } else {
                "it has no cross-modal encoder"
            },
        ));
    };
    let encoded = predictor.tokens(text)?;
    let pixels = predictor
        .picture(image)
        .map_err(|error| TrainError::Check(error.reason))?;
    let seen = look(predictor, model, &encoded, pixels)?;

    let encoder = model.backbone.image.as_ref();
    let encoder =
        encoder.ok_or_else(|| predictor.lacks("grid of patches", "only [model.image] has one"))?;
    let grid = encoder.grid();
    let reads = reads(&seen, encoder.class_tokens());
    let tokenizer = predictor.tokenizer()?;
    let parts = parts(tokenizer, &encoded)
        .into_iter()
        .map(|(name, scope, at)| Part {
            total: total(&reads, &at),
            layers: reads
                .iter()
                .map(|read| LayerMaps {
                    layer: read.layer,
                    interaction: read.interaction,
                    maps: read.of(&at),
                })
                .collect(),
            name,
            scope,
            positions: at,
        })
        .collect();
    Ok(Explanation {
        image: image.display().to_string(),
        text: tokenizer.decode(&encoded.ids),
        probability: seen.score.map(probability),
        grid,
        parts,
        gates: gates::gates_record(&fusion.config, &seen.fused.gates, &[encoded.ids], tokenizer),
    })
}

/// The results of a forward pass of the cross-modal encoder, and of a backward pass to its attention weights.
struct Seen {
    fused: FusionOutput,
    /// Log-odds of "they belong together".
    score: Option<f32>,
    gradients: Option<Gradients>,
}

fn look(
    predictor: &Predictor,
    model: &Model,
    text: &Encoded,
    pixels: Vec<f32>,
) -> Result<Seen, TrainError> {
    let texts = predictor.text_features(model, std::slice::from_ref(text))?;
    let images = model.backbone.encode_images(predictor.pixels(pixels)?);
    // There is no dropout, see `Predictor`.
    let glass = Glass::new(model);
    let Some(itm) = &glass.objectives.itm else {
        return Ok(Seen {
            fused: model.backbone.fuse(&texts, &images, Keep::Attention),
            score: None,
            gradients: None,
        });
    };
    let fused = glass.fuse(texts, images);
    let score = itm.scores(&glass.backbone, &fused);
    Ok(Seen {
        score: host(score.clone()).first().copied(),
        gradients: Some(score.sum().backward()),
        fused,
    })
}

/// One attention of the text stream to the image stream, as a mean over heads.
struct Read {
    layer: usize,
    interaction: Interaction,
    /// Its share in the mean over layers.
    share: f32,
    /// Number of class tokens before the patches.
    class_tokens: usize,
    /// Weights over the image positions, per text position.
    attention: Vec<Vec<f32>>,
    /// Grad-CAM over the image positions, per text position.
    grad_cam: Option<Vec<Vec<f32>>>,
}

impl Read {
    /// The maps of some text positions.
    fn of(&self, positions: &[usize]) -> Maps {
        let sum = |rows: &[Vec<f32>]| -> Vec<f32> {
            let mut sum = vec![0.0; rows[0].len() - self.class_tokens];
            for at in positions {
                for (sum, value) in sum.iter_mut().zip(&rows[*at][self.class_tokens..]) {
                    *sum += value;
                }
            }
            sum
        };
        let count = positions.len() as f32;
        Maps {
            attention: sum(&self.attention).iter().map(|v| v / count).collect(),
            grad_cam: self.grad_cam.as_deref().map(sum),
        }
    }
}

/// Both maps over all layers.
fn total(reads: &[Read], positions: &[usize]) -> Maps {
    let shares: f32 = reads.iter().map(|read| read.share).sum();
    let maps: Vec<Maps> = reads.iter().map(|read| read.of(positions)).collect();
    let add = |of: &dyn Fn(usize) -> Option<Vec<f32>>| -> Option<Vec<f32>> {
        (0..maps.len()).map(of).reduce(|a, b| {
            let (a, b) = (a?, b?);
            Some(a.iter().zip(&b).map(|(a, b)| a + b).collect())
        })?
    };
    let attention = |i: usize| {
        let share = reads[i].share / shares;
        Some(maps[i].attention.iter().map(|v| v * share).collect())
    };
    Maps {
        attention: add(&attention).unwrap_or_default(),
        grad_cam: add(&|i| maps[i].grad_cam.clone()),
    }
}

fn reads(seen: &Seen, class_tokens: usize) -> Vec<Read> {
    let mut reads = Vec::new();
    for (at, layer) in seen.fused.attention.iter().enumerate() {
        let StreamAttention {
            in_layer,
            cross_layer,
            share,
        } = &layer.text;
        let share = share
            .as_ref()
            .and_then(|share| host(share.clone()).first().copied());
        let read = |interaction, share, weights: &[Weights], gates: Option<&Tensor<3>>| {
            let (attention, grad_cam) = merge(weights, gates, seen.gradients.as_ref());
            Read {
                layer: at + 1,
                interaction,
                share,
                class_tokens,
                attention,
                grad_cam,
            }
        };
        if let Some(weights) = in_layer {
            let one = std::slice::from_ref(weights);
            reads.push(read(Interaction::InLayer, 1.0, one, None));
        }
        if !cross_layer.is_empty() {
            let gates = seen.fused.gates.get(at).map(|gates| &gates.text);
            let share = share.map_or(1.0, f32::abs);
            reads.push(read(Interaction::CrossLayer, share, cross_layer, gates));
        }
    }
    reads
}

/// Mean over the heads. Several levels are added: their weights are multiplied by the gates, which their gradients already contain.
///
/// # Shapes
///
/// - weights: `[1, H, Lt, Lv]` per level, or one for the mixture of all
/// - gates: `[1, R, S]`
/// - output: `Lt` rows of `Lv` values each
fn merge(
    weights: &[Weights],
    gates: Option<&Tensor<3>>,
    gradients: Option<&Gradients>,
) -> (Vec<Vec<f32>>, Option<Vec<Vec<f32>>>) {
    let mean = |x: Tensor<4>| x.mean_dim(1).squeeze_dim::<3>(1);
    let mut attention: Option<Tensor<3>> = None;
    let mut grad_cam: Option<Tensor<3>> = None;
    for (level, weights_of_level) in weights.iter().enumerate() {
        let values = weights_of_level.values().without_autodiff();
        let mut of_level = mean(values);
        if let Some(gates) = gates.filter(|_| weights.len() > 1) {
            of_level = of_level * gates.clone().without_autodiff().narrow(2, level, 1);
        }
        attention = Some(match attention {
            None => of_level,
            Some(sum) => sum + of_level,
        });
        if let Some(gradients) = gradients {
            let cam = cam(weights_of_level, gradients);
            grad_cam = Some(match grad_cam {
                None => cam,
                Some(sum) => sum + cam,
            });
        }
    }
    (attention.map(rows).unwrap_or_default(), grad_cam.map(rows))
}

fn rows(x: Tensor<3>) -> Vec<Vec<f32>> {
    let [_, _, columns] = x.dims();
    host(x).chunks(columns).map(<[f32]>::to_vec).collect()
}

/// The parts that get maps: name, scope and positions.
fn parts(tokenizer: &TextTokenizer, text: &Encoded) -> Vec<(String, Scope, Vec<usize>)> {
    let mut parts = vec![
        (
            "whole caption".to_owned(),
            Scope::Caption,
            (0..text.ids.len()).collect(),
        ),
        (
            text.ids
                .first()
                .and_then(|id| tokenizer.token(*id))
                .unwrap_or_default(),
            Scope::Summary,
            vec![0],
        ),
    ];
    let mut last = None;
    for (at, word) in text.word_ids.iter().enumerate() {
        let Some(word) = word else { continue };
        match parts.last_mut().filter(|_| last == Some(word)) {
            Some((_, _, positions)) => positions.push(at),
            None => parts.push((String::new(), Scope::Word, vec![at])),
        }
        last = Some(word);
    }
    for (name, scope, positions) in &mut parts {
        if *scope == Scope::Word {
            let ids: Vec<i32> = positions.iter().map(|at| text.ids[*at]).collect();
            *name = tokenizer.decode(&ids);
        }
    }
    parts
}

impl Predictor {
    /// The part of an image that the model sees, in the image's own proportions, large enough to look at.
    fn view(&self, path: &Path) -> Result<image::RgbImage, String> {
        let pictures = self.pictures().map_err(|error| error.to_string())?;
        let picture = images::read(path, super::pictures::LIMITS).map_err(|error| error.reason)?;
        pictures.view(&picture, page::SIDE)
    }
}
