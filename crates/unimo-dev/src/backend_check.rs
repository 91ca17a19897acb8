//! `unimo-dev check backend`: checks that a device computes what the CPU computes.
//!
//! A small UNIMO-3 is trained on generated scenes, twice on the CPU and once on the device, from the same weights and batches.
//! Every discrete choice (order, masks, negatives) is drawn on the host and does not depend on results of the device. There is no
//! dropout. So only rounding can differ.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use unimo_batch::Batch;
use unimo_core::parameters;
use unimo_data::{Batches, Loader, LoaderSpec, SkipList};
use unimo_encoders::output::Keep;
use unimo_objectives::Carry;
use unimo_objectives::Draws;

use unimo_train::device::DeviceChoice;
use unimo_train::error::TrainError;
use unimo_train::model::{Model, host};
use unimo_train::optimizer::{self, Optimizer};
use unimo_train::prepare;
use unimo_train::recipe::{Overrides, Recipe};

/// Largest relative difference of the first loss, before any update: f32 keeps 6e-8, and a forward pass of this size sums some
/// thousand products in another order on every device.
pub const FIRST_TOLERANCE: f64 = 1e-5;

/// Largest relative difference of a later loss. AdamW divides by the root of the second moment. If a gradient is near 0 and
/// rounding decides its sign, it becomes a whole step of the learning rate. Over about ten steps this grows to about 1e-5.
pub const LOSS_TOLERANCE: f64 = 1e-4;

/// Largest difference of an output of the forward pass with the same weights, as a share of the output's largest
/// value.
pub const FORWARD_TOLERANCE: f64 = 1e-5;

/// Largest difference of a gradient with the same weights, as a share of the largest value of that gradient. At the start of
/// training all captions look alike: the contrast's gradient is then a difference of numbers that agree in three digits, and loses
/// these three of seven.
pub const GRADIENT_TOLERANCE: f64 = 1e-3;

/// The same for the median of all gradients, most of which lose no digits in this way. It exposes a device that computes another
/// function than the CPU.
pub const MEDIAN_GRADIENT_TOLERANCE: f64 = 1e-5;

/// Number of gradients that the report lists.
const WORST_SHOWN: usize = 3;

/// A gradient counts as at least this share of the largest one. The exact gradient of an attention's key bias is zero, so on any
/// device it is only rounding.
const GRADIENT_FLOOR: f32 = 1e-3;

/// `unimo-dev check backend`.
#[derive(Debug, Clone, clap::Args)]
pub struct BackendArgs {
    /// The device to check against flex, the CPU: wgpu, wgpu:N, cuda, cuda:N or auto.
    #[arg(long)]
    pub device: DeviceChoice,
    /// Number of training steps.
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
}

/// Small enough for a GPU that a CPU emulates. `data.pad` keeps shapes fixed, since GPU backends compile kernels per shape. Uniform
/// negatives do not depend on similarities.
const CHANGES: &[&str] = &[
    "train.batch_size=4",
    "train.optimizer.lr=1e-4",
    "model.text.vocab_size=300",
    "model.text.width=32",
    "model.text.heads=2",
    "model.text.feed_forward=64",
    "model.image.image_size=32",
    "model.image.width=32",
    "model.image.layers=2",
    "model.image.heads=2",
    "model.image.feed_forward=64",
    "model.fusion.width=32",
    "model.fusion.heads=2",
    "model.fusion.feed_forward=64",
    "objectives.itm.negatives=uniform",
    "objectives.itm.layout=half",
    "objectives.itc.width=16",
    "data.image_size=32",
    "data.max_text_length=24",
    "data.pad=max",
    "data.scenes.size=32",
    "data.scenes.train=500",
    "data.tokenizer.vocab_size=300",
];

fn recipe(steps: u64) -> Result<Recipe, TrainError> {
    let mut set: Vec<String> = CHANGES.iter().map(|s| (*s).to_owned()).collect();
    set.push(format!("train.steps={steps}"));
    Recipe::load("unimo3-tiny", &Overrides { data: None, set })
}

