//! What a recipe needs before its first step: tokenizer, concepts and device, and checks that they fit each other.

use std::sync::Arc;

use burn::tensor::Device;
use unimo_batch::ConfigError;
use unimo_data::{
    ConceptReader, Concepts, FurtherText, Joining, LoaderSpec, Offers, PatchMask, Readable,
    Rewrite as _, Source, Split, Switch, TextTokenizer, TokenizerConfig,
};
use unimo_objectives::request::{Request, What};

use crate::data::concepts::count;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::hub;
use crate::recipe::Recipe;
use crate::recipe::stages::Stage;
use crate::starting::own::OwnRun;

/// Most captions that a tokenizer is trained on; more would not change a vocabulary of a few thousand tokens.
const TOKENIZER_CAPTIONS: usize = 100_000;

/// The recipe's tokenizer: that of the run that it starts from, else the one that it names, or one trained on the captions.
pub fn tokenizer(recipe: &Recipe, source: &dyn Source) -> Result<TextTokenizer, TrainError> {
    if let Some(run) = OwnRun::of(recipe)? {
        let named = match &recipe.data.tokenizer {
            TokenizerConfig::Train { .. } => None,
            TokenizerConfig::File { .. } => Some(given_tokenizer(recipe, source)?),
        };
        return run.tokenizer(named.as_ref());
    }
    given_tokenizer(recipe, source)
}

fn given_tokenizer(recipe: &Recipe, source: &dyn Source) -> Result<TextTokenizer, TrainError> {
    Ok(match &recipe.data.tokenizer {
        // A model of images alone reads no text, but has a text encoder: its vocabulary is the bytes.
        TokenizerConfig::Train { vocab_size } if !source.has_captions() && !reads_texts(recipe) => {
            TextTokenizer::train(std::iter::once(String::new()), *vocab_size)?
        }
        TokenizerConfig::Train { vocab_size } => {
            let mut texts = Readable::new(source.texts(Split::Train).take(TOKENIZER_CAPTIONS));
            // A vocabulary of the captions as the model reads them.
            let switch = recipe.data.switch.as_ref().map(Switch::open).transpose()?;
            let read = (0..).zip(&mut texts).map(|(draw, text)| match &switch {
                Some(switch) => switch.rewrite(&text, draw),
                None => text,
            });
            let trained = TextTokenizer::train(read, *vocab_size);
            texts.whole(trained)??
        }
        TokenizerConfig::File { path, lowercase } => {
            let given = path.to_string_lossy();
            // A path that is not an id is left to the loader, whose message says what it looked for.
            let path = if hub::is_id(&given) {
                hub::resolve(&given)?
            } else {
                path.clone()
            };
            TextTokenizer::load(&path, *lowercase)?
        }
    })
}

/// Whether an objective of the recipe reads texts.
fn reads_texts(recipe: &Recipe) -> bool {
    let each = recipe.objectives.each().into_iter();
    each.flat_map(|(_, settings)| settings.requests())
        .any(|request| matches!(request.what, What::Text(_) | What::Words))
}

/// Checks that the data can have what the objectives read, as far as the source as a whole tells.
///
/// # Errors
///
/// An objective reads what no sample has, or no objective can learn from the batches of a part of a mixture.
pub fn check_data(recipe: &Recipe, source: &dyn Source) -> Result<(), TrainError> {
    let each = recipe.objectives.each();
    for (key, settings) in &each {
        if lacks(&settings.requests(), &source.offers()).contains(&TRANSLATIONS) {
            return Err(TrainError::Check(format!(
                "objectives.{key} reads {TRANSLATIONS}, of which the data has none: {}. Parallel texts with `languages` have them, lists with \
                 `language_columns`, and scenes with language = \"both\"",
                source.describe()
            )));
        }
    }
    for (at, part) in source.batch_parts().iter().enumerate() {
        let lacking = each.iter().map(|(key, settings)| {
            let lacks = lacks(&settings.requests(), &part.offers());
            (*key, lacks)
        });
        let lacking: Vec<_> = lacking.collect();
        if !lacking.is_empty() && lacking.iter().all(|(_, lacks)| !lacks.is_empty()) {
            let told = lacking
                .iter()
                .map(|(key, lacks)| format!("{key} ({})", lacks.join(" and ")));
            return Err(TrainError::Check(format!(
                "data.mixture.parts[{at}]: no objective can learn from its samples ({}); each lacks something: {}",
                part.describe(),
                told.collect::<Vec<_>>().join(", ")
            )));
        }
    }
    Ok(())
}

