//! `unimo-dev bench dtype`: how far hidden states and gradients in half precision are from those in f32.
//!
//! A loss near chance says nothing about the numbers behind it, so every tensor is compared. The encoders are random and sharp:
//! like a trained encoder's, their attention prefers a few positions. Each encoder gets the same inputs in both dtypes, so that the
//! result shows only its own rounding. The loss is a fixed random sum of its last states. The error is `‖a - b‖ / ‖b‖`.

use std::collections::BTreeMap;
use std::fmt::Write;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use unimo_core::dtype::cast;
use unimo_core::init::Init;
use unimo_core::levels::GateKind;
use unimo_core::mask::PaddingMask;
use unimo_core::parameters;
use unimo_encoders::backbone::BackboneConfig;
use unimo_encoders::fusion::{CrossModalEncoder, FusionConfig, Levels, Link};
use unimo_encoders::joint::{JointEncoder, View};
use unimo_encoders::output::Keep;

use unimo_train::sizes::{self, Family, Size};

use crate::bench;
use unimo_train::device::DeviceChoice;
use unimo_train::error::TrainError;
use unimo_train::model::{float_dtype, host};
use unimo_train::recipe::ComputeDtype;

/// Roundings of a block in units of half a digit: two norms, two residual sums, four products of attention and its weights, two
/// products of the feed-forward layer and its activation. Each rounds several numbers at once, so about a dozen add up like a
/// random walk. The number is doubled, since a cross-modal layer has two attentions and its inputs are rounded too.
const ROUNDINGS: f64 = 24.0;
/// The bound of the worst state is this multiple of what so many independent roundings give. Roundings of one row share their
/// inputs and are not quite independent.
const STATES: f64 = 2.0;
/// Gradients go through the blocks a second time, over rounded states.
const GRADIENTS: f64 = 4.0;
/// The worst gradient is that of a parameter whose terms nearly cancel, such as a key's weights: the softmax removes the mean.
const WORST: f64 = 4.0;
/// A gradient that is zero in exact arithmetic, such as that of a key's bias, has no digits to compare. Gradients whose root mean
/// square is below this share of the largest are left out and counted.
const ZERO: f64 = 1e-5;

/// `unimo-dev bench dtype`.
#[derive(Debug, Clone, clap::Args)]
pub struct DtypeArgs {
    /// Device: cpu (or flex), wgpu, wgpu:N, cuda, cuda:N or auto.
    #[arg(long, default_value = "flex")]
    pub device: DeviceChoice,
    /// Size of the encoders, as in `unimo-dev bench step`.
    #[arg(long, default_value = "tiny", value_parser = bench::size_parser())]
    pub size: Size,
    /// Number of texts and images.
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u16).range(1..))]
    pub batch: u16,
    /// Print every tensor.
    #[arg(long, short)]
    pub verbose: bool,
}

/// One encoder in half precision, compared with f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Its name.
    pub encoder: &'static str,
    /// Relative error of every state, by name.
    pub states: Vec<(String, f64)>,
    /// Relative error of every parameter's gradient.
    pub gradients: Vec<(String, f64)>,
    /// Number of gradients that were left out because they are zero except for rounding.
    pub zero: usize,
    /// For UNIMO-2: the number of samples whose states chose the same codes in both dtypes, and the number of all samples. The
    /// others are left out: another code means another state.
    pub alike: Option<(usize, usize)>,
    /// Number of blocks that its states passed through.
    blocks: usize,
}

impl Compared {
    /// The bounds of the worst state, the median gradient and the worst gradient.
    pub fn bounds(&self, dtype: FloatDType) -> [f64; 3] {
        let rounded = unit(dtype) * (ROUNDINGS * self.blocks as f64).sqrt();
        let gradient = GRADIENTS * rounded;
        [STATES * rounded, gradient, WORST * gradient]
    }

    /// The errors of the worst state, the median gradient and the worst gradient.
    pub fn errors(&self) -> [f64; 3] {
        [
            worst(&self.states).1,
            median(&self.gradients),
            worst(&self.gradients).1,
        ]
    }
}

/// Upper bound of a rounding error, as a root mean square relative to the number: half the distance of neighbours around 1, divided
/// by the root of 3.
fn unit(dtype: FloatDType) -> f64 {
    let digits = match dtype {
        FloatDType::BF16 => 8,
        _ => 11,
    };
    2f64.powi(-digits) / 3f64.sqrt()
}

fn worst(errors: &[(String, f64)]) -> (&str, f64) {
    let worst = errors.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    worst.map_or(("nothing", f64::NAN), |(name, error)| (name, *error))
}

