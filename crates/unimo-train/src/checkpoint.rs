//! Checkpoints: one safetensors file each, complete or absent.
//!
//! A file holds `model.*`, `optimizer.*` and, with a moving average, `ema.*`. Its metadata has the step and what the run began with
//! ([`crate::fingerprint`]). Everything else that a run needs (schedule, random numbers, position in the data) follows from the
//! step and the recipe's seed. Each tensor has a checksum, so that damage is noticed. It is written under another name, synced and renamed, so that a full disk or a killed process leaves
//! the previous checkpoints intact. Equal states give equal files.

//!
//! What never learns can be kept apart (`train.frozen_apart`): once for a run, in `frozen-DIGEST.safetensors` beside the checkpoints, which
//! then hold what learns alone and name the digest. It is of the names, shapes and checksums of all its tensors, so that a frozen part that has
//! changed is noticed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use safetensors::Dtype;
use safetensors::tensor::View;
use unimo_core::parameters::{self, Handle};
use unimo_encoders::weights::{self, SafetensorsFile, TensorInfo, WeightsError};

use unimo_data::digest::{Digest, hex};

use crate::error::TrainError;
use crate::files;
use crate::fingerprint::{self, Fingerprint};
use crate::loss_scale::LossScale;
use crate::optimizer::Optimizer;

/// Written into every file, so that later versions recognise the format.
const FORMAT: &str = "unimo-checkpoint-1";

/// The metadata's entry of a loss scale.
const SCALE: &str = "loss_scale";

/// The state that is saved and loaded together.
pub struct State<M> {
    /// Encoders, heads and queues.
    pub model: M,
    /// The optimiser with its moments.
    pub optimizer: Optimizer,
    /// Moving average of the model.
    pub ema: Option<M>,
    /// How losses are scaled, if they are.
    pub scale: Option<LossScale>,
    /// Optimiser steps done.
    pub step: u64,
}

/// A tensor that is fetched from its device only when it is written.
struct Lazy(Handle);

impl View for &Lazy {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.0.fetch().into_bytes().to_vec())
    }
    fn data_len(&self) -> usize {
        self.0.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

/// The path of a step's checkpoint.
pub fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step:08}.safetensors"))
}

/// The steps with a checkpoint, in order.
pub fn steps(folder: &Path) -> Result<Vec<u64>, TrainError> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder).map_err(TrainError::file("list", folder))? {
        let name = entry.map_err(TrainError::file("list", folder))?.file_name();
        found.extend(step_of(Path::new(&name)));
    }
    found.sort_unstable();
    Ok(found)
}

/// The step in a checkpoint's file name.
pub fn step_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let step = name.strip_prefix("step-")?.strip_suffix(".safetensors")?;
    step.parse().ok()
}

/// The note of a checkpoint with the digest of what is kept apart.
const FROZEN: &str = "frozen";

/// The file of what is kept apart.
fn frozen_path(folder: &Path, digest: &str) -> PathBuf {
    folder.join(format!("frozen-{digest}.safetensors"))
}

/// A digest of tensors, from their names, shapes and checksums.
fn digest_of<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize], u32)>) -> String {
    /// Digits of a digest that name a file.
    const NAMED: usize = 16;
    let all: BTreeMap<&str, (&[usize], u32)> = tensors
        .map(|(name, shape, sum)| (name, (shape, sum)))
        .collect();
    let mut digest = Digest::default();
    for (name, (shape, sum)) in all {
        digest.add_sized(format!("{name} {shape:?} {sum}").as_bytes());
    }
    hex(&digest.finish())[..NAMED].to_owned()
}