const TRANSLATIONS: &str = "translations";

/// What these requests need and a source has not.
fn lacks(requests: &[Request], offers: &Offers) -> Vec<&'static str> {
    let needed = || requests.iter().filter(|request| !request.optional);
    let image = needed().any(|request| matches!(request.what, What::Image(_)));
    let text = needed().any(|request| matches!(request.what, What::Text(_) | What::Words));
    let translation = needed().any(|request| match &request.what {
        What::Text(form) => form.needs_translation(),
        _ => false,
    });
    let all = [
        ("images", image && !offers.images),
        ("texts", text && !offers.captions),
        (TRANSLATIONS, translation && !offers.translations),
    ];
    let lacking = all.into_iter().filter(|(_, lacks)| *lacks);
    lacking.map(|(what, _)| what).collect()
}

/// The recipe's vocabulary of concepts, counted on the captions if the recipe says so; `None` if it has none.
pub fn count_concepts(
    recipe: &Recipe,
    source: &dyn Source,
    quiet: bool,
) -> Result<Option<Concepts>, TrainError> {
    let Some(config) = &recipe.data.concepts else {
        return Ok(None);
    };
    // The rows of the word embedding mean the phrases and tags of the run that gave it.
    if let Some(run) = OwnRun::of(recipe)? {
        let own = run.concepts()?;
        ConfigError::unless(
            own.is_some(),
            "data.concepts",
            "{}",
            format_args!(
                "must be absent: {}, whose weights `init` names, has no phrases and tags",
                run.path().display()
            ),
        )
        .map_err(TrainError::of_recipe)?;
        return Ok(own);
    }
    count(config, source, quiet).map(Some)
}

/// The reader that puts concepts into batches. Their ids must fit the word embedding.
pub fn concept_reader(
    recipe: &Recipe,
    concepts: Option<&Concepts>,
    tokenizer: &TextTokenizer,
) -> Result<Option<ConceptReader>, TrainError> {
    let (Some(config), Some(concepts)) = (&recipe.data.concepts, concepts) else {
        return Ok(None);
    };
    let reader = ConceptReader::new(config, concepts, tokenizer)?;
    check_concepts(recipe, &reader, tokenizer)?;
    Ok(Some(reader))
}

/// Checks that a model can read the concepts of a vocabulary and a tokenizer.
pub fn check_concepts(
    recipe: &Recipe,
    reader: &ConceptReader,
    tokenizer: &TextTokenizer,
) -> Result<(), TrainError> {
    let vocab_size = recipe.model.text.vocab_size;
    ConfigError::unless(
        recipe.objectives.mcr.is_none() || tokenizer.specials().mask.is_some(),
        "objectives.mcr",
        "{}",
        "needs a tokenizer with a mask token",
    )
    .and_then(|()| {
    ConfigError::unless(
        reader.rows() <= vocab_size,
        "model.text.vocab_size",
        vocab_size,
        format_args!(
            "must be at least {}: the tokenizer's {} and a row for each phrase that is no token; data.concepts.min_count and \
             .limit say how many phrases there are",
            reader.rows(),
            tokenizer.vocab_size()
        ),
    )
    })
    .map_err(TrainError::of_recipe)
}

