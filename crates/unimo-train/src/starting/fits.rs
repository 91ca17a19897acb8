//! Whether a recipe fits the public weights that its `init` names: sizes, epsilons, activations and how pixels are normalised, as far as
//! the files beside the weights say them.
//!
//! The start of a training asks, and so does `unimo recipes check`. Weights are not read here.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use toml::Value;
use unimo_batch::ConfigError;
use unimo_data::processor;
use unimo_encoders::clip::ClipConfig;
use unimo_encoders::image::ImageEncoderConfig;
use unimo_encoders::public::{clip, folder_of};
use unimo_encoders::text::{TextEncoderConfig, TextTower};

use crate::error::TrainError;
use crate::hub;
use crate::pretrained::{self, NetworkConfig, Public};
use crate::recipe::Recipe;
use crate::recipe::init::{InitConfig, Whole};

/// A key of the recipe, its value, and the value of the file.
type Contradiction = (String, String, String);

/// The keys of a section in which recipe and file differ; both have the same names.
macro_rules! contradictions {
    ($section:literal, $ours:expr, $theirs:expr, $($key:ident),+ $(,)?) => {{
        let mut found: Vec<Contradiction> = Vec::new();
        $(
            if $ours.$key != $theirs.$key {
                found.push((
                    concat!($section, ".", stringify!($key)).to_owned(),
                    written(&$ours.$key),
                    written(&$theirs.$key),
                ));
            }
        )+
        found
    }};
}

/// A whole checkpoint of another project. Returns notes.
pub(super) fn whole(
    recipe: &Recipe,
    kind: Whole,
    given: &str,
    path: &Path,
) -> Result<Vec<String>, TrainError> {
    let mut notes = Vec::new();
    if kind == Whole::Clip {
        let public = pretrained::describe(path, None)?;
        let NetworkConfig::Clip(theirs) = &public.config else {
            return Err(wrong_kind("init.whole", given, &public, "a CLIP"));
        };
        let mut found = clip_contradictions(recipe, theirs);
        if let Some(ours) = &recipe.model.image {
            found.extend(image_contradictions(ours, &theirs.image));
            let (pixels, said) = pixel_contradictions(recipe, path, &public, &theirs.image)?;
            found.extend(pixels);
            notes.extend(said);
        }
        agree(&found, path)?;
        notes.extend(public.notes.iter().cloned());
    }
    let described = folder_of(path).join("config.json").is_file();
    if kind == Whole::BridgeTower && described {
        let public = pretrained::describe(path, None)?;
        if let NetworkConfig::Pair { model: theirs, .. } = &public.config {
            let mut found = text_contradictions(recipe, &theirs.text);
            if let (Some(ours), Some(theirs)) = (&recipe.model.image, &theirs.image) {
                found.extend(image_contradictions(ours, theirs));
                let (pixels, said) = pixel_contradictions(recipe, path, &public, theirs)?;
                found.extend(pixels);
                notes.extend(said);
            }
            if let (Some(ours), Some(theirs)) = (&recipe.model.fusion, &theirs.fusion) {
                found.extend(contradictions!(
                    "model.fusion",
                    ours,
                    theirs,
                    heads,
                    feed_forward,
                    activation,
                    layer_norm_eps,
                ));
            }
            agree(&found, path)?;
        }
    } else if kind != Whole::Clip {
        notes.push(format!(
            "{} says nothing of epsilons, activations and how images are normalised: those of the recipe are taken",
            path.display()
        ));
    }
    Ok(notes)
}

/// The public text encoder that `init.text` names.
pub(super) fn text(
    recipe: &Recipe,
    given: &str,
    path: &Path,
) -> Result<(Public, TextEncoderConfig), TrainError> {
    let (public, theirs) = text_encoder("init.text", given, path)?;
    if let Some(outside) = &recipe.model.text.outside {
        let key = outside.key();
        return Err(TrainError::of_recipe(ConfigError {
            key: "init.text".to_owned(),
            value: format!("\"{given}\""),
            allowed: format!(
                "must be absent with [model.text.{key}]: its weights are of other blocks"
            ),
        }));
    }
    agree(&text_contradictions(recipe, &theirs), path)?;
    Ok((public, theirs))
}