/// The file with what is kept apart of a checkpoint; `None` if it holds everything.
///
/// # Errors
///
/// The checkpoint cannot be read, or the file is gone or has changed.
pub fn frozen_beside(path: &Path) -> Result<Option<PathBuf>, TrainError> {
    let reader = Reader::open(path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(reader
        .note(FROZEN)
        .map(|digest| frozen_path(folder, digest)))
}

/// Writes a checkpoint. On return it is on the disk; on failure nothing has changed. `begun` is what the run began with.
pub fn save<M: Module>(
    folder: &Path,
    state: &State<M>,
    begun: &Fingerprint,
) -> Result<PathBuf, TrainError> {
    save_apart(folder, state, begun, &|_| false)
}

/// As [`save`], where those parameters of the model that `apart` names are written once into a file of their own.
pub fn save_apart<M: Module>(
    folder: &Path,
    state: &State<M>,
    begun: &Fingerprint,
    apart: &dyn Fn(&str) -> bool,
) -> Result<PathBuf, TrainError> {
    let part = |prefix: &str, handles: Vec<Handle>| {
        let prefix = prefix.to_owned();
        handles.into_iter().map(move |mut handle| {
            handle.name = format!("{prefix}.{}", handle.name);
            (handle.name.clone(), Lazy(handle))
        })
    };
    let mut tensors: Vec<(String, Lazy)> = Vec::new();
    let all = parameters::handles(&state.model).into_iter();
    let (frozen, own): (Vec<Handle>, Vec<Handle>) = all.partition(|handle| apart(&handle.name));
    let frozen: Vec<(String, Lazy)> = part("model", frozen).collect();
    tensors.extend(part("model", own));
    tensors.extend(part("optimizer", state.optimizer.handles()));
    if let Some(ema) = &state.ema {
        tensors.extend(part("ema", parameters::handles(ema)));
    }
    let mut metadata = BTreeMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("step".to_owned(), state.step.to_string()),
        (fingerprint::NAME.to_owned(), begun.note()),
    ]);
    if let Some(scale) = &state.scale {
        metadata.insert(SCALE.to_owned(), scale.note());
    }
    if !frozen.is_empty() {
        let summed = frozen.iter().map(|(name, lazy)| {
            let view: &Lazy = lazy;
            let sum = crc32c::crc32c(&(&view).data());
            (name.as_str(), lazy.0.shape.as_slice(), sum)
        });
        let digest = digest_of(summed);
        let beside = frozen_path(folder, &digest);
        if !beside.is_file() {
            let notes = BTreeMap::from([("format".to_owned(), FORMAT.to_owned())]);
            files::write_with(&beside, |out| {
                let tensors = frozen.iter().map(|(name, lazy)| (name, lazy));
                weights::write_checked_safetensors(out, tensors.collect(), &notes)
            })?;
        }
        metadata.insert(FROZEN.to_owned(), digest);
    }
    let target = path(folder, state.step);
    files::write_with(&target, |out| {
        let tensors = tensors.iter().map(|(name, lazy)| (name, lazy));
        weights::write_checked_safetensors(out, tensors.collect(), &metadata)
    })?;
    Ok(target)
}

/// What the run of a checkpoint began with; `None` if an earlier version wrote the checkpoint.
///
/// # Errors
///
/// The file cannot be read.
pub fn begun(path: &Path) -> Result<Option<Fingerprint>, TrainError> {
    let reader = Reader::open(path)?;
    Ok(Fingerprint::of_note(reader.note(fingerprint::NAME)))
}

/// Whether this is an error of a file that was read and is not what was written.
fn is_damage(error: &TrainError) -> bool {
    matches!(error, TrainError::Weights(error) if !matches!(error, WeightsError::File { .. }))
}

/// The error of a newest checkpoint that is damaged, with the older one that the run can go on from. Other errors stay as they are.
pub(crate) fn or_older(folder: &Path, step: u64, error: TrainError) -> TrainError {
    if !is_damage(&error) {
        return error;
    }
    let newest = path(folder, step);
    let mut older = others(folder, step).into_iter().rev();
    let way = match older.find(|older| *older < step) {
        Some(older) => format!(
            "The one of step {older} is there, too: move {} away, and --resume goes on from step {older}",
            newest.display()
        ),
        None => format!(
            "There is no older one: move {} away, and --resume begins again with step 1",
            newest.display()
        ),
    };
    TrainError::Checkpoint {
        reason: format!("is the newest of its run and is damaged: {error}. {way}"),
        path: newest,
    }
}

/// The error of a checkpoint that is damaged, with the others that may be read in its place. Other errors stay as they are.
pub(crate) fn or_others(folder: &Path, step: u64, error: TrainError) -> TrainError {
    if !is_damage(&error) {
        return error;
    }
    let others: Vec<String> = others(folder, step).iter().map(u64::to_string).collect();
    let way = if others.is_empty() {
        "The run has no other".to_owned()
    } else {
        format!(
            "The run has others, which --step names: {}",
            others.join(", ")
        )
    };
    TrainError::Checkpoint {
        path: path(folder, step),
        reason: format!("is damaged: {error}. {way}"),
    }
}

