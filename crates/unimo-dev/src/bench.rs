//! `unimo-dev bench step`: times a training step, for comparison with PyTorch.
//!
//! Sizes, work per step and the fields of the printed line are those of a twin of METER and UNIMO-3 on Hugging Face's encoders. A
//! step runs the image encoder once, the text encoder on clean and masked text, and the cross-modal encoder on both. Then come
//! masked language modelling with its head on every position, image-text matching on half-wrong pairs, backward and AdamW. The step
//! is the crate's own: [`unimo_objectives::Objectives::step`] and [`Optimizer::step`].
//!
//! UNIMO-2 and MVP have no twin. Their encoders have the size's widths and layers (MVP half of the uni-modal layers, as in the
//! paper). In addition to the two objectives above they have those of their recipes: contrast and the dictionary, or phrase
//! grounding.
//!
//! MAMO has no twin either. Its step is that of its recipe: contrast with a queue, matching of one true pair to two wrong ones, hidden
//! words, the teacher's states and visual features at hidden words and patches, and the teacher's move. `--without-teacher` takes the
//! student alone, with the same passes: pixels are the targets of hidden patches.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;
use unimo_batch::{Batch, Images, MaskedTexts, TAGS, Texts};
use unimo_core::init::Init;
use unimo_core::{parameters, part};
use unimo_encoders::names::covers;
use unimo_encoders::output::Keep;
use unimo_objectives::{Carry, Draws};

use unimo_train::BURN_VERSION;
use unimo_train::device::DeviceChoice;
use unimo_train::error::TrainError;
use unimo_train::freezing;
use unimo_train::memory::host_peak;
use unimo_train::model::{Model, float_dtype};
use unimo_train::optimizer::{self, Optimizer};
use unimo_train::pretrained;
use unimo_train::recipe::{ComputeDtype, OptimizerConfig};
use unimo_train::sizes::{Family, PAD, SIZES, Size, backbone};

use crate::trace::Recording;

mod objectives;
pub mod recipe;
mod work;

use objectives::{PATCHES, TEACHER, objectives};

pub use work::{flops, parameter_count, teachers_flops};

const DTYPES: [(&str, ComputeDtype); 3] = [
    ("f32", ComputeDtype::F32),
    ("bf16", ComputeDtype::Bf16),
    ("f16", ComputeDtype::F16),
];

/// An element of a list by its name; clap shows the names in help and errors.
fn one_of<T: Clone + Send + Sync + 'static>(
    list: Vec<(&'static str, T)>,
) -> impl TypedValueParser<Value = T> {
    let names: Vec<_> = list.iter().map(|(name, _)| *name).collect();
    PossibleValuesParser::new(names).try_map(move |given| {
        let found = list.iter().find(|(name, _)| *name == given);
        found.map(|(_, value)| value.clone()).ok_or("unknown")
    })
}

pub(crate) fn size_parser() -> impl TypedValueParser<Value = Size> {
    one_of(SIZES.iter().map(|s| (s.name, *s)).collect())
}

fn family_parser() -> impl TypedValueParser<Value = Family> {
    one_of(Family::ALL.map(|f| (f.name(), f)).to_vec())
}

fn dtype_parser() -> impl TypedValueParser<Value = ComputeDtype> {
    one_of(DTYPES.to_vec())
}

fn at_least(least: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..)
}

