//! `unimo-dev parity`: compares outputs and gradients of a checkpoint with those of its reference implementation.
//!
//! A reference folder holds `config.json`, `model.safetensors` and `io.safetensors` with `in.*` inputs, `out.*` outputs
//! (`out.hidden.N` after N blocks, `out.gate.*` gates) and `grad.*`, the gradient of `out.loss` for every parameter under the
//! reference's own name. Every output and every gradient in the file is compared; an unknown one is an error. So is a gradient here
//! that the reference lacks, unless the file's note `gradients` is `some`. Dropout is off, whatever the description says, since the
//! reference was computed without it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use unimo_core::{kernels, parameters};
use unimo_encoders::backbone::Backbone;
use unimo_encoders::clip::Clip;
use unimo_encoders::image::ImageEncoder;
use unimo_encoders::import::{convert, fits_exactly};
use unimo_encoders::names::Names;
use unimo_encoders::output::Keep;
use unimo_encoders::text::TextEncoder;
use unimo_encoders::weights::SafetensorsFile;

use unimo_train::device::DeviceChoice;
use unimo_train::error::TrainError;
use unimo_train::model::{Model, host};
use unimo_train::pretrained::{self, Network, Pretrained};

mod own;

/// Largest difference of an output as a share of its largest value: f32 on both sides, sums in another order, through about a dozen
/// blocks.
pub const OUTPUT_TOLERANCE: f64 = 1e-5;
/// The same for a gradient, after the backward pass.
pub const GRADIENT_TOLERANCE: f64 = 1e-4;
/// A gradient that is zero except for rounding, such as that of a key's bias, has no scale of its own. It is compared as if its
/// largest value were this share of the largest of all gradients, which allows 1e-7 of that, f32's rounding.
const GRADIENT_FLOOR: f64 = 1e-3;

/// `unimo-dev parity`.
#[derive(Debug, clap::Args)]
pub struct ParityArgs {
    /// A reference folder, or a folder with several of them.
    pub folder: PathBuf,
    /// Inputs, outputs and gradients of the reference; default: the folder's io.safetensors.
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,
    /// Another file with the same weights, such as METER's model.ckpt; default: the folder's own.
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Device: cpu (or flex), wgpu, wgpu:N, cuda, cuda:N or auto.
    #[arg(long, default_value = "flex")]
    pub device: DeviceChoice,
    /// Also print the tensors that are within bounds.
    #[arg(long, short)]
    pub verbose: bool,
}

/// One compared tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name in the reference.
    pub tensor: String,
    /// Largest difference, as a share of the reference's largest value.
    pub error: f64,
    /// The largest allowed error.
    pub bound: f64,
}

/// One compared folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// The reference's folder.
    pub folder: PathBuf,
    /// The kind of model.
    pub kind: &'static str,
    /// Every output and gradient.
    pub rows: Vec<Row>,
}

impl Row {
    /// Whether it is within bounds.
    pub fn holds(&self) -> bool {
        self.error <= self.bound
    }
}

impl Compared {
    /// Whether every tensor is within bounds.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds)
    }

    /// The output or the gradient with the largest error.
    pub fn worst(&self, gradients: bool) -> Option<&Row> {
        self.rows
            .iter()
            .filter(|row| row.tensor.starts_with("grad.") == gradients)
            .max_by(|a, b| a.error.total_cmp(&b.error))
    }
}