fn median(errors: &[(String, f64)]) -> f64 {
    bench::median(errors.iter().map(|(_, error)| *error).collect())
}

/// Runs the check; `say` gets every line of the report.
///
/// # Errors
///
/// The device cannot be opened, or an error is above its bound.
pub fn run(args: &DtypeArgs, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let (device, choice) = args.device.open()?;
    let mut failed = Vec::new();
    for (name, dtype) in [("bf16", ComputeDtype::Bf16), ("f16", ComputeDtype::F16)] {
        let dtype = float_dtype(dtype);
        if !device.supports_dtype(dtype) {
            say(&format!("{choice} does not compute in {name}"));
            continue;
        }
        let all = compare(&device, &args.size, usize::from(args.batch), dtype)?;
        say(&format!(
            "{name} beside f32 on {choice}, size {}: relative errors, in brackets what is allowed",
            args.size.name
        ));
        for line in table(&all, dtype).lines() {
            say(line);
        }
        for compared in &all {
            if args.verbose {
                for (tensor, error) in compared.states.iter().chain(&compared.gradients) {
                    say(&format!("  {error:.1e} {}: {tensor}", compared.encoder));
                }
            }
            let mut errors = compared.errors().into_iter().zip(compared.bounds(dtype));
            if errors.any(|(error, bound)| error > bound || error.is_nan()) {
                failed.push(format!("{} in {name}", compared.encoder));
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(TrainError::Check(format!(
            "further from f32 than rounding explains: {}",
            failed.join(", ")
        )))
    }
}

fn table(all: &[Compared], dtype: FloatDType) -> String {
    let mut text = format!(
        "{:<14} {:>13} {:>21} {:>16} {:>21}  worst gradient\n",
        "encoder", "states median", "worst", "gradients median", "worst"
    );
    for compared in all {
        let [states, gradients, worst_gradient] = compared.bounds(dtype);
        let (name, error) = worst(&compared.gradients);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<14} {:>13.1e} {:>10.1e} ({states:.1e}) {:>6.1e} ({gradients:.1e}) {error:>11.1e} ({worst_gradient:.1e})  {name}{}",
            compared.encoder,
            median(&compared.states),
            worst(&compared.states).1,
            median(&compared.gradients),
            match compared.alike {
                Some((alike, all)) => format!("; {alike} of {all} samples chose the same codes"),
                None => String::new(),
            }
        );
    }
    text
}

/// Compares every encoder of a size in `dtype` with f32.
///
/// # Errors
///
/// No sample of UNIMO-2 chose the same codes in both dtypes.
pub fn compare(
    device: &Device,
    size: &Size,
    rows: usize,
    dtype: FloatDType,
) -> Result<Vec<Compared>, TrainError> {
    let device = device.clone().autodiff();
    let scene = Scene {
        rows,
        size: *size,
        device,
        dtype,
    };
    let pairs = sizes::backbone(size, Family::Meter).without_dropout();
    let mut all = vec![scene.text(&pairs), scene.image(&pairs)];
    let kinds: [(&'static str, Change); 5] = [
        ("METER", |_, _| {}),
        ("BridgeTower", |c, _| {
            (c.link, c.uni_levels) = (Link::AddNorm, c.layers);
        }),
        ("ManagerTower", |c, levels| {
            (c.link, c.uni_levels) = (Link::Managers, levels);
        }),
        ("UNIMO-3 cls", |c, _| c.levels = Levels::CrossPrev),
        ("UNIMO-3 token", |c, _| {
            (c.levels, c.gate) = (Levels::CrossPrev, GateKind::Token);
        }),
    ];
    let levels = size.text_layers.min(size.image_layers);
    for (name, change) in kinds {
        let Some(mut config) = pairs.fusion.clone() else {
            continue;
        };
        // There cannot be more bridges than uni-modal layers.
        config.layers = config.layers.min(levels);
        change(&mut config, levels);
        all.push(scene.fusion(name, &config));
    }
    for (name, family) in [("UNIMO-2", Family::Unimo2), ("MVP", Family::Mvp)] {
        all.push(scene.joint(name, &sizes::backbone(size, family).without_dropout())?);
    }
    Ok(all)
}

type Change = fn(&mut FusionConfig, usize);

/// The inputs that all comparisons share.
struct Scene {
    rows: usize,
    size: Size,
    device: Device,
    dtype: FloatDType,
}

/// The result of one pass: states by name, and the gradient of every parameter.
struct Pass {
    states: Vec<(String, Vec<f32>)>,
    gradients: BTreeMap<String, Vec<f32>>,
}

/// Seeds of weights, of inputs and of the sum that is the loss.
const WEIGHTS: u64 = 1;
const INPUTS: u64 = 2;
const SUM: u64 = 3;

/// Uniform random numbers of variance 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let bound = 3f32.sqrt();
    (0..count)
        .map(|_| rng.random_range(-bound..bound))
        .collect()
}