/// The description of a public text encoder.
fn text_encoder(
    key: &str,
    given: &str,
    path: &Path,
) -> Result<(Public, TextEncoderConfig), TrainError> {
    let public = pretrained::describe(path, None)?;
    match &public.config {
        NetworkConfig::Text(theirs) => {
            let theirs = theirs.clone();
            Ok((public, theirs))
        }
        _ => Err(wrong_kind(key, given, &public, "a text encoder")),
    }
}

/// The public image encoder that `init.image` names, with notes.
pub(super) fn image(
    recipe: &Recipe,
    given: &str,
    path: &Path,
) -> Result<(Public, ImageEncoderConfig, Vec<String>), TrainError> {
    let mut public = pretrained::describe(path, None)?;
    if let NetworkConfig::Clip(clip) = &public.config {
        public.config = NetworkConfig::Image(clip.image.clone());
        public.spellings = clip::image_spellings();
    }
    let NetworkConfig::Image(theirs) = &public.config else {
        return Err(wrong_kind("init.image", given, &public, "an image encoder"));
    };
    let Some(ours) = &recipe.model.image else {
        return Err(no_image_encoder(given));
    };
    agree(&image_contradictions(ours, theirs), path)?;
    let (pixels, said) = pixel_contradictions(recipe, path, &public, theirs)?;
    agree(&pixels, path)?;
    let mut notes = public.notes.clone();
    notes.extend(said);
    let theirs = theirs.clone();
    Ok((public, theirs, notes))
}

/// The error for an image encoder's weights without such an encoder.
pub(super) fn no_image_encoder(given: &str) -> TrainError {
    TrainError::of_recipe(ConfigError {
        key: "init.image".to_owned(),
        value: format!("\"{given}\""),
        allowed: "must be absent without [model.image]: its weights are of such an encoder"
            .to_owned(),
    })
}

/// The public text encoder whose blocks `init.joint` names for one stream.
pub(super) fn joint(
    recipe: &Recipe,
    given: &str,
    path: &Path,
) -> Result<(Public, TextEncoderConfig), TrainError> {
    let (public, theirs) = text_encoder("init.joint", given, path)?;
    let Some(ours) = &recipe.model.joint else {
        return Err(no_stream(given));
    };
    let mut found: Vec<Contradiction> = contradictions!(
        "model.joint",
        ours,
        theirs,
        width,
        heads,
        feed_forward,
        activation,
        layer_norm_eps,
    );
    found.extend(too_deep("model.joint.layers", ours.layers, theirs.layers));
    agree(&found, path)?;
    Ok((public, theirs))
}

/// The error for a stream's weights without a stream.
pub(super) fn no_stream(given: &str) -> TrainError {
    TrainError::of_recipe(ConfigError {
        key: "init.joint".to_owned(),
        value: format!("\"{given}\""),
        allowed: "must be absent without [model.joint]: its weights are of such a stream"
            .to_owned(),
    })
}

/// In what a recipe contradicts the weights that its `init` names, of those that are on this machine. Nothing is fetched.
pub(crate) fn wrong(recipe: &Recipe, init: &InitConfig) -> Vec<TrainError> {
    let mut found = Vec::new();
    if let Some(given) = &init.whole
        && let Ok((kind, named)) = Whole::parse(given)
        && kind != Whole::Unimo
        && let Some(path) = hub::here(named)
    {
        found.extend(whole(recipe, kind, given, &path).err());
    }
    if let Some(given) = &init.text
        && let Some(path) = hub::here(given)
    {
        found.extend(text(recipe, given, &path).err());
    }
    if let Some(given) = &init.image
        && let Some(path) = hub::here(given)
    {
        found.extend(image(recipe, given, &path).err());
    }
    if let Some(given) = &init.joint
        && let Some(path) = hub::here(given)
    {
        found.extend(joint(recipe, given, &path).err());
    }
    found
}

fn wrong_kind(key: &str, given: &str, public: &Public, needed: &str) -> TrainError {
    TrainError::of_recipe(ConfigError {
        key: key.to_owned(),
        value: format!("\"{given}\""),
        allowed: format!("must be {needed}, and it is {}", public.kind),
    })
}

/// A value as a recipe has it.
fn written(value: &(impl Serialize + fmt::Debug)) -> String {
    match Value::try_from(value) {
        Ok(Value::Float(_)) => format!("{value:?}"),
        Ok(value) => value.to_string(),
        Err(_) => "none".to_owned(),
    }
}