/// `unimo-dev bench step`.
#[derive(Debug, Clone, clap::Args)]
pub struct StepArgs {
    /// Size of the model: base is METER's (ViT-B/16 at 288 pixels, RoBERTa-base, 6 layers on top).
    #[arg(long, default_value = "base", value_parser = size_parser())]
    size: Size,
    /// Cross-modal encoder.
    #[arg(long, default_value = "unimo3", value_parser = family_parser())]
    model: Family,
    /// MAMO's student alone: pixels are the targets of its hidden patches, and there is no queue.
    #[arg(long)]
    without_teacher: bool,
    /// The head of masked language modelling reads hidden words alone, as in training, and not every position, as the twin in PyTorch does.
    #[arg(long)]
    hidden_words: bool,
    /// Image-text pairs per step.
    #[arg(long, default_value = "4", value_parser = at_least(2))]
    batch: usize,
    /// Number of timed steps; the median is printed.
    #[arg(long, default_value = "5", value_parser = at_least(1))]
    steps: usize,
    /// Number of steps before those, which are not timed.
    #[arg(long, default_value = "2", value_parser = at_least(0))]
    warmup: usize,
    /// Device: cpu (or flex), wgpu, wgpu:N, cuda, cuda:N or auto.
    #[arg(long, default_value = "flex")]
    device: DeviceChoice,
    /// The dtype of activations; parameters and losses are always f32.
    #[arg(long, default_value = "f32", value_parser = dtype_parser())]
    dtype: ComputeDtype,
    /// Number of CPU threads; default: one per core.
    #[arg(long, value_parser = at_least(1))]
    threads: Option<usize>,
    /// Only the forward pass, without gradients or dropout.
    #[arg(long)]
    inference: bool,
    /// Keep the inputs of blocks alone, and compute blocks again in the backward pass (`train.gradient_checkpointing`).
    #[arg(long, conflicts_with = "inference")]
    recompute: bool,
    /// Parameters that do not learn: a name or its beginning, such as backbone.text; may be given several times. A text or image encoder
    /// that is named as a whole has no dropout.
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Afterwards, print to stderr how the time is spent. With a file: also record the parts of as many more steps there, for
    /// Perfetto or chrome://tracing.
    #[arg(long, value_name = "FILE")]
    profile: Option<Option<PathBuf>>,
}

/// The line that is printed.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    peer: String,
    size: &'static str,
    model: &'static str,
    /// Number of the model's parameters.
    pub parameters: u64,
    batch: usize,
    device: String,
    dtype: &'static str,
    compiled: bool,
    inference: bool,
    threads: usize,
    /// Median over the steps.
    pub seconds_per_step: f64,
    pairs_per_second: f64,
    tflops: f64,
    /// Twice the multiply-adds of matrix products; the backward pass counts as twice the forward pass.
    pub flop_per_step: u64,
    /// The largest resident set of the process (Linux only, null elsewhere). On a GPU: the memory that its allocator holds at the
    /// end, which it does not release before.
    pub peak_bytes: Option<u64>,
    /// Loss of the last step.
    pub loss: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

impl Record {
    /// The record as one line of JSON.
    pub fn to_json(&self) -> Result<String, TrainError> {
        serde_json::to_string(self).map_err(|e| TrainError::Check(e.to_string()))
    }
}

/// The result of a benchmark.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The printed record.
    pub record: Record,
    /// The table of `--profile`.
    pub profile: Option<String>,
}