/// Runs the check; `say` gets every line of the report. A difference above its tolerance is an error.
pub fn run(args: &BackendArgs, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let (flex, _) = DeviceChoice::Flex.open()?;
    let (device, choice) = args.device.open()?;
    let recipe = recipe(args.steps)?;
    let batches = batches(&recipe)?;

    let first = train(&recipe, &batches, &flex)?;
    let second = train(&recipe, &batches, &flex)?;
    same_bits(&first.losses, &second.losses)?;
    say(&format!(
        "flex twice: {} losses equal bit for bit, {:.3} s per step",
        first.losses.len(),
        first.seconds_per_step()
    ));
    if choice != DeviceChoice::Flex {
        say(&format!(
            "training on {choice}; the first step compiles kernels and may take minutes"
        ));
    }
    let other = train(&recipe, &batches, &device)?;
    for line in table(&first.losses, &other.losses, &choice.to_string()).lines() {
        say(line);
    }
    say(&format!(
        "{choice}: first step {:.3} s, then {:.3} s per step; flex {:.3} s per step",
        other.seconds.first().copied().unwrap_or(f64::NAN),
        other.seconds_per_step(),
        first.seconds_per_step()
    ));
    compare_losses(&first.losses, &other.losses)?;

    let tracked = prepare::training_device(&recipe, &device);
    let weights = parameters::values(&first.model);
    let mut at = weights.into_iter();
    // Both modules are made from one recipe, so their parameters are in the same order.
    let model = parameters::replace(Model::new(&recipe, &tracked), |_, _| {
        at.next().map(|(_, data)| data)
    });
    let mut worst: Option<String> = None;
    let mut judge = |what: &str, difference: f64, allowed: f64| {
        if difference > allowed && worst.is_none() {
            worst = Some(format!(
                "with the same weights {what} differs by {difference:.1e} of its largest value, allowed {allowed:.0e}"
            ));
        }
    };
    let ours = outputs(&first.model.valid(), &batches[0], &flex)?;
    let theirs = outputs(&model.valid(), &batches[0], &device)?;
    for ((name, a), (_, b)) in ours.iter().zip(&theirs) {
        let difference = relative_difference(a, b, 0.0);
        say(&format!("forward, same weights: {name} {difference:.1e}"));
        judge(name, difference, FORWARD_TOLERANCE);
    }
    let flex = prepare::training_device(&recipe, &flex);
    let ours = gradients(&recipe, &first.model, &batches[0], &flex)?;
    let theirs = gradients(&recipe, &model, &batches[0], &tracked)?;
    let floor = GRADIENT_FLOOR * ours.iter().map(|(_, g)| largest(g)).fold(0.0, f32::max);
    let mut differences: Vec<(&str, f64)> = ours
        .iter()
        .zip(&theirs)
        .map(|((name, a), (_, b))| (name.as_str(), relative_difference(a, b, floor)))
        .collect();
    differences.sort_by(|a, b| b.1.total_cmp(&a.1));
    say(&format!(
        "gradients, same weights: {} compared, the worst {WORST_SHOWN}:",
        differences.len()
    ));
    for (name, difference) in differences.iter().take(WORST_SHOWN) {
        say(&format!("  {name} {difference:.1e}"));
    }
    let (_, median) = differences
        .get(differences.len() / 2)
        .copied()
        .unwrap_or_default();
    say(&format!("gradients, same weights: median {median:.1e}"));
    judge("the median gradient", median, MEDIAN_GRADIENT_TOLERANCE);
    for (name, difference) in &differences {
        judge(
            &format!("the gradient of {name}"),
            *difference,
            GRADIENT_TOLERANCE,
        );
    }
    if ours.is_empty() || ours.len() != theirs.len() {
        return Err(TrainError::Check(format!(
            "{} gradients on flex, {} on the device",
            ours.len(),
            theirs.len()
        )));
    }
    match worst {
        Some(reason) => Err(TrainError::Check(reason)),
        None => {
            say(&format!("{choice} agrees with flex"));
            Ok(())
        }
    }
}

/// The batches, the same for every device.
fn batches(recipe: &Recipe) -> Result<Vec<Batch>, TrainError> {
    let source = unimo_data::open(&recipe.data)?;
    let tokenizer = prepare::tokenizer(recipe, &*source)?;
    prepare::check_tokenizer(recipe, &tokenizer)?;
    let skip = SkipList::in_memory(recipe.data.max_skipped);
    let mut spec = LoaderSpec::new(
        &recipe.data,
        source,
        Arc::new(tokenizer),
        Arc::new(skip),
        Batches {
            size: recipe.train.batch_size,
            seed: recipe.seed,
        },
    );
    spec.mask = recipe.objectives.mlm.as_ref().map(|mlm| mlm.mask);
    let batches: Result<Vec<Batch>, _> = Loader::new(spec)?
        .take(recipe.train.steps as usize)
        .collect();
    Ok(batches?)
}

/// A trained model with its losses and times.
struct Trained {
    model: Model,
    losses: Vec<f32>,
    seconds: Vec<f64>,
}