/// The other steps whose checkpoints have a whole header and length.
fn others(folder: &Path, step: u64) -> Vec<u64> {
    let all = steps(folder).unwrap_or_default().into_iter();
    all.filter(|other| *other != step && Reader::open(&path(folder, *other)).is_ok())
        .collect()
}

/// A checkpoint opened for reading, one tensor at a time.
pub struct Reader {
    path: PathBuf,
    file: SafetensorsFile,
    /// What is kept apart.
    frozen: Option<SafetensorsFile>,
}

impl Reader {
    /// Reads and checks the header, and that of what is kept apart.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or what is kept apart is not what the checkpoint was written with.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let file = SafetensorsFile::open(path)?;
        let frozen = match file.note(FROZEN) {
            Some(digest) => Some(Self::open_frozen(path, digest)?),
            None => None,
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            frozen,
        })
    }

    fn open_frozen(path: &Path, digest: &str) -> Result<SafetensorsFile, TrainError> {
        let beside = frozen_path(path.parent().unwrap_or(Path::new(".")), digest);
        let wrong = |reason: String| TrainError::Checkpoint {
            path: path.to_owned(),
            reason,
        };
        if !beside.is_file() {
            return Err(wrong(format!(
                "holds what learns alone; what is frozen is in {}, which is not there",
                beside.display()
            )));
        }
        let frozen = SafetensorsFile::open(&beside)?;
        let infos = frozen.infos();
        let sums = frozen.checksums();
        let known = infos.iter().filter_map(|(name, info)| {
            Some((name.as_str(), info.shape.as_slice(), *sums.get(name)?))
        });
        let found = digest_of(known);
        if found != digest {
            return Err(wrong(format!(
                "was written with frozen parameters of digest {digest}; those in {} have changed, theirs is {found}",
                beside.display()
            )));
        }
        Ok(frozen)
    }

    /// The value of a metadata entry.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.file.note(key)
    }

    /// How many tensors have a name that starts with this section.
    pub fn count(&self, section: &str) -> usize {
        let of = |(name, _): &(String, TensorInfo)| name.split('.').next() == Some(section);
        let files = std::iter::once(&self.file).chain(&self.frozen);
        let infos = files.flat_map(SafetensorsFile::infos);
        infos.filter(|info| of(info)).count()
    }

    /// A tensor, if the file has it; an error if its shape or type differs.
    pub fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
    ) -> Result<Option<TensorData>, TrainError> {
        let mut files = std::iter::once(&mut self.file).chain(&mut self.frozen);
        let found = files.find_map(|file| {
            let info = file.info(name)?;
            Some((file, info))
        });
        let Some((file, info)) = found else {
            return Ok(None);
        };
        if info.dtype != weights::Dtype::F32 || info.shape != shape {
            return Err(TrainError::Checkpoint {
                path: self.path.clone(),
                reason: format!(
                    "`{name}` is {} {:?}; the recipe's model has f32 {shape:?}",
                    info.dtype, info.shape
                ),
            });
        }
        let values = file.values(name)?;
        Ok(Some(TensorData::new(values, shape.to_vec())))
    }

    /// The reason why a parameter is missing.
    fn lacks(&self, section: &str, name: &str) -> String {
        let before = format!("{section}.objectives.itc.momentum.text.");
        let infos = self.file.infos();
        if infos.iter().any(|(there, _)| there.starts_with(&before)) {
            return "was written when the momentum encoder was a part of [objectives.itc]; now it is the [teacher], which keeps the \
                    cross-modal encoder too: the version that wrote it goes on with it"
                .to_owned();
        }
        format!("lacks `{name}`, which the recipe's model has")
    }

    /// A module's parameters from one section, which must hold all of them and nothing else.
    pub fn module<M: Module>(&mut self, section: &str, module: M) -> Result<M, TrainError> {
        let mut failed = None;
        let mut used = 0;
        let module = parameters::replace(module, |name, shape| {
            if failed.is_some() {
                return None;
            }
            let full = format!("{section}.{name}");
            match self.tensor(&full, shape) {
                Ok(Some(data)) => {
                    used += 1;
                    Some(data)
                }
                Ok(None) => {
                    failed = Some(TrainError::Checkpoint {
                        path: self.path.clone(),
                        reason: self.lacks(section, &full),
                    });
                    None
                }
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }
        });
        let there = self.count(section);
        match failed {
            Some(error) => Err(error),
            None if there != used => Err(TrainError::Checkpoint {
                path: self.path.clone(),
                reason: format!(
                    "holds {there} tensors under `{section}`, the recipe's model {used}"
                ),
            }),
            None => Ok(module),
        }
    }
}