/// The same module with weights as large as a trained model's. Products keep the variance of their inputs, attention scores have a
/// deviation of 4, and no norm, bias, gate or merge weight is neutral. The dictionary is not changed.
fn sharpened<M: Module>(module: M) -> M {
    const SHARP: f32 = 2.0;
    const NOISE: f32 = 0.1;
    const MERGE: f32 = 0.5;
    let old: BTreeMap<String, TensorData> = parameters::values(&module).into_iter().collect();
    let mut seed = WEIGHTS << 32;
    parameters::replace(module, |name, shape| {
        seed += 1;
        let has = |part: &str| name.split('.').any(|p| p == part);
        if has("codebook") || has("tau") {
            return None;
        }
        let noise = numbers(shape.iter().product(), seed);
        let matrix = shape.len() == 2 && !name.contains("embedding") || has("patch_embedding");
        let values = match shape {
            [fan_in, _] if matrix => {
                let gain = if has("query") || has("key") {
                    SHARP
                } else {
                    1.0
                };
                let scale = gain / (*fan_in as f32).sqrt();
                noise.iter().map(|n| n * scale).collect()
            }
            [_, _] => noise,
            _ => {
                let start = if has("merge") { MERGE } else { 0.0 };
                let old = old[name].iter::<f32>();
                old.zip(&noise)
                    .map(|(o, n)| o + start + NOISE * n)
                    .collect()
            }
        };
        Some(TensorData::new::<f32, _>(values, shape.to_vec()))
    })
}

impl Scene {
    fn init(&self) -> Init {
        Init::new(&self.device, WEIGHTS)
    }