/// Runs the benchmark.
pub fn step(args: &StepArgs) -> Result<Outcome, TrainError> {
    if args.without_teacher && args.model != Family::Mamo {
        return Err(TrainError::Check(format!(
            "--without-teacher changes nothing with --model {}, which has no teacher; --model mamo has one",
            args.model.name()
        )));
    }
    let threads = use_threads(args.threads)?;
    let (device, choice) = args.device.open()?;
    let device = match (args.inference, args.recompute) {
        (true, _) => device,
        (false, false) => device.autodiff(),
        (false, true) => device.autodiff().gradient_checkpointing(),
    };
    let mut bench = Bench::new(args, device);
    if args.hidden_words && bench.model().backbone.fusion.is_none() {
        return Err(TrainError::Check(format!(
            "--hidden-words changes nothing with --model {}, whose head reads hidden words alone",
            args.model.name()
        )));
    }
    let mut times = Vec::new();
    let mut loss = f64::NAN;
    for i in 0..args.warmup + args.steps {
        let began = Instant::now();
        loss = bench.step()?;
        if i >= args.warmup {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let seconds = median(times);
    let mut work = flops(&args.size, args.model, args.batch, !args.inference);
    if bench.model().teacher.is_some() {
        work += teachers_flops(&args.size, args.batch);
    }
    let (peak_bytes, note) = peak(&bench.device, choice);
    let record = Record {
        peer: format!("unimo {} (burn {BURN_VERSION})", env!("CARGO_PKG_VERSION")),
        size: args.size.name,
        model: args.model.name(),
        parameters: parameters::list(bench.model())
            .iter()
            .map(|p| p.shape.iter().product::<usize>() as u64)
            .sum(),
        batch: args.batch,
        device: choice.to_string(),
        dtype: DTYPES
            .iter()
            .find(|(_, dtype)| *dtype == args.dtype)
            .map_or("", |(name, _)| name),
        compiled: false,
        inference: args.inference,
        threads,
        seconds_per_step: seconds,
        pairs_per_second: args.batch as f64 / seconds,
        tflops: work as f64 / seconds / 1e12,
        flop_per_step: work,
        peak_bytes,
        loss,
        note,
    };
    let profile = match &args.profile {
        None => None,
        Some(file) => {
            if let Some(file) = file {
                let recording = Recording::begin(file)?;
                let steps = (0..args.steps).try_for_each(|_| bench.step().map(drop));
                recording.end()?;
                steps?;
            }
            Some(bench.profile(args.steps)?)
        }
    };
    Ok(Outcome { record, profile })
}

/// Sets the size of rayon's pool, on which burn's CPU backend and the crate's own kernels run. Returns the size.
#[cfg(feature = "flex")]
fn use_threads(threads: Option<usize>) -> Result<usize, TrainError> {
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|e| TrainError::Check(format!("--threads {threads}: {e}")))?;
    }
    Ok(rayon::current_num_threads())
}

#[cfg(not(feature = "flex"))]
fn use_threads(threads: Option<usize>) -> Result<usize, TrainError> {
    match threads {
        Some(threads) => Err(TrainError::Check(format!(
            "--threads {threads}: this binary was built without the CPU backend; build with `--features flex`"
        ))),
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get())),
    }
}

/// The median; the mean of the two middle values if there are two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

fn peak(device: &Device, choice: DeviceChoice) -> (Option<u64>, Option<&'static str>) {
    if choice == DeviceChoice::Flex {
        return (host_peak(), None);
    }
    match device.memory_pool_usage() {
        Some(usage) => (Some(usage.bytes_reserved), None),
        None => (
            host_peak(),
            Some("peak_bytes is the host's: this device does not report its memory"),
        ),
    }
}

/// Loads a checkpoint's folder and gives the time that it took and the peak memory of the process.
///
/// # Errors
///
/// It cannot be read.
pub fn load(folder: &std::path::Path) -> Result<serde_json::Value, TrainError> {
    let before = host_peak();
    let began = Instant::now();
    let public = pretrained::describe(folder, None)?;
    let loaded = public.load(&Device::flex())?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(serde_json::json!({
        "kind": public.kind,
        "tensors": loaded.report.used.len(),
        "seconds": seconds,
        "peak_bytes": host_peak(),
        "peak_bytes_before": before,
    }))
}

/// Number of phrases per caption and of tags per image: MVP's, or a few.
fn concepts(size: &Size) -> (usize, usize) {
    if size.vocabulary > 1000 {
        (5, 20)
    } else {
        (2, 4)
    }
}

const OPTIMIZER: OptimizerConfig = OptimizerConfig {
    lr: 1e-5,
    fusion_lr_factor: 1.0,
    lr_factors: BTreeMap::new(),
    layer_decay: 1.0,
    beta1: 0.9,
    beta2: 0.98,
    eps: 1e-8,
    weight_decay: 0.01,
};