/// Loads a whole state; `state` gives the shapes.
pub fn load<M: Module>(
    path: &Path,
    state: State<M>,
    device: &Device,
) -> Result<State<M>, TrainError> {
    let mut reader = Reader::open(path)?;
    let wrong = |reason: String| TrainError::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    if reader.note("format") != Some(FORMAT) {
        return Err(wrong(format!("is no {FORMAT} file")));
    }
    let step = reader.note("step").and_then(|s| s.parse().ok());
    let step = step.ok_or_else(|| wrong("does not say its step".to_owned()))?;
    // A run that went on in f16 after other steps begins with the first scale.
    let scale = match (state.scale, reader.note(SCALE)) {
        (Some(scale), Some(note)) => Some(
            scale
                .of_note(note)
                .ok_or_else(|| wrong(format!("has the {SCALE} \"{note}\", which is none")))?,
        ),
        (scale, _) => scale,
    };
    let model = reader.module("model", state.model)?;
    let ema = match state.ema {
        Some(ema) => Some(reader.module("ema", ema)?),
        None => None,
    };
    let mut optimizer = state.optimizer;
    optimizer.load(&model, device, |name, shape| {
        reader.tensor(&format!("optimizer.{name}"), shape)
    })?;
    Ok(State {
        model,
        optimizer,
        ema,
        scale,
        step,
    })
}