    fn tensor<const D: usize>(&self, shape: [usize; D], seed: u64) -> Tensor<D> {
        let values = numbers(shape.iter().product(), seed);
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// Lengths of the texts: the first has full length, the others are shorter and shorter.
    fn lengths(&self) -> Vec<usize> {
        let length = self.size.text_length;
        let shorter = |row: usize| length - row * length / (2 * self.rows);
        (0..self.rows).map(shorter).collect()
    }

    /// The gradient of a random sum of the last `summed` states, over the rows that `kept` selects.
    fn pass<M: Module>(
        &self,
        module: &M,
        states: Vec<(String, Tensor<3>)>,
        summed: usize,
        kept: Option<&[bool]>,
    ) -> Pass {
        let first = states.len() - summed;
        let mut loss: Option<Tensor<1>> = None;
        let mut found = Vec::new();
        for (at, (name, state)) in states.into_iter().enumerate() {
            let mut state = cast(state, FloatDType::F32);
            if let Some(kept) = kept {
                let kept: Vec<f32> = kept.iter().map(|kept| f32::from(u8::from(*kept))).collect();
                let kept = TensorData::new(kept, [self.rows, 1, 1]);
                state = state * Tensor::<3>::from_data(kept, &self.device);
            }
            if at >= first {
                let part =
                    (state.clone() * self.tensor(state.dims(), (SUM << 32) + at as u64)).sum();
                loss = Some(match loss {
                    Some(sum) => sum + part,
                    None => part,
                });
            }
            found.push((name, host(state)));
        }
        let gradients = loss.map(|loss| {
            let gradients = GradientsParams::from_grads(loss.backward(), module);
            parameters::gradients(module, &gradients)
        });
        Pass {
            states: found,
            gradients: gradients
                .into_iter()
                .flatten()
                .map(|(name, data)| (name, data.iter::<f32>().collect()))
                .collect(),
        }
    }

    fn text(&self, model: &BackboneConfig) -> Compared {
        let mut encoder = sharpened(model.text.init(&mut self.init()));
        let length = self.size.text_length;
        let words = self.size.vocabulary as i32;
        let mut rng = ChaCha8Rng::seed_from_u64(INPUTS);
        let ids: Vec<i32> = (0..self.rows * length)
            .map(|_| rng.random_range(2..words))
            .collect();
        let input = encoder.input(&ids, &self.lengths(), length, &self.device);
        let mut pass = |dtype| {
            encoder.dtype = dtype;
            let states = encoder.forward(&input, encoder.layers.len() + 1);
            self.pass(&encoder, numbered(states), 1, None)
        };
        let (half, single) = (pass(self.dtype), pass(FloatDType::F32));
        compared("text encoder", &half, &single, model.text.layers)
    }

    fn image(&self, model: &BackboneConfig) -> Compared {
        let Some(config) = &model.image else {
            unreachable!("invariant: every family reads pixels");
        };
        let mut encoder = sharpened(config.init(&mut self.init()));
        let side = self.size.image_size;
        let pixels = self.tensor([self.rows, 3, side, side], INPUTS);
        let mut pass = |dtype| {
            encoder.dtype = dtype;
            let states = encoder.forward(pixels.clone(), encoder.layers.len() + 1);
            let states = states.into_iter().map(|state| encoder.finish(state));
            self.pass(&encoder, numbered(states.collect()), 1, None)
        };
        let (half, single) = (pass(self.dtype), pass(FloatDType::F32));
        compared("image encoder", &half, &single, config.layers)
    }

    /// States of a text and an image encoder, with the mask of the texts.
    fn uni_modal(&self, count: usize) -> (Vec<Tensor<3>>, Vec<Tensor<3>>, PaddingMask) {
        let (length, grid) = (
            self.size.text_length,
            self.size.image_size / self.size.patch_size,
        );
        let states = |positions: usize, seed: u64| -> Vec<Tensor<3>> {
            (0..count as u64)
                .map(|i| self.tensor([self.rows, positions, self.size.width], seed + i))
                .collect()
        };
        let mask = PaddingMask::from_lengths(&self.lengths(), length, &self.device);
        let seed = INPUTS << 32;
        (
            states(length, seed),
            states(grid * grid + 1, seed + count as u64),
            mask,
        )
    }

    fn fusion(&self, name: &'static str, config: &FusionConfig) -> Compared {
        let width = self.size.width;
        let encoder: CrossModalEncoder = sharpened(config.init(&mut self.init(), width, width));
        let (texts, images, mask) = self.uni_modal(config.uni_modal_states());
        let pass = |dtype| {
            let to = |states: &[Tensor<3>]| -> Vec<Tensor<3>> {
                states.iter().map(|s| cast(s.clone(), dtype)).collect()
            };
            let texts = encoder.project_texts(to(&texts));
            let images = encoder.project_images(to(&images), 0);
            let fused = encoder.forward(&texts, &images, &mask, None, Keep::Gates);
            let mut states = Vec::new();
            for (layer, gates) in fused.gates.iter().enumerate() {
                states.push((format!("text gates of layer {layer}"), gates.text.clone()));
                states.push((format!("image gates of layer {layer}"), gates.image.clone()));
            }
            states.push(("text".to_owned(), fused.text().clone()));
            states.push(("image".to_owned(), fused.image().clone()));
            self.pass(&encoder, states, 2, None)
        };
        let (half, single) = (pass(self.dtype), pass(FloatDType::F32));
        compared(name, &half, &single, config.layers)
    }

    fn joint(&self, name: &'static str, model: &BackboneConfig) -> Result<Compared, TrainError> {
        let Some(config) = &model.joint else {
            unreachable!("invariant: the family has one stream");
        };
        let encoder: JointEncoder = sharpened(config.init(&mut self.init()));
        let (texts, images, mask) = self.uni_modal(1);
        let forward = |dtype| {
            let (text, image) = (
                cast(texts[0].clone(), dtype),
                cast(images[0].clone(), dtype),
            );
            encoder.forward(Some((&text, &mask)), Some((&image, None)), &View::default())
        };
        let chosen = |dtype| {
            let grounded = forward(dtype).grounded?;
            let codes = grounded.quantised.codes.into_data();
            let codes: Vec<i64> = codes.iter::<i64>().collect();
            let mut rows: Vec<Vec<i64>> = codes
                .chunks(codes.len() / self.rows)
                .map(<[i64]>::to_vec)
                .collect();
            // Grounded tokens have no positions, so their order does not matter.
            rows.iter_mut().for_each(|row| row.sort_unstable());
            Some(rows)
        };
        let kept: Option<Vec<bool>> = chosen(self.dtype)
            .zip(chosen(FloatDType::F32))
            .map(|(half, single)| half.iter().zip(&single).map(|(a, b)| a == b).collect());
        let alike = kept
            .as_ref()
            .map(|kept| kept.iter().filter(|k| **k).count());
        if alike == Some(0) {
            return Err(TrainError::Check(format!(
                "{name}: no sample of {} chose the same codes in both dtypes, so nothing can be compared; give a larger --batch",
                self.rows
            )));
        }
        let pass = |dtype| {
            let fused = forward(dtype);
            let states = vec![
                ("text".to_owned(), fused.text().clone()),
                ("image".to_owned(), fused.image().clone()),
            ];
            self.pass(&encoder, states, 2, kept.as_deref())
        };
        let (half, single) = (pass(self.dtype), pass(FloatDType::F32));
        Ok(Compared {
            alike: alike.map(|alike| (alike, self.rows)),
            ..compared(name, &half, &single, config.layers)
        })
    }
}

fn numbered(states: Vec<Tensor<3>>) -> Vec<(String, Tensor<3>)> {
    let named = states.into_iter().enumerate();
    named
        .map(|(i, state)| (format!("state {i}"), state))
        .collect()
}

/// The length of a vector.
fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn relative_error(half: &[f32], single: &[f32]) -> f64 {
    let pairs = half.iter().zip(single);
    let difference = length(pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / length(single.iter().map(|v| f64::from(*v)))
}

/// A parameter's name with `*` for the layer and the stream.
///
/// The gradient of a single number is a sum whose terms may nearly cancel, so rounding may be as large as the rest. Together with
/// those of other layers it is measured by one that did not cancel.
fn in_all_layers(name: &str) -> String {
    let parts = name.split('.').map(|part| match part {
        "text" | "image" => "*",
        number if number.parse::<usize>().is_ok() => "*",
        part => part,
    });
    parts.collect::<Vec<_>>().join(".")
}

fn compared(encoder: &'static str, half: &Pass, single: &Pass, blocks: usize) -> Compared {
    let size = |values: &[f32]| {
        length(values.iter().map(|v| f64::from(*v))) / (values.len().max(1) as f64).sqrt()
    };
    let largest = single
        .gradients
        .values()
        .map(|g| size(g))
        .fold(0.0, f64::max);
    let (mut gradients, mut zero) = (Vec::new(), 0);
    // Parameters of a single number, those of all layers and streams together: in half precision, and in f32.
    let mut numbers: BTreeMap<String, [Vec<f32>; 2]> = BTreeMap::new();
    for (name, values) in &single.gradients {
        let halves = half.gradients.get(name);
        if let ([value], Some([half])) = (&values[..], halves.map(|half| &half[..])) {
            let [halves, values] = numbers.entry(in_all_layers(name)).or_default();
            halves.push(*half);
            values.push(*value);
            continue;
        }
        if size(values) < ZERO * largest {
            zero += 1;
            continue;
        }
        // A missing gradient counts as infinitely wrong.
        let error = halves.map(|half| relative_error(half, values));
        gradients.push((name.clone(), error.unwrap_or(f64::INFINITY)));
    }
    for (name, [halves, values]) in numbers {
        if size(&values) < ZERO * largest {
            zero += values.len();
        } else {
            gradients.push((name, relative_error(&halves, &values)));
        }
    }
    let states = half.states.iter().zip(&single.states);
    Compared {
        encoder,
        states: states
            .map(|((name, half), (_, single))| (name.clone(), relative_error(half, single)))
            .collect(),
        gradients,
        zero,
        alike: None,
        blocks,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    fn size(name: &str) -> Size {
        let found = sizes::SIZES.iter().find(|size| size.name == name);
        *found.expect("a size of that name")
    }

    /// The states and gradients of each encoder are as near to f32 as the digits of the dtype allow. bf16, which has three digits
    /// less, is further off than f16, so the values were computed in the dtype.
    #[test]
    fn half_precision_is_near_f32() {
        let device = Device::flex();
        let [bf16, f16] = [FloatDType::BF16, FloatDType::F16]
            .map(|dtype| compare(&device, &size("golden"), 4, dtype).unwrap());
        for (dtype, all) in [(FloatDType::BF16, &bf16), (FloatDType::F16, &f16)] {
            assert_eq!(all.len(), 9);
            for compared in all {
                let within = compared.errors().into_iter().zip(compared.bounds(dtype));
                for (error, bound) in within {
                    assert!(
                        error <= bound,
                        "{dtype:?}: {error:.1e} of {bound:.1e}: {compared:#?}"
                    );
                }
                assert!(compared.gradients.len() > compared.zero, "{compared:#?}");
            }
        }
        for (bf16, f16) in bf16.iter().zip(&f16) {
            let ratio = median(&bf16.gradients) / median(&f16.gradients);
            assert!((4.0..16.0).contains(&ratio), "{}: {ratio}", bf16.encoder);
        }
    }

    /// f32 compared with itself shows no difference.
    #[test]
    fn f32_is_itself() {
        let all = compare(&Device::flex(), &size("golden"), 2, FloatDType::F32).unwrap();
        for compared in all {
            let errors = compared.states.iter().chain(&compared.gradients);
            assert!(
                errors.into_iter().all(|(_, error)| *error == 0.0),
                "{compared:#?}"
            );
        }
    }
}