/// The first token id of a word in the random texts.
const FIRST_WORD: i32 = 5;
/// Share of the words that are hidden.
const HIDDEN: f64 = 0.15;
/// Mean and deviation of uniform noise in 0..1. Normalised by them, the noise has the mean and deviation of normalised pixels.
const NOISE: (f32, f32) = (0.5, 0.2887);

/// Noise as images and words, padded to different lengths.
fn random_batch(size: &Size, family: Family, batch: usize, seed: u64) -> Batch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let length = size.text_length;
    let mask_id = size.vocabulary as i32 - 1;
    let pixels = batch * Images::CHANNELS * size.image_size * size.image_size;
    let mut texts = Texts {
        length,
        ..Texts::default()
    };
    let mut masked = MaskedTexts::default();
    for row in 0..batch {
        let words = match row {
            0 => length,
            _ => rng.random_range(length / 2..=length),
        };
        texts.lengths.push(words);
        for position in 0..length {
            let word = rng.random_range(FIRST_WORD..mask_id - 1);
            let hide = position < words && (position == 1 || rng.random_bool(HIDDEN));
            let id = if position < words { word } else { PAD as i32 };
            texts.ids.push(id);
            masked.ids.push(if hide { mask_id } else { id });
            masked
                .labels
                .push(if hide { id } else { MaskedTexts::IGNORE });
        }
    }
    texts.masked = Some(masked);
    let mut further_texts = BTreeMap::new();
    if family == Family::Mvp {
        let (phrases, tags) = concepts(size);
        texts.concepts = Some(vec![phrases; batch]);
        let length = tags + 2;
        let ids = (0..batch * length).map(|_| rng.random_range(FIRST_WORD..mask_id - 1));
        let tags = Texts {
            ids: ids.collect(),
            length,
            lengths: vec![length; batch],
            ..Texts::default()
        };
        further_texts.insert(TAGS.to_owned(), tags);
    }
    let grid = size.image_size / size.patch_size;
    let hides = family == Family::Mamo;
    let patch_mask = hides.then(|| {
        let of_image = |_| {
            let hidden = (PATCHES.rate * (grid * grid) as f64).round() as usize;
            let mut mask: Vec<bool> = (0..grid * grid).map(|at| at < hidden).collect();
            mask.shuffle(&mut rng);
            mask
        };
        (0..batch).flat_map(of_image).collect()
    });
    Batch {
        further_texts,
        samples: (0..batch).map(|i| format!("noise {i}")).collect(),
        images: Some(Images {
            pixels: (0..pixels).map(|_| rng.random()).collect(),
            height: size.image_size,
            width: size.image_size,
            mean: [NOISE.0; Images::CHANNELS],
            std: [NOISE.1; Images::CHANNELS],
            second_view: None,
            patch_mask,
            codes: None,
        }),
        texts: Some(texts),
        ..Batch::default()
    }
}