/// An encoder may leave out the file's last blocks, but cannot have more blocks than the file.
fn too_deep(key: &str, ours: usize, theirs: usize) -> Option<Contradiction> {
    (ours > theirs).then(|| (key.to_owned(), ours.to_string(), theirs.to_string()))
}

fn text_contradictions(recipe: &Recipe, theirs: &TextEncoderConfig) -> Vec<Contradiction> {
    let ours = &recipe.model.text;
    let mut found = contradictions!(
        "model.text",
        ours,
        theirs,
        width,
        heads,
        feed_forward,
        max_positions,
        positions,
        token_types,
        pad_id,
        activation,
        layer_norm_eps,
    );
    found.extend(too_deep("model.text.layers", ours.layers, theirs.layers));
    // With concepts there may be more rows than words.
    let fits = match recipe.data.concepts {
        Some(_) => ours.vocab_size >= theirs.vocab_size,
        None => ours.vocab_size == theirs.vocab_size,
    };
    if !fits {
        let (ours, theirs) = (ours.vocab_size.to_string(), theirs.vocab_size.to_string());
        found.insert(0, ("model.text.vocab_size".to_owned(), ours, theirs));
    }
    found
}

/// CLIP's text tower and the width of its common space.
fn clip_contradictions(recipe: &Recipe, theirs: &ClipConfig) -> Vec<Contradiction> {
    let ours = &recipe.model.text;
    let mut found = contradictions!(
        "model.text",
        ours,
        theirs.text,
        vocab_size,
        width,
        layers,
        heads,
        feed_forward,
        max_positions,
        activation,
        layer_norm_eps,
    );
    if ours.tower != TextTower::Clip {
        found.push((
            "model.text.tower".to_owned(),
            "bert".to_owned(),
            "clip".to_owned(),
        ));
    }
    let prompts = recipe.objectives.prompts.as_ref();
    let contrast = recipe.objectives.itc.as_ref();
    let widths = [
        ("prompts", prompts.map(|prompts| prompts.width)),
        ("itc", contrast.map(|itc| itc.width)),
    ];
    for (key, width) in widths {
        if let Some(width) = width.filter(|width| *width != theirs.width) {
            let (key, theirs) = (format!("objectives.{key}.width"), theirs.width.to_string());
            found.push((key, width.to_string(), theirs));
        }
    }
    found
}

/// The size of the images may differ, since positions are interpolated.
fn image_contradictions(
    ours: &ImageEncoderConfig,
    theirs: &ImageEncoderConfig,
) -> Vec<Contradiction> {
    let mut found = contradictions!(
        "model.image",
        ours,
        theirs,
        patch_size,
        width,
        heads,
        feed_forward,
        activation,
        layer_norm_eps,
        pre_norm,
        stem,
        patch_bias,
        distillation_token,
        qkv_bias,
    );
    found.extend(too_deep("model.image.layers", ours.layers, theirs.layers));
    found
}

/// Mean and deviation of pixels, and notes about them. How an image becomes square is up to the recipe.
fn pixel_contradictions(
    recipe: &Recipe,
    path: &Path,
    public: &Public,
    theirs: &ImageEncoderConfig,
) -> Result<(Vec<Contradiction>, Vec<String>), TrainError> {
    let folder = folder_of(path);
    let prepared = processor::find(&folder, public.family, theirs.image_size)?;
    if prepared.file.is_none() {
        let note = format!(
            "no file beside {} says how images are normalised: data.mean and data.std of the recipe are taken",
            path.display()
        );
        return Ok((Vec::new(), vec![note]));
    }
    let theirs = &prepared.pictures.spec;
    let found = contradictions!("data", recipe.data, theirs, mean, std);
    Ok((found, prepared.notes))
}

pub(super) fn agree(contradictions: &[Contradiction], file: &Path) -> Result<(), TrainError> {
    if contradictions.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = contradictions
        .iter()
        .map(|(key, ours, theirs)| format!("`{key} = {ours}`, the weights have {theirs}"))
        .collect();
    Err(TrainError::Recipe {
        file: "recipe".to_owned(),
        reason: format!(
            "contradicts {}, which `init` names: {}. What a recipe leaves out is taken from there; \"none\" removes what it has from another \
             one, as in model.text = \"none\"",
            file.display(),
            lines.join("; ")
        ),
    })
}