/// Runs the command: compares, and gives a table per folder to `say`.
///
/// # Errors
///
/// A folder cannot be read, or a tensor is out of bounds.
pub fn run(args: &ParityArgs, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let (device, _) = args.device.open()?;
    let device = device.autodiff();
    let folders = match &args.reference {
        Some(_) => vec![args.folder.clone()],
        None => folders(&args.folder)?,
    };
    let mut failed = Vec::new();
    for folder in folders {
        let (reference, weights) = (args.reference.as_deref(), args.weights.as_deref());
        let compared = compare(&folder, reference, weights, &device)?;
        let gradients = compared
            .rows
            .iter()
            .filter(|r| r.tensor.starts_with("grad."));
        let gradients = gradients.count();
        say(&format!(
            "{}: {}, {} outputs, {gradients} gradients",
            folder.display(),
            compared.kind,
            compared.rows.len() - gradients
        ));
        let shown = |row: &&Row| args.verbose || !row.holds();
        for row in compared.rows.iter().filter(shown) {
            say(&line(row));
        }
        for (what, gradients) in [("worst output", false), ("worst gradient", true)] {
            if let Some(row) = compared.worst(gradients) {
                say(&format!("  {what}:{}", line(row)));
            }
        }
        if !compared.holds() {
            failed.push(folder.display().to_string());
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(TrainError::Check(format!(
            "out of bounds: {}",
            failed.join(", ")
        )))
    }
}

fn line(row: &Row) -> String {
    format!(
        "  {} {:.1e} of {:.0e} allowed, {}",
        if row.holds() { "ok " } else { "BAD" },
        row.error,
        row.bound,
        row.tensor
    )
}

/// The file that makes a folder a reference.
const IO: &str = "io.safetensors";

/// The folder itself, or the reference folders in it.
fn folders(given: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if given.join(IO).is_file() {
        return Ok(vec![given.to_owned()]);
    }
    if !given.is_dir() {
        return Err(TrainError::Check(format!(
            "{} is no folder: give the one that holds {IO}",
            given.display()
        )));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(given).map_err(TrainError::file("list", given))? {
        let path = entry.map_err(TrainError::file("list", given))?.path();
        if path.join(IO).is_file() {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        Err(TrainError::Check(format!(
            "{}: neither it nor a folder in it holds {IO}",
            given.display()
        )))
    } else {
        Ok(found)
    }
}

/// Inputs, outputs and gradients of a reference.
struct Reference {
    path: PathBuf,
    file: SafetensorsFile,
    device: Device,
}

impl Reference {
    fn open(path: PathBuf, device: &Device) -> Result<Self, TrainError> {
        Ok(Self {
            file: SafetensorsFile::open(&path)?,
            path,
            device: device.clone(),
        })
    }

    fn names(&self, section: &str) -> Vec<String> {
        let names = self.file.infos().into_iter().map(|(name, _)| name);
        names.filter(|name| name.starts_with(section)).collect()
    }

    fn lacks(&self, name: &str, what: &str) -> TrainError {
        TrainError::Check(format!("{}: `{name}` {what}", self.path.display()))
    }

    fn floats(&mut self, name: &str) -> Result<Vec<f32>, TrainError> {
        Ok(self.file.values(name)?)
    }

    fn integers(&mut self, name: &str) -> Result<(Vec<i32>, Vec<usize>), TrainError> {
        let (values, shape) = self.file.integers(name)?;
        let narrow = |v: &i64| i32::try_from(*v);
        let values: Result<Vec<i32>, _> = values.iter().map(narrow).collect();
        let values = values.map_err(|_| self.lacks(name, "holds a number beyond 32 bits"))?;
        Ok((values, shape))
    }

    /// Pixels, `[B, 3, S, S]`, for the encoder.
    fn pixels(&mut self, name: &str, encoder: &ImageEncoder) -> Result<Tensor<4>, TrainError> {
        let info = self.file.info(name);
        let shape: Option<[usize; 4]> = info.and_then(|i| i.shape.try_into().ok());
        let side = encoder.image_size();
        let shape = shape
            .filter(|[_, channels, height, width]| (*channels, *height, *width) == (3, side, side))
            .ok_or_else(|| self.lacks(name, &format!("is not [rows, 3, {side}, {side}]")))?;
        let values = self.floats(name)?;
        Ok(Tensor::from_data(
            TensorData::new(values, shape),
            &self.device,
        ))
    }

    /// Token ids, `[B, L]` row-major, with the lengths from a mask of ones before zeros. The texts are at most `longest` long, with
    /// words below `words`.
    fn texts(
        &mut self,
        [ids, mask]: [&str; 2],
        words: usize,
        longest: usize,
    ) -> Result<Texts, TrainError> {
        let (values, shape) = self.integers(ids)?;
        let [_, length] = shape[..] else {
            return Err(self.lacks(ids, "is not [rows, length]"));
        };
        if length == 0 || length > longest {
            let reason = format!("is {length} long, and the model takes 1 to {longest}");
            return Err(self.lacks(ids, &reason));
        }
        let known = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < words);
        if let Some(id) = values.iter().find(|id| !known(id)) {
            let reason = format!("holds {id}, and the vocabulary has {words} words");
            return Err(self.lacks(ids, &reason));
        }
        let (keep, of_mask) = self.integers(mask)?;
        if of_mask != shape {
            return Err(self.lacks(mask, &format!("is {of_mask:?}, and `{ids}` is {shape:?}")));
        }
        let mut lengths = Vec::new();
        for row in keep.chunks(length) {
            let real = row.iter().take_while(|v| **v == 1).count();
            if row[real..].iter().any(|v| *v != 0) {
                return Err(self.lacks(mask, "is not ones followed by zeros"));
            }
            lengths.push(real);
        }
        Ok(Texts {
            ids: values,
            lengths,
            length,
        })
    }
}

struct Texts {
    ids: Vec<i32>,
    lengths: Vec<usize>,
    length: usize,
}

/// The values computed here.
struct Computed {
    outputs: Vec<(String, Vec<f32>)>,
    gradients: BTreeMap<String, Vec<f32>>,
    parameters: Vec<(String, Vec<usize>)>,
}

impl Computed {
    fn new<M: Module>(module: &M, loss: Tensor<1>, mut outputs: Vec<(String, Vec<f32>)>) -> Self {
        outputs.push(("loss".to_owned(), host(loss.clone())));
        let gradients = GradientsParams::from_grads(loss.backward(), module);
        let gradients = parameters::gradients(module, &gradients);
        Self {
            outputs,
            gradients: gradients
                .into_iter()
                .map(|(name, data)| (name, data.iter::<f32>().collect()))
                .collect(),
            parameters: parameters::list(module)
                .into_iter()
                .map(|p| (p.name, p.shape))
                .collect(),
        }
    }
}

fn named<const D: usize>(name: impl Into<String>, x: &Tensor<D>) -> (String, Vec<f32>) {
    (name.into(), host(x.clone()))
}

/// Compares one folder, with its own reference or with another file.
///
/// # Errors
///
/// It cannot be read, or holds an output or a gradient that is not known here.
pub fn compare(
    folder: &Path,
    reference: Option<&Path>,
    weights: Option<&Path>,
    device: &Device,
) -> Result<Compared, TrainError> {
    let public = pretrained::describe(folder, weights)?.without_dropout();
    let Pretrained { network, .. } = public.load(device)?;
    let reference = reference.map_or_else(|| folder.join(IO), Path::to_owned);
    let mut reference = Reference::open(reference, device)?;
    let computed = match &network {
        Network::Text(encoder) => text(encoder, &mut reference)?,
        Network::Image(encoder) => image(encoder, &mut reference)?,
        Network::Clip(clip) => contrast(clip, &mut reference)?,
        Network::Pair(model) if reference.file.info("in.keep").is_some() => {
            twin(model, &mut reference)?
        }
        Network::Pair(model) if reference.file.info("out.text_state").is_some() => {
            own::computed(model, &mut reference)?
        }
        Network::Pair(model) => bridgetower(model, &mut reference)?,
    };
    let rows = rows(&computed, &mut reference, &public.spellings)?;
    Ok(Compared {
        folder: folder.to_owned(),
        kind: public.kind,
        rows,
    })
}

fn rows(
    computed: &Computed,
    reference: &mut Reference,
    spellings: &[Names],
) -> Result<Vec<Row>, TrainError> {
    let mut rows = Vec::new();
    let mut known = BTreeSet::new();
    for (name, ours) in &computed.outputs {
        let name = format!("out.{name}");
        if reference.file.info(&name).is_none() {
            continue;
        }
        let theirs = reference.floats(&name)?;
        rows.push(Row {
            error: relative_error(ours, &theirs, 0.0),
            bound: OUTPUT_TOLERANCE,
            tensor: name.clone(),
        });
        known.insert(name);
    }
    let mut pairs = Vec::new();
    let complete = reference.file.note("gradients") != Some("some");
    for (name, shape) in &computed.parameters {
        let ours = computed.gradients.get(name);
        let target = spellings.iter().find_map(|names| {
            let target = names.target(name)?;
            let gradient = format!("grad.{}", target.name);
            let info = reference.file.info(&gradient)?;
            Some((gradient, info.shape, target.conversion))
        });
        match (ours, target) {
            (Some(ours), Some((gradient, stored, conversion))) => {
                let theirs = reference.floats(&gradient)?;
                if !fits_exactly(conversion, &stored, shape) {
                    let reason = format!("is {stored:?}, here {shape:?}");
                    return Err(reference.lacks(&gradient, &reason));
                }
                let theirs = convert(&theirs, &stored, shape, conversion);
                known.insert(gradient.clone());
                pairs.push((gradient, ours, theirs));
            }
            // The reference's loss does not reach this parameter, so ours must not either.
            (Some(ours), None) if complete && ours.iter().any(|v| *v != 0.0) => {
                return Err(TrainError::Check(format!(
                    "`{name}` has a gradient here and none in the reference"
                )));
            }
            (None, Some((gradient, ..))) => {
                return Err(reference.lacks(&gradient, "has a gradient there and none here"));
            }
            (_, None) => {}
        }
    }
    let largest = pairs
        .iter()
        .flat_map(|(_, _, theirs)| theirs)
        .fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
    for (tensor, ours, theirs) in pairs {
        rows.push(Row {
            error: relative_error(ours, &theirs, GRADIENT_FLOOR * largest),
            bound: GRADIENT_TOLERANCE,
            tensor,
        });
    }
    for section in ["out.", "grad."] {
        if let Some(name) = reference
            .names(section)
            .iter()
            .find(|n| !known.contains(*n))
        {
            return Err(reference.lacks(name, "is not known here, so it cannot be compared"));
        }
    }
    Ok(rows)
}

/// Largest difference as a share of the reference's largest value; below `floor` that value counts as `floor`.
fn relative_error(ours: &[f32], theirs: &[f32], floor: f64) -> f64 {
    if ours.len() != theirs.len() {
        return f64::INFINITY;
    }
    let largest = theirs.iter().fold(floor, |m, v| m.max(f64::from(v.abs())));
    let worst = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| match (f64::from(*a) - f64::from(*b)).abs() {
            d if d.is_nan() => f64::INFINITY,
            d => d,
        })
        .fold(0.0, f64::max);
    match worst {
        0.0 => 0.0,
        worst => worst / largest,
    }
}

/// Every state of a text encoder. The loss is the mean square of the last state, over the positions with text.
fn text(encoder: &TextEncoder, io: &mut Reference) -> Result<Computed, TrainError> {
    let texts = words(encoder, io, "in.input_ids", "in.attention_mask")?;
    let input = encoder.input(&texts.ids, &texts.lengths, texts.length, &io.device);
    let states = encoder.forward(&input, encoder.layers.len() + 1);
    let last = last(&states);
    let visible = input.mask.hidden().bool_not().float().unsqueeze_dim::<3>(2);
    let loss = (last.clone() * visible).square().mean();
    let mut outputs = hidden(&states);
    outputs.push(named("last_hidden_state", &last));
    Ok(Computed::new(encoder, loss, outputs))
}

/// Texts that fit the encoder.
fn words(
    encoder: &TextEncoder,
    io: &mut Reference,
    ids: &str,
    mask: &str,
) -> Result<Texts, TrainError> {
    let [vocabulary, _] = encoder.word_embedding.weight.dims();
    io.texts([ids, mask], vocabulary, encoder.longest_text())
}

/// Every state of an image encoder. The loss is the mean square of the output: after the final norm for ViT, before it for CLIP's
/// tower, whose final norm belongs to the pooled output.
fn image(encoder: &ImageEncoder, io: &mut Reference) -> Result<Computed, TrainError> {
    let pixels = io.pixels("in.pixel_values", encoder)?;
    let states = encoder.forward(pixels, encoder.layers.len() + 1);
    let last = match encoder.pre_norm {
        Some(_) => last(&states),
        None => encoder.finish(last(&states)),
    };
    let mut outputs = hidden(&states);
    outputs.push(named("last_hidden_state", &last));
    Ok(Computed::new(encoder, last.square().mean(), outputs))
}

fn last(states: &[Tensor<3>]) -> Tensor<3> {
    states
        .last()
        .expect("invariant: an encoder has a last state")
        .clone()
}

fn hidden(states: &[Tensor<3>]) -> Vec<(String, Vec<f32>)> {
    states
        .iter()
        .enumerate()
        .map(|(i, state)| named(format!("hidden.{i}"), state))
        .collect()
}

/// Both embeddings of CLIP and its loss.
fn contrast(clip: &Clip, io: &mut Reference) -> Result<Computed, TrainError> {
    let [vocabulary, _] = clip.text.word_embedding.weight.dims();
    let [longest, _] = clip.text.position_embedding.weight.dims();
    let texts = io.texts(["in.input_ids", "in.attention_mask"], vocabulary, longest)?;
    let pixels = io.pixels("in.pixel_values", &clip.image)?;
    let input = clip
        .text
        .input(&texts.ids, &texts.lengths, texts.length, &io.device);
    let (texts, images) = (clip.embed_texts(&input), clip.embed_images(pixels));
    let per_image = clip.logits_per_image(texts.clone(), images.clone());
    let [rows, _] = per_image.dims();
    let labels = Tensor::arange(0..rows as i64, &io.device);
    let loss = kernels::cross_entropy(per_image.clone(), labels.clone()).mean()
        + kernels::cross_entropy(per_image.clone().transpose(), labels).mean();
    let outputs = vec![
        named("text_embeds", &texts),
        named("image_embeds", &images),
        named("logits_per_image", &per_image),
    ];
    Ok(Computed::new(clip, loss.mul_scalar(0.5), outputs))
}

/// BridgeTower with its head.
fn bridgetower(model: &Model, io: &mut Reference) -> Result<Computed, TrainError> {
    let backbone = &model.backbone;
    let texts = words(&backbone.text, io, "in.input_ids", "in.attention_mask")?;
    let input = backbone
        .text
        .input(&texts.ids, &texts.lengths, texts.length, &io.device);
    let texts = backbone.encode_texts(&input);
    let images = backbone.encode_images(pictures(backbone, io, "in.pixel_values")?);
    let fused = backbone.fuse(&texts, &images, Keep::Nothing);
    let heads = &model.objectives;
    let words = &backbone.text.word_embedding;
    let [rows, length, width] = fused.text().dims();
    if let Some(mlm) = &heads.mlm {
        let logits = mlm.logits(words, fused.text().clone().reshape([rows * length, width]));
        let loss = masked_loss(&logits, io)?;
        return Ok(Computed::new(model, loss, vec![named("logits", &logits)]));
    }
    if let Some(itm) = &heads.itm {
        let logits = itm.logits(backbone, &fused);
        let (labels, _) = io.integers("in.labels")?;
        let labels = Tensor::from_data(TensorData::new(labels, [rows]), &io.device);
        let loss = kernels::cross_entropy(logits.clone(), labels).mean();
        return Ok(Computed::new(model, loss, vec![named("logits", &logits)]));
    }
    let Some(itc) = &heads.itc else {
        return Err(TrainError::Check(
            "the checkpoint has no head, so there is nothing to compare".to_owned(),
        ));
    };
    let (text, image) = (itc.embed_texts(&texts), itc.embed_images(&images));
    let cross = itc
        .embed_pairs(backbone, &fused)
        .ok_or_else(|| TrainError::Check("the contrastive head lacks its third view".to_owned()))?;
    let labels = Tensor::arange(0..rows as i64, &io.device);
    let loss = |a: &Tensor<2>, b: &Tensor<2>| {
        let scores = a.clone().matmul(b.clone().transpose()) * itc.scale();
        kernels::cross_entropy(scores, labels.clone()).mean()
    };
    let sum = loss(&text, &image) + loss(&text, &cross) + loss(&image, &cross);
    let outputs = vec![
        named("text_embeds", &text),
        named("image_embeds", &image),
        named("cross_embeds", &cross),
    ];
    Ok(Computed::new(model, sum.div_scalar(3.0), outputs))
}

/// Pixels that fit the model.
fn pictures(backbone: &Backbone, io: &mut Reference, name: &str) -> Result<Tensor<4>, TrainError> {
    match &backbone.image {
        Some(encoder) => io.pixels(name, encoder),
        None => Err(TrainError::Check(
            "the model reads regions, and references are of pixels".to_owned(),
        )),
    }
}

/// Cross-entropy at the positions whose label is not negative.
fn masked_loss(logits: &Tensor<2>, io: &mut Reference) -> Result<Tensor<1>, TrainError> {
    let (labels, _) = io.integers("in.labels")?;
    let (at, labels): (Vec<i32>, Vec<i32>) = labels
        .iter()
        .enumerate()
        .filter(|(_, label)| **label >= 0)
        .map(|(i, label)| (i as i32, *label))
        .unzip();
    let n = at.len();
    let at = Tensor::from_data(TensorData::new(at, [n]), &io.device);
    let labels = Tensor::from_data(TensorData::new(labels, [n]), &io.device);
    Ok(kernels::cross_entropy(logits.clone().select(0, at), labels).mean())
}

/// The step of this project's PyTorch twin of METER and UNIMO-3: masked captions with their images, and clean captions with half of
/// the images rolled by one.
fn twin(model: &Model, io: &mut Reference) -> Result<Computed, TrainError> {
    let (Some(mlm), Some(itm)) = (&model.objectives.mlm, &model.objectives.itm) else {
        return Err(TrainError::Check("the twin lacks a head".to_owned()));
    };
    let backbone = &model.backbone;
    let images = backbone.encode_images(pictures(backbone, io, "in.pixels")?);
    let [rows, _] = images.class.dims();
    let mut encode = |name: &str| -> Result<_, TrainError> {
        let texts = words(&backbone.text, io, name, "in.keep")?;
        let input = backbone
            .text
            .input(&texts.ids, &texts.lengths, texts.length, &io.device);
        Ok(backbone.encode_texts(&input))
    };
    let masked = backbone.fuse(&encode("in.masked_ids")?, &images, Keep::Nothing);
    let clean = encode("in.ids")?;
    let half = rows / 2;
    let rolled: Vec<i32> = (0..half)
        .chain([rows - 1])
        .chain(half..rows - 1)
        .map(|i| i as i32)
        .collect();
    let rolled = Tensor::from_data(TensorData::new(rolled, [rows]), &io.device);
    let matched = backbone.fuse(&clean, &images.select(&rolled), Keep::Gates);

    let [_, length, width] = masked.text().dims();
    let words = &backbone.text.word_embedding;
    let mlm_logits = mlm.logits(words, masked.text().clone().reshape([rows * length, width]));
    let itm_logits = itm.logits(backbone, &matched);
    let mlm_loss = masked_loss(&mlm_logits, io)?;
    let truth: Vec<i32> = (0..rows).map(|i| i32::from(i < half)).collect();
    let truth = Tensor::from_data(TensorData::new(truth, [rows]), &io.device);
    let itm_loss = kernels::cross_entropy(itm_logits.clone(), truth).mean();
    let mut outputs = vec![
        named("text", matched.text()),
        named("image", matched.image()),
        named("mlm_logits", &mlm_logits),
        named("itm_logits", &itm_logits),
        named("loss_mlm", &mlm_loss),
        named("loss_itm", &itm_loss),
    ];
    for (layer, gates) in matched.gates.iter().enumerate() {
        outputs.push(named(format!("gate.text.{layer}"), &gates.text));
        outputs.push(named(format!("gate.image.{layer}"), &gates.image));
    }
    Ok(Computed::new(model, mlm_loss + itm_loss, outputs))
}