/// Checks that the vocabulary fits the word embedding, and that both agree on padding.
pub fn check_tokenizer(recipe: &Recipe, tokenizer: &TextTokenizer) -> Result<(), TrainError> {
    let text = &recipe.model.text;
    let pad = tokenizer.specials().pad;
    ConfigError::unless(
        tokenizer.vocab_size() <= text.vocab_size,
        "model.text.vocab_size",
        text.vocab_size,
        format_args!(
            "must be at least the tokenizer's {}",
            tokenizer.vocab_size()
        ),
    )
    .and_then(|()| {
        ConfigError::unless(
            pad as usize == text.pad_id,
            "model.text.pad_id",
            text.pad_id,
            format_args!("must be the tokenizer's {pad}"),
        )
    })
    .map_err(TrainError::of_recipe)
}

/// Checks that the device supports the recipe's dtype.
pub(crate) fn check_dtype(
    recipe: &Recipe,
    device: &Device,
    choice: DeviceChoice,
) -> Result<(), TrainError> {
    let dtype = crate::model::float_dtype(recipe.train.dtype);
    if device.supports_dtype(dtype) {
        return Ok(());
    }
    Err(TrainError::Device {
        given: choice.to_string(),
        reason: format!(
            "does not compute in train.dtype = {dtype:?}; train with --set train.dtype=f32"
        ),
    })
}

/// The device with gradients, and with recomputation if the recipe asks for it.
pub fn training_device(recipe: &Recipe, device: &Device) -> Device {
    let device = device.clone().autodiff();
    if recipe.train.gradient_checkpointing {
        device.gradient_checkpointing()
    } else {
        device
    }
}

/// Words of the stage's training captions in other languages, as `data.switch` says. `say` is told what was left out of dictionaries.
///
/// # Errors
///
/// A dictionary cannot be read.
pub fn for_switch(
    spec: &mut LoaderSpec,
    stage: &Stage,
    say: &mut dyn FnMut(&str),
) -> Result<(), TrainError> {
    let Some(config) = &stage.data.switch else {
        return Ok(());
    };
    let switch = Switch::open(config)?;
    switch.notes().iter().for_each(|note| say(note));
    spec.rewrite = Some(Arc::new(switch));
    Ok(())
}

/// What the objectives of a stage need of a batch: hidden words, patches and concepts, a second view.
///
/// # Errors
///
/// Two of them want the same input in two ways.
pub fn for_objectives(
    spec: &mut LoaderSpec,
    recipe: &Recipe,
    stage: &Stage,
) -> Result<(), TrainError> {
    for_keys(spec, recipe, &|key| stage.trains(key))
}

/// As [`for_objectives`], for the objectives whose keys are `chosen`.
///
/// # Errors
///
/// Two of them want the same input in two ways.
pub fn for_keys(
    spec: &mut LoaderSpec,
    recipe: &Recipe,
    chosen: &dyn Fn(&str) -> bool,
) -> Result<(), TrainError> {
    let inputs = recipe.objectives.inputs(chosen);
    let inputs = inputs.map_err(|error| TrainError::of_recipe(error.within("objectives")))?;
    for name in &inputs.further {
        let known = FurtherText::ALL.iter().find(|text| text.name() == name);
        let Some(further) = known else {
            let names: Vec<&str> = FurtherText::ALL.iter().map(|text| text.name()).collect();
            return Err(TrainError::Recipe {
                file: "recipe".to_owned(),
                reason: format!(
                    "an objective reads the further text \"{name}\", which the loader cannot make; it makes {}",
                    names.join(", ")
                ),
            });
        };
        // Concepts bring the tags with them.
        if *further != FurtherText::Tags || spec.concepts.is_none() {
            spec.further.push(*further);
        }
    }
    spec.mask = inputs.mask;
    spec.joined = inputs.joined.map(|spec| Joining {
        spec,
        mask: inputs.joined_mask,
    });
    spec.sides = inputs.sides;
    spec.references = inputs.references;
    spec.concept_rate = inputs.concept_rate;
    spec.second_view = inputs.second_view;
    let image = recipe.model.image.as_ref();
    spec.patch_mask = inputs.patch_mask.zip(image).map(|(spec, image)| PatchMask {
        spec,
        patch_size: image.patch_size,
    });
    Ok(())
}