impl Trained {
    /// Without the first step, unless it is the only one.
    fn seconds_per_step(&self) -> f64 {
        let later = if self.seconds.len() > 1 {
            &self.seconds[1..]
        } else {
            &self.seconds
        };
        later.iter().sum::<f64>() / later.len() as f64
    }
}

/// The carry of each objective, by its key.
type Carries = Vec<(&'static str, Carry)>;

/// The loss of a batch and the objectives' carries. Negatives depend on the step.
fn forward(
    recipe: &Recipe,
    model: &Model,
    batch: &Batch,
    device: &Device,
    step: u64,
) -> Result<(Tensor<1>, Carries), TrainError> {
    let draws = Draws::new(recipe.seed ^ step);
    let result = model.objectives.step(&model.backbone, batch, device, draws);
    match result.loss {
        Some(loss) => Ok((loss, result.carries)),
        None => Err(TrainError::NothingToTrain {
            step,
            objectives: result.skipped.join(", "),
        }),
    }
}

fn train(recipe: &Recipe, batches: &[Batch], device: &Device) -> Result<Trained, TrainError> {
    let device = prepare::training_device(recipe, device);
    let config = &recipe.train;
    let mut optimizer = Optimizer::new(&config.optimizer, &recipe.model);
    let mut trained = Trained {
        model: Model::new(recipe, &device),
        losses: Vec::new(),
        seconds: Vec::new(),
    };
    for (step, batch) in (1..).zip(batches) {
        let began = Instant::now();
        let model = trained.model;
        let (loss, carries) = forward(recipe, &model, batch, &device, step)?;
        trained.losses.push(loss.clone().into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let norm = optimizer::global_norm(&model, &gradients);
        let scale = match config.clip_norm {
            Some(limit) if norm > limit => limit / norm,
            _ => 1.0,
        };
        let rate = config.optimizer.lr * optimizer::schedule(&config.schedule, step, config.steps);
        let mut model = optimizer.step(model, gradients, rate, step, scale as f32);
        model.after_step(carries);
        trained.model = model;
        device
            .sync()
            .map_err(|e| TrainError::Check(format!("the device failed at step {step}: {e}")))?;
        trained.seconds.push(began.elapsed().as_secs_f64());
    }
    Ok(trained)
}

/// A model's outputs for a batch, by name, on the host.
fn outputs(
    model: &Model,
    batch: &Batch,
    device: &Device,
) -> Result<Vec<(&'static str, Vec<f32>)>, TrainError> {
    let pictures = model.backbone.pictures(batch, device);
    let (Some(pictures), Some(texts)) = (pictures, &batch.texts) else {
        return Err(TrainError::NothingToTrain {
            step: 0,
            objectives: "the batch lacks images or texts".to_owned(),
        });
    };
    let backbone = &model.backbone;
    let input = backbone
        .text
        .input(&texts.ids, &texts.lengths, texts.length, device);
    let texts = backbone.encode_texts(&input);
    let images = backbone.encode_pictures(&pictures, None, 0);
    let fused = backbone.fuse(&texts, &images, Keep::Nothing);
    let mut found = vec![
        ("text encoder", host(texts.class.clone())),
        ("image encoder", host(images.class.clone())),
        ("text stream", host(fused.text().clone())),
        ("image stream", host(fused.image().clone())),
    ];
    let heads = &model.objectives;
    if let Some(mlm) = &heads.mlm {
        let [rows, length, width] = fused.text().dims();
        let states = fused.text().clone().reshape([rows * length, width]);
        found.push((
            "mlm scores",
            host(mlm.logits(&backbone.text.word_embedding, states)),
        ));
    }
    if let Some(itm) = &heads.itm {
        found.push(("itm scores", host(itm.logits(backbone, &fused))));
    }
    if let Some(itc) = &heads.itc {
        found.push(("itc, texts", host(itc.embed_texts(&texts))));
        found.push(("itc, images", host(itc.embed_images(&images))));
    }
    Ok(found)
}

/// The gradients of the parameters, by name, on the host.
fn gradients(
    recipe: &Recipe,
    model: &Model,
    batch: &Batch,
    device: &Device,
) -> Result<Vec<(String, Vec<f32>)>, TrainError> {
    let (loss, _) = forward(recipe, model, batch, device, 0)?;
    let gradients = GradientsParams::from_grads(loss.backward(), model);
    Ok(parameters::gradients(model, &gradients)
        .into_iter()
        .map(|(name, data)| (name, data.iter::<f32>().collect()))
        .collect())
}

fn same_bits(a: &[f32], b: &[f32]) -> Result<(), TrainError> {
    let differ = (1..)
        .zip(a.iter().zip(b))
        .find(|(_, (a, b))| a.to_bits() != b.to_bits());
    match differ {
        None => Ok(()),
        Some((step, (a, b))) => Err(TrainError::Check(format!(
            "flex does not repeat itself: the loss of step {step} is {a:e} in one run and {b:e} in the other"
        ))),
    }
}

fn relative(a: f32, b: f32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    let difference = (a - b).abs() / a.abs().max(f64::MIN_POSITIVE);
    if difference.is_nan() {
        f64::INFINITY
    } else {
        difference
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m: f32, v| m.max(v.abs()))
}

/// The largest difference, relative to the largest value, or to `floor` if that is larger.
fn relative_difference(a: &[f32], b: &[f32], floor: f32) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let largest = largest(a).max(floor).max(f32::MIN_POSITIVE);
    a.iter().zip(b).fold(0.0, |worst, (a, b)| {
        let difference = f64::from((a - b).abs() / largest);
        if difference.is_nan() {
            f64::INFINITY
        } else {
            difference.max(worst)
        }
    })
}

fn compare_losses(flex: &[f32], other: &[f32]) -> Result<(), TrainError> {
    if flex.len() != other.len() {
        return Err(TrainError::Check(format!(
            "{} losses on flex, {} on the device",
            flex.len(),
            other.len()
        )));
    }
    for (step, (a, b)) in (1..).zip(flex.iter().zip(other)) {
        let allowed = if step == 1 {
            FIRST_TOLERANCE
        } else {
            LOSS_TOLERANCE
        };
        let difference = relative(*a, *b);
        if difference > allowed {
            return Err(TrainError::Check(format!(
                "the losses differ: step {step} by {difference:.1e} (flex {a}, device {b}), allowed {allowed:.0e}"
            )));
        }
    }
    Ok(())
}

fn table(flex: &[f32], other: &[f32], name: &str) -> String {
    let mut text = format!(
        "{:>5} {:>12} {:>12} {:>12}\n",
        "step", "flex", name, "difference"
    );
    for (step, (a, b)) in (1..).zip(flex.iter().zip(other)) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{step:>5} {a:>12.6} {b:>12.6} {:>12.1e}",
            relative(*a, *b)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_beyond_a_tolerance_are_named() {
        let flex = [4.0f32, 3.0, 2.0];
        compare_losses(&flex, &flex).unwrap();
        let later = |factor: f32| compare_losses(&flex, &[4.0, 3.0, 2.0 * factor]);
        later(1.0 + 0.5 * LOSS_TOLERANCE as f32).unwrap();
        let error = later(1.0 + 2.0 * LOSS_TOLERANCE as f32).unwrap_err();
        assert!(error.to_string().contains("step 3"), "{error}");
        let first = 4.0 * (1.0 + 0.5 * LOSS_TOLERANCE as f32);
        let error = compare_losses(&flex, &[first, 3.0, 2.0]).unwrap_err();
        assert!(error.to_string().contains("step 1"), "{error}");
        assert!(compare_losses(&flex, &[4.0, f32::NAN, 2.0]).is_err());
        assert!(compare_losses(&flex, &flex[..2]).is_err());

        same_bits(&flex, &flex).unwrap();
        let next = f32::from_bits(3.0f32.to_bits() + 1);
        let error = same_bits(&flex, &[4.0, next, 2.0]).unwrap_err();
        assert!(error.to_string().contains("step 2"), "{error}");
        assert_eq!(relative_difference(&[1.0, -4.0], &[1.0, -3.0], 0.0), 0.25);
        assert_eq!(relative_difference(&[1.0], &[f32::NAN], 0.0), f64::INFINITY);
        assert_eq!(relative_difference(&[0.25], &[0.5], 4.0), 0.0625);
    }

    #[cfg(feature = "flex")]
    #[test]
    fn flex_agrees_with_itself() {
        let args = BackendArgs {
            device: DeviceChoice::Flex,
            steps: 3,
        };
        let mut lines = Vec::new();
        run(&args, &mut |line| lines.push(line.to_owned())).unwrap();
        let equal = |start: &str| {
            let found = |l: &&String| l.starts_with(start) && l.ends_with(" 0.0e0");
            lines.iter().filter(found).count()
        };
        assert_eq!(
            (equal("    "), equal("  "), equal("forward")),
            (3, 6, 8),
            "3 losses, the 3 worst gradients beside them, 8 outputs: {lines:?}"
        );
    }
}