/// Removes files that earlier versions left half-written. Only the holder of the run's lock may call it.
pub fn sweep_older(folder: &Path) -> Result<(), TrainError> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(TrainError::file("list", folder))? {
        let entry = entry.map_err(TrainError::file("list", folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let half = name.starts_with("step-") && name.ends_with(".safetensors.part");
        if half || name.starts_with(".tmp") {
            let path = entry.path();
            fs::remove_file(&path).map_err(TrainError::file("remove", &path))?;
        }
    }
    Ok(())
}

/// Removes old checkpoints, except the newest `keep` and `best`.
pub fn prune(folder: &Path, keep: usize, best: Option<u64>) -> Result<(), TrainError> {
    let all = steps(folder)?;
    let old = all.len().saturating_sub(keep);
    for &step in all[..old].iter().filter(|s| Some(**s) != best) {
        let path = path(folder, step);
        fs::remove_file(&path).map_err(TrainError::file("remove", &path))?;
    }
    Ok(())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use unimo_core::init::Init;
    use unimo_core::layers::Linear;

    use super::*;
    use crate::loss_scale::LossScaleConfig;
    use crate::model::Model;
    use crate::recipe::{BUILT_IN, Overrides, Recipe};

    fn state(seed: u64, width: usize, step: u64) -> State<Linear> {
        let recipe = Recipe::load(BUILT_IN[0].name, &Overrides::default()).unwrap();
        let device = Device::flex().autodiff();
        State {
            model: Linear::new(&mut Init::new(&device, seed), 3, width, true),
            optimizer: Optimizer::new(&recipe.train.optimizer, &recipe.model),
            ema: None,
            scale: None,
            step,
        }
    }

    #[test]
    fn what_is_saved_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let first = LossScale::new(&LossScaleConfig::default());
        let saved = State {
            scale: first.after(true),
            ..state(1, 2, 7)
        };
        let path = save(folder.path(), &saved, &Fingerprint::default()).unwrap();
        let fresh = State {
            scale: Some(first),
            ..state(2, 2, 0)
        };
        let loaded = load(&path, fresh, &Device::flex()).unwrap();
        assert_eq!((loaded.step, loaded.scale), (7, saved.scale));
        assert_eq!(
            parameters::values(&loaded.model),
            parameters::values(&saved.model)
        );
        assert!(parameters::list(&loaded.model).iter().all(|p| p.trainable));
    }

    /// A missing tensor is named. A checkpoint from when the momentum encoder was part of the contrast is recognised.
    #[test]
    fn a_checkpoint_that_lacks_a_tensor_says_which() {
        let overrides = Overrides {
            data: None,
            set: vec![
                "objectives.itc.momentum={ queue = 64, alpha = 0.4 }".to_owned(),
                "teacher={ decay = 0.9 }".to_owned(),
            ],
        };
        let recipe = Recipe::load("unimo3-tiny", &overrides).unwrap();
        let device = Device::flex().autodiff();
        let saved = State {
            model: Model::new(&recipe, &device),
            optimizer: Optimizer::new(&recipe.train.optimizer, &recipe.model),
            ema: None,
            scale: None,
            step: 7,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = save(folder.path(), &saved, &Fingerprint::default()).unwrap();
        let bytes = fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = metadata.metadata().clone();
        let error = |name: &dyn Fn(&str) -> Option<String>| {
            let all = tensors.tensors().into_iter();
            // Checksums are for the tensors as they were written.
            let kept: Vec<_> = all
                .filter(|(old, _)| old != "unimo.checksums")
                .filter_map(|(old, tensor)| Some((name(&old)?, tensor)))
                .collect();
            let changed = safetensors::serialize(kept, metadata.clone()).unwrap();
            fs::write(&path, changed).unwrap();
            let blank = State {
                model: Model::blank(&recipe, &device),
                optimizer: Optimizer::new(&recipe.train.optimizer, &recipe.model),
                ema: None,
                scale: None,
                step: 0,
            };
            load(&path, blank, &Device::flex())
                .err()
                .unwrap()
                .to_string()
        };
        let queue = "model.objectives.itc.momentum.queue.cursor";
        let lacks = error(&|name| (name != queue).then(|| name.to_owned()));
        assert!(lacks.contains(queue), "{lacks}");
        // A teacher of another shape: the tensor, what it has and what is needed.
        let other = |name: &str| match name {
            "model.teacher.backbone.text.word_embedding.weight" => {
                Some("model.teacher.backbone.text.position_embedding.weight".to_owned())
            }
            "model.teacher.backbone.text.position_embedding.weight" => {
                Some("model.teacher.backbone.text.word_embedding.weight".to_owned())
            }
            name => Some(name.to_owned()),
        };
        let shaped = error(&other);
        assert!(shaped.contains("model.teacher.backbone.text"), "{shaped}");
        assert!(shaped.contains("512") && shaped.contains("64"), "{shaped}");
        let older = error(&|name| {
            Some(name.replace("model.teacher.backbone", "model.objectives.itc.momentum"))
        });
        assert!(older.contains("[teacher]"), "{older}");
    }

    #[test]
    fn another_shape_and_damaged_files_are_errors_that_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = save(folder.path(), &state(1, 2, 7), &Fingerprint::default()).unwrap();
        let error = |path: &Path, width| {
            load(path, state(2, width, 0), &Device::flex())
                .err()
                .unwrap()
                .to_string()
        };
        assert!(error(&path, 5).contains("`model.weight`"));
        let bytes = fs::read(&path).unwrap();
        for (name, damaged) in [
            ("empty", Vec::new()),
            ("short", bytes[..bytes.len() - 3].to_vec()),
            ("header", bytes[..20].to_vec()),
            ("huge", [&[0xff; 7][..], &[0x7f], &bytes[8..]].concat()),
            ("noise", bytes.iter().map(|b| b ^ 0x5a).collect()),
            ("a flipped bit", {
                let mut flipped = bytes.clone();
                // Among the numbers: the checksums of the two tensors are the last eight bytes.
                let at = bytes.len() - 12;
                flipped[at] ^= 1;
                flipped
            }),
        ] {
            let damaged_path = folder.path().join(name);
            fs::write(&damaged_path, damaged).unwrap();
            assert!(error(&damaged_path, 2).contains(name), "{name}");
        }
    }

    #[test]
    fn equal_states_are_equal_files_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = save(folder.path(), &state(1, 2, 7), &Fingerprint::default()).unwrap();
        let before = fs::read(&path).unwrap();
        save(folder.path(), &state(1, 2, 7), &Fingerprint::default()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn pruning_keeps_the_newest_and_the_best() {
        let folder = tempfile::tempdir().unwrap();
        for step in [10, 20, 30, 40] {
            save(folder.path(), &state(1, 2, step), &Fingerprint::default()).unwrap();
        }
        prune(folder.path(), 2, Some(10)).unwrap();
        assert_eq!(steps(folder.path()).unwrap(), [10, 30, 40]);
    }
}