/// What a step leaves for queues.
type Carries = Vec<(&'static str, Carry)>;

/// A model that is benchmarked.
struct Bench {
    /// `None` only while the optimiser owns it.
    model: Option<Model>,
    optimizer: Optimizer,
    batch: Batch,
    device: Device,
    inference: bool,
    done: u64,
}

impl Bench {
    fn new(args: &StepArgs, device: Device) -> Self {
        let mut config = backbone(&args.size, args.model);
        if args
            .freeze
            .iter()
            .any(|pattern| covers(pattern, "backbone.text"))
        {
            config.text.dropout = 0.0;
        }
        let mut init = Init::new(&device, 0);
        let backbone = config.init(&mut init);
        let with_teacher = args.model == Family::Mamo && !args.without_teacher;
        let wanted = objectives(&args.size, args.model, with_teacher);
        let mut objectives = wanted.init(&mut init, &config);
        if let Some(mlm) = &mut objectives.mlm {
            // As the twin does.
            mlm.every_position = config.fusion.is_some() && !args.hidden_words;
        }
        let backbone = backbone.compute_in(float_dtype(args.dtype));
        let model = Model {
            teacher: with_teacher.then(|| TEACHER.init(&backbone)),
            backbone,
            objectives,
        };
        let freezes = |name: &str| args.freeze.iter().any(|pattern| covers(pattern, name));
        let model = if args.freeze.is_empty() {
            model
        } else {
            let mut model = freezing::track(model, &|name| !freezes(name));
            model.backbone.note_frozen();
            model
        };
        Self {
            model: Some(model),
            optimizer: Optimizer::new(&OPTIMIZER, &config),
            batch: random_batch(&args.size, args.model, args.batch, 0),
            device,
            inference: args.inference,
            done: 0,
        }
    }

    fn sync(&self) -> Result<(), TrainError> {
        self.device
            .sync()
            .map_err(|e| TrainError::Check(format!("the device failed: {e}")))
    }

    fn model(&self) -> &Model {
        self.model
            .as_ref()
            .expect("invariant: the model is back after every step")
    }

    /// The loss, and what the heads carry into the next step.
    fn forward(&self) -> Result<(Tensor<1>, Carries), TrainError> {
        self.device.seed(self.done);
        let draws = Draws::new(self.done);
        let model = self.model();
        let batches = std::slice::from_ref(&self.batch);
        let together = &model.objectives;
        let step = together
            .together(&|_| true, &model.backbone, batches, &self.device)
            .with_teacher(model.teacher.as_ref())
            .batch(0, draws)
            .map_err(|e| TrainError::Check(e.to_string()))?;
        let loss = step.loss.ok_or_else(|| TrainError::NothingToTrain {
            step: self.done + 1,
            objectives: step.skipped.join(", "),
        })?;
        Ok((loss, step.carries))
    }

    fn update(&mut self, gradients: GradientsParams, carries: Carries) {
        let model = self
            .model
            .take()
            .expect("invariant: the model is back after every step");
        let step = self.done;
        let mut model = self
            .optimizer
            .step(model, gradients, OPTIMIZER.lr, step, 1.0);
        // The twin has none of what moves there.
        if model.teacher.is_some() {
            model.after_step(carries);
        }
        self.model = Some(model);
    }

    /// One step; returns its loss.
    fn step(&mut self) -> Result<f64, TrainError> {
        self.done += 1;
        let _part = part!(None, "step", step = self.done);
        let device = || Some(self.device.clone());
        let forward = part!(device(), "forward");
        let (loss, carries) = self.forward()?;
        drop(forward);
        if !self.inference {
            let backward = part!(device(), "backward");
            let gradients = GradientsParams::from_grads(loss.backward(), self.model());
            drop(backward);
            let _part = part!(device(), "optimiser");
            self.update(gradients, carries);
        }
        let loss = f64::from(loss.into_scalar::<f32>());
        self.sync()?;
        Ok(loss)
    }

    /// Times the parts of a step one by one, `steps` times. The encoders are timed in separate runs; the rest of the forward pass's
    /// time is attributed to heads and losses.
    fn profile(&mut self, steps: usize) -> Result<String, TrainError> {
        let mut laps: Vec<Vec<f64>> = vec![Vec::new(); PARTS.len()];
        for _ in 0..steps {
            self.done += 1;
            let mut times = self.encoders()?.to_vec();
            let mut lap = Instant::now();
            let mut split = |bench: &Self| -> Result<f64, TrainError> {
                bench.sync()?;
                let seconds = lap.elapsed().as_secs_f64();
                lap = Instant::now();
                Ok(seconds)
            };
            let (loss, carries) = self.forward()?;
            times.push(split(self)?);
            if !self.inference {
                let gradients = GradientsParams::from_grads(loss.backward(), self.model());
                times.push(split(self)?);
                // The training loop needs the norm for clipping; the benchmarked step has none.
                let norm = optimizer::global_norm(self.model(), &gradients);
                if !norm.is_finite() {
                    return Err(TrainError::Check("the gradient is not finite".to_owned()));
                }
                times.push(split(self)?);
                self.update(gradients, carries);
                times.push(split(self)?);
            }
            for (laps, seconds) in laps.iter_mut().zip(times) {
                laps.push(seconds);
            }
        }
        laps.retain(|laps| !laps.is_empty());
        let mut times: Vec<f64> = laps.into_iter().map(median).collect();
        let encoders: f64 = times[..ENCODERS].iter().sum();
        times[ENCODERS] = (times[ENCODERS] - encoders).max(0.0);
        Ok(table(&times))
    }

    /// Seconds in the image encoder, the text encoder and the cross-modal encoder.
    fn encoders(&self) -> Result<[f64; ENCODERS], TrainError> {
        let backbone = &self.model().backbone;
        let samples = self.batch.len();
        let empty = || TrainError::Check("invariant: the noise has images and texts".to_owned());
        let texts = self.batch.texts.as_ref().ok_or_else(empty)?;
        let masked = texts.masked.as_ref().ok_or_else(empty)?;

        let mut lap = Instant::now();
        let mut split = || -> Result<f64, TrainError> {
            self.sync()?;
            let seconds = lap.elapsed().as_secs_f64();
            lap = Instant::now();
            Ok(seconds)
        };
        let pictures = backbone.pictures(&self.batch, &self.device);
        let pictures = pictures.ok_or_else(empty)?;
        let tags = self.batch.further_texts.get(TAGS).map(|tags| {
            backbone
                .text
                .input(&tags.ids, &tags.lengths, tags.length, &self.device)
        });
        let encoded_images = backbone.encode_pictures(&pictures, tags.as_ref(), 0);
        let image_seconds = split()?;

        let ids = [texts.ids.as_slice(), &masked.ids].concat();
        let lengths = [texts.lengths.as_slice(), &texts.lengths].concat();
        let input = backbone
            .text
            .input(&ids, &lengths, texts.length, &self.device);
        let encoded_texts = backbone.encode_texts(&input);
        let text_seconds = split()?;

        let rows: Vec<i32> = (0..2 * samples).map(|i| (i % samples) as i32).collect();
        let rows = Tensor::from_data(TensorData::new(rows, [2 * samples]), &self.device);
        let fused = backbone.fuse(&encoded_texts, &encoded_images.select(&rows), Keep::Nothing);
        let fusion_seconds = split()?;
        drop(fused);
        Ok([image_seconds, text_seconds, fusion_seconds])
    }
}

/// Number of leading rows of the profile that are encoders.
const ENCODERS: usize = 3;

/// Rows of the profile; the last three are absent without gradients.
const PARTS: [&str; 7] = [
    "forward: image encoder",
    "forward: text encoder, clean and masked",
    "forward: cross-modal encoder, two pairings",
    "forward: heads and losses",
    "backward",
    "norm of the gradient (for clipping)",
    "AdamW",
];

fn table(times: &[f64]) -> String {
    let whole: f64 = times.iter().sum();
    let width = PARTS.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, seconds) in PARTS.iter().zip(times).chain([(&"all", &whole)]) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{name:<width$} {:>10.2} ms {:>5.1}%",
            seconds * 1e3,
            seconds / whole * 100.0
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(name: &str) -> &'static Size {
        SIZES.iter().find(|s| s.name == name).unwrap()
    }

    /// Size, model, parameters, and twice the multiply-adds of a training step of 4 pairs, as the PyTorch twin (torch 2.15,
    /// transformers) counts them on its own modules.
    const TWIN: [(&str, Family, u64, u64); 6] = [
        ("tiny", Family::Unimo3, 603_295, 251_308_032),
        ("tiny", Family::Meter, 503_189, 213_755_904),
        ("small", Family::Unimo3, 121_620_881, 414_468_016_128),
        ("small", Family::Meter, 110_953_307, 368_152_971_264),
        ("base", Family::Unimo3, 407_555_729, 2_323_524_096_000),
        ("base", Family::Meter, 364_986_971, 2_054_343_168_000),
    ];

    #[test]
    fn counts_are_those_of_the_twin() {
        for (name, family, parameters, work) in TWIN {
            let size = size(name);
            assert_eq!(parameter_count(size, family), parameters, "{name}");
            assert_eq!(flops(size, family, 4, true), work, "{name}");
            assert_eq!(flops(size, family, 4, false) * 3, work, "{name}");
        }
        let golden = size("golden");
        assert_eq!(parameter_count(golden, Family::Unimo3), 187_861);
        assert_eq!(flops(golden, Family::Unimo3, 4, false), 24_353_280);
    }

    #[cfg(feature = "flex")]
    fn args(size: &str, model: &str, more: &[&str]) -> StepArgs {
        use clap::Parser;
        #[derive(Parser)]
        struct Cli {
            #[command(flatten)]
            args: StepArgs,
        }
        let line = ["bench", "--size", size, "--model", model, "--steps", "1"];
        Cli::parse_from([&line[..], more].concat()).args
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_models_have_as_many_parameters_as_the_formula_says() {
        for name in ["tiny", "golden"] {
            for family in [Family::Unimo3, Family::Meter] {
                let args = args(name, family.name(), &[]);
                let bench = Bench::new(&args, Device::flex());
                let counted: usize = unimo_core::parameters::list(bench.model())
                    .iter()
                    .map(|p| p.shape.iter().product::<usize>())
                    .sum();
                let formula = parameter_count(size(name), family);
                assert_eq!(counted as u64, formula, "{name} {}", family.name());
            }
        }
    }

    /// Every family takes a step in which each of its objectives takes part.
    #[cfg(feature = "flex")]
    #[test]
    fn every_family_trains() {
        for family in Family::ALL {
            let args = args("golden", family.name(), &["--batch", "4"]);
            let mut bench = Bench::new(&args, Device::flex().autodiff());
            let draws = Draws::new(0);
            let model = bench.model();
            let batches = std::slice::from_ref(&bench.batch);
            let step = model
                .objectives
                .together(&|_| true, &model.backbone, batches, &bench.device)
                .with_teacher(model.teacher.as_ref())
                .batch(0, draws)
                .unwrap();
            assert!(
                step.skipped.is_empty(),
                "{}: {:?}",
                family.name(),
                step.skipped
            );
            assert!(bench.step().unwrap().is_finite());
            assert!(flops(size("golden"), family, 4, true) > 0);
        }
    }

    /// An untrained model guesses: ln 97 for the golden size's words, ln 2 for the matching. Random weights differ from that by a
    /// few per cent.
    #[cfg(feature = "flex")]
    #[test]
    fn a_step_trains_and_an_inference_step_does_not() {
        let chance = 97f64.ln() + 2f64.ln();
        let untrained = step(&args("golden", "unimo3", &["--inference", "--profile"])).unwrap();
        assert!((untrained.record.loss / chance - 1.0).abs() < 0.1);
        assert!(!untrained.profile.unwrap().contains("backward"));

        let mut bench = Bench::new(&args("golden", "unimo3", &[]), Device::flex().autodiff());
        let before = unimo_core::parameters::values(bench.model());
        bench.step().unwrap();
        let table = bench.profile(1).unwrap();
        assert_eq!(table.lines().count(), PARTS.len() + 1, "{table}");
        let after = unimo_core::parameters::values(bench.model());
        for (before, after) in before.iter().zip(&after) {
            // The merge weight starts at 0 and lets almost nothing through to the parameters behind it.
            let silent = before.0.split('.').any(|part| part == "level_attention");
            assert!(silent || before.1 != after.1, "{} is still", before.0);
        }
    }

    #[test]
    fn the_middle_of_the_times() {
        assert_eq!(median(vec![3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
    }
}
