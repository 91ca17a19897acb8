//! What a recipe needs before its first step: tokenizer, concepts and device, and checks that they fit each other.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use unimo_batch::{ConfigError, RegionLabels};
use unimo_data::walks::FEATURES;
use unimo_data::{
    Codebook, CodesConfig, ConceptReader, Concepts, FurtherText, HideRegions, Joining, LoaderSpec,
    Offers, PatchCodes, PatchMask, Readable, Rewrite as _, Source, SourceKind, Split, Switch,
    TextTokenizer, TokenizerConfig,
};
use unimo_objectives::Settings;
use unimo_objectives::request::{Request, TextForm, What};

use crate::data::codes::make;
use crate::data::concepts::count;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::hub;
use crate::recipe::Recipe;
use crate::recipe::stages::Stage;
use crate::run::CODEBOOK;
use crate::starting::own::OwnRun;

/// Most captions that a tokenizer is trained on; more would not change a vocabulary of a few thousand tokens.
const TOKENIZER_CAPTIONS: usize = 100_000;

/// How many captions are looked at for what is worth saying before a training.
pub(crate) const CAPTIONS_LOOKED_AT: usize = 1000;

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
        TokenizerConfig::Train { vocab_size }
            if !source.has_captions() && !recipe.reads_texts() =>
        {
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
                 `language_columns` and translations = true or `alignment_columns`, and scenes with language = \"both\"",
                source.describe()
            )));
        }
    }
    let reader = each
        .iter()
        .find(|(_, settings)| reads_translations(&settings.requests()));
    if let Some((key, _)) = reader
        && !has_a_translation(source)
    {
        return Err(TrainError::Check(format!(
            "objectives.{key} reads {TRANSLATIONS}, and no training sample of the data has two texts that are translations of each other: {}",
            source.describe()
        )));
    }
    check_regions(recipe, source)?;
    check_stories(recipe, source)?;
    check_walks(recipe, source)?;
    check_alignments(recipe, source)?;
    if recipe.model.reads_concepts() && named(source, source.len(Split::Train)).is_none() {
        return Err(TrainError::Check(format!(
            "model.joint.concepts reads the names of objects, and no training sample of the data has one: {}. Scenes have them, COCO with its \
             instances, and Visual Genome with its objects",
            source.describe()
        )));
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

/// How many of the first `CAPTIONS_LOOKED_AT` images have no name of an object, where one stream reads names; `None` if all have some.
pub(crate) fn without_names(recipe: &Recipe, source: &dyn Source) -> Option<String> {
    let looked_at = source.len(Split::Train).min(CAPTIONS_LOOKED_AT);
    let named = |at: &usize| has_names(source, *at);
    let without = looked_at - (0..looked_at).filter(named).count();
    (recipe.model.reads_concepts() && without > 0).then(|| {
        format!(
            "model.joint.concepts: {without} of the first {looked_at} training samples have no name of an object; their list of concepts is empty"
        )
    })
}

/// The first of some training samples that has a name of an object.
fn named(source: &dyn Source, samples: usize) -> Option<usize> {
    (0..samples).find(|at| has_names(source, *at))
}

/// Samples that cannot be read are no reason to stop: training reports them.
fn has_names(source: &dyn Source, at: usize) -> bool {
    let tags = source.tags(Split::Train, at);
    tags.is_ok_and(|tags| !tags.is_empty())
}

/// Whether any training sample has a text in two languages. Samples that cannot be read are no reason to stop: training reports them.
fn has_a_translation(source: &dyn Source) -> bool {
    let known = |at: usize| source.annotations(Split::Train, at).ok();
    let mut all = (0..source.len(Split::Train)).filter_map(known);
    all.any(|of| {
        (0..of.languages.meanings.len()).any(|text| !of.languages.translations(text).is_empty())
    })
}

/// Checks that the model has room for the slices of a story, and that nothing is asked of stories that is not done to them.
fn check_stories(recipe: &Recipe, source: &dyn Source) -> Result<(), TrainError> {
    let reads = |(_, settings): &(&'static str, &dyn Settings)| {
        let mut requests = settings.requests().into_iter();
        requests.any(|request| matches!(request.what, What::Slices(_)))
    };
    let Some((key, _)) = recipe.objectives.each().into_iter().find(reads) else {
        return Ok(());
    };
    let joint = recipe.model.joint.as_ref();
    let interleaved = joint.and_then(|joint| joint.interleaved.as_ref());
    let (room, slices) = (interleaved.map_or(0, |i| i.slices), source.offers().slices);
    if slices > room {
        return Err(TrainError::Check(format!(
            "model.joint.interleaved.slices = {room} is too small for objectives.{key}: a story has up to {slices} slices: {}. Generated stories \
             have two for each of data.stories.scenes, those of files as many as data.interleaved.most allows",
            source.describe()
        )));
    }
    // A stage may have stories of its own.
    if slices == 0 && recipe.stage.iter().all(|stage| stage.data.is_none()) {
        return Err(TrainError::Check(format!(
            "objectives.{key} reads stories, of which the data has none: {}. The sources stories and interleaved have them",
            source.describe()
        )));
    }
    if recipe.data.switch.is_some() {
        return Err(TrainError::Check(format!(
            "data.switch changes nothing for objectives.{key}: the sentences of stories are read as they are"
        )));
    }
    Ok(())
}

/// Checks that there are episodes if they are asked for, of the sizes that the agent reads.
fn check_walks(recipe: &Recipe, source: &dyn Source) -> Result<(), TrainError> {
    let reads = |(_, settings): &(&'static str, &dyn Settings)| {
        let mut requests = settings.requests().into_iter();
        requests.any(|request| matches!(request.what, What::Walks))
    };
    let known = source.offers().walks.is_some_and(|walks| walks.paths);
    // A stage may have episodes of its own.
    let staged = recipe.stage.iter().any(|stage| stage.data.is_some());
    if let Some((key, _)) = recipe.objectives.each().into_iter().find(reads)
        && !known
        && !staged
    {
        return Err(TrainError::Check(format!(
            "objectives.{key} reads episodes whose paths are known, of which the data has none: {}. The sources houses and episodes have them",
            source.describe()
        )));
    }
    let (Some(map), Some(offers)) = (&recipe.model.map, source.offers().walks) else {
        return Ok(());
    };
    let data = recipe.data.walk_config();
    let view = map.view.as_ref().map(|view| view.image_size);
    let classes = map.semantic.as_ref().map(|semantic| semantic.classes);
    let learned = recipe.objectives.hallucinate.is_some();
    let classes = classes.filter(|_| learned);
    // Those of houses are known beforehand; elsewhere an episode that is too long skips its batch, which is counted.
    let generated = recipe.data.source == SourceKind::Houses;
    let steps = recipe.data.houses.unwrap_or_default().steps[1];
    let decisions = if generated { steps / data.every + 2 } else { 0 };
    let of_map = |own: usize| if map.reads_map() { own } else { 0 };
    let wrong = [
        (
            of_map(map.cells) != of_map(data.cells),
            format!("cells = {}", map.cells),
            format!("maps of {} cells on a side, data.walks.cells", data.cells),
        ),
        (
            of_map(map.channels) != of_map(FEATURES),
            format!("channels = {}", map.channels),
            format!("maps of {FEATURES} channels"),
        ),
        (
            view.is_some_and(|view| view != offers.view),
            format!("view.image_size = {:?}", view.unwrap_or_default()),
            format!("views of {:?} pixels", offers.view),
        ),
        (
            classes.is_some_and(|classes| classes != offers.classes),
            format!("semantic.classes = {}", classes.unwrap_or_default()),
            format!("{} classes of cells, void among them", offers.classes),
        ),
        (
            decisions > map.steps,
            format!("steps = {}", map.steps),
            format!("up to {decisions} decisions in an episode"),
        ),
    ];
    match wrong.into_iter().find(|(wrong, ..)| *wrong) {
        Some((_, own, given)) => Err(TrainError::Check(format!(
            "model.map.{own} does not fit the data, which has {given}: {}",
            source.describe()
        ))),
        None => Ok(()),
    }
}

/// Checks that words of translations are aligned where words are hidden by it.
fn check_alignments(recipe: &Recipe, source: &dyn Source) -> Result<(), TrainError> {
    for (key, settings) in recipe.objectives.each() {
        let aligned = settings
            .requests()
            .iter()
            .any(|request| match &request.what {
                What::Text(TextForm::MaskedJoined(_, mask)) => mask.unit.is_aligned(),
                _ => false,
            });
        let switched = recipe.data.switch.is_some();
        if aligned && (switched || !source.offers().alignments) {
            let reason = if switched {
                "data.switch changes"
            } else {
                "the data does not tell: pairs with alignment_columns do, and scenes with language = \"both\""
            };
            return Err(TrainError::Check(format!(
                "objectives.{key}.mask.unit hides words by which of them stand for each other in a text and its translation, which {reason}"
            )));
        }
    }
    Ok(())
}

/// Checks that regions have the classes and names that objectives predict of hidden ones.
fn check_regions(recipe: &Recipe, source: &dyn Source) -> Result<(), TrainError> {
    for (key, settings) in recipe.objectives.each() {
        let requests = settings.requests().into_iter();
        let labels = requests.filter_map(|request| match request.what {
            What::Regions(labels) => Some(labels),
            _ => None,
        });
        let labels = labels.fold(RegionLabels::default(), RegionLabels::and);
        let classes = source.region_classes();
        let named = classes.as_ref().is_some_and(|c| !c.names().is_empty());
        let reason = if labels.any() && classes.is_none() {
            "classes of regions, which are not known: data.regions needs labels = true for files that hold them, or names of the boxes"
                .to_owned()
        } else if labels.named() && !named {
            "names of regions: data.regions.names needs a file of names for each language of the captions".to_owned()
        } else if let (Some(read), Some(known)) =
            (labels.classes, classes.as_ref().and_then(|c| c.count()))
            && read < known
        {
            format!("{read} classes of regions, classes.count, and the data has {known}")
        } else {
            continue;
        };
        return Err(TrainError::Check(format!(
            "objectives.{key} reads {reason}"
        )));
    }
    Ok(())
}

const TRANSLATIONS: &str = "translations";

/// Whether these requests need a text in another language.
fn reads_translations(requests: &[Request]) -> bool {
    requests.iter().any(|request| match &request.what {
        What::Text(form) => !request.optional && form.needs_translation(),
        _ => false,
    })
}

/// What these requests need and a source has not.
fn lacks(requests: &[Request], offers: &Offers) -> Vec<&'static str> {
    let needed = || requests.iter().filter(|request| !request.optional);
    let image = needed().any(|request| matches!(request.what, What::Image(_) | What::Codes));
    let text = needed().any(|request| matches!(request.what, What::Text(_) | What::Words));
    let stories = needed().any(|request| matches!(request.what, What::Slices(_)));
    let walks = needed().any(|request| matches!(request.what, What::Walks));
    let all = [
        ("images", image && !offers.images),
        ("texts", text && !offers.captions),
        ("stories", stories && offers.slices == 0),
        ("episodes", walks && !offers.walks.is_some_and(|w| w.paths)),
        (
            TRANSLATIONS,
            reads_translations(requests) && !offers.translations,
        ),
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

/// What gives patches their codes, as `data.codes` says: the codebook of a run's folder, a file that the recipe names, or a k-means of the
/// training images, made now. `None` if the recipe has none.
///
/// # Errors
///
/// A file cannot be read, or its codes do not fit the recipe.
pub fn patch_codes(
    recipe: &Recipe,
    source: &dyn Source,
    run: Option<&Path>,
    quiet: bool,
) -> Result<Option<Arc<PatchCodes>>, TrainError> {
    let Some(config) = &recipe.data.codes else {
        return Ok(None);
    };
    if let Some(codes) = run
        .map(|run| codes_of_run(config, run))
        .transpose()?
        .flatten()
    {
        return Ok(Some(Arc::new(codes)));
    }
    let spec = recipe.data.image_spec();
    let codes = match PatchCodes::open(config, &spec)? {
        Some(codes) => codes,
        None => {
            let book = make(config, &spec, source, recipe.seed, quiet)?;
            PatchCodes::of_book(book, config, Path::new(CODEBOOK))?
        }
    };
    let side = recipe.model.image.as_ref();
    let side = side.map(|image| image.image_size / image.patch_size);
    let own = codes.side(spec.size);
    ConfigError::unless(
        side.is_none_or(|side| side == own),
        "data.codes",
        codes.describe(),
        format_args!(
            "must be of {0} x {0} patches, as the image encoder has them; these are of {own} x {own}",
            side.unwrap_or(own)
        ),
    )
    .map_err(TrainError::of_recipe)?;
    Ok(Some(Arc::new(codes)))
}

/// What gives patches the codes that a run was trained with; `None` without `data.codes`.
///
/// # Errors
///
/// They cannot be read, or the run's codebook is gone: another one, made of other data, would give other codes.
pub fn kept_codes(recipe: &Recipe, run: &Path) -> Result<Option<Arc<PatchCodes>>, TrainError> {
    let Some(config) = &recipe.data.codes else {
        return Ok(None);
    };
    let kept = match codes_of_run(config, run)? {
        Some(codes) => Some(codes),
        None => PatchCodes::open(config, &recipe.data.image_spec())?,
    };
    let kept = kept.ok_or_else(|| TrainError::Run {
        path: run.to_owned(),
        reason: format!("lacks {CODEBOOK}, the codes that it was trained with"),
    })?;
    Ok(Some(Arc::new(kept)))
}

/// The codebook in a run's folder, if there is one.
fn codes_of_run(config: &CodesConfig, run: &Path) -> Result<Option<PatchCodes>, TrainError> {
    let path = run.join(CODEBOOK);
    if !path.is_file() {
        return Ok(None);
    }
    let book = Codebook::load(&path)?;
    Ok(Some(PatchCodes::of_book(book, config, &path)?))
}

/// Keeps a run's codebook in its folder.
///
/// # Errors
///
/// It cannot be written.
pub fn keep_codes(codes: Option<&Arc<PatchCodes>>, run: &Path) -> Result<(), TrainError> {
    if let Some(PatchCodes::Codebook { book, .. }) = codes.map(Arc::as_ref) {
        book.save(&run.join(CODEBOOK))?;
    }
    Ok(())
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

/// Words of the stage's training captions in other languages, as `data.switch` says. `say` is told what was left out of dictionaries, and
/// which of them have no word of the first captions.
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
    // A text that cannot be read is no reason to stop here: training will report it.
    let first = spec.source.texts(Split::Train).flatten();
    for language in switch.unused(first.take(CAPTIONS_LOOKED_AT)) {
        say(&format!(
            "data.switch.dictionaries.{language}: none of its words is in the first {CAPTIONS_LOOKED_AT} captions. Each line is an English word \
             and its translation, and with exact = true \"Dog,\" is not \"dog\""
        ));
    }
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
    // Names of objects beside the image, as texts unless they are concepts of a vocabulary.
    let tags = FurtherText::Tags;
    let asked = recipe.model.reads_concepts() && spec.concepts.is_none();
    if asked && !spec.further.contains(&tags) {
        spec.further.push(tags);
    }
    spec.mask = inputs.mask;
    if !inputs.codes {
        spec.codes = None;
    }
    spec.joined = inputs.joined.map(|spec| Joining {
        spec,
        mask: inputs.joined_mask,
    });
    spec.sides = inputs.sides;
    spec.references = inputs.references;
    let joint = recipe.model.joint.as_ref();
    let interleaved = joint.and_then(|joint| joint.interleaved.as_ref());
    let slices = interleaved.filter(|_| inputs.slices);
    spec.slices = slices.map(|interleaved| interleaved.slices);
    spec.walks = inputs.walks.then(|| recipe.data.walk_config());
    spec.hide_regions = inputs.region_mask.map(|mask| HideRegions {
        mask,
        labels: inputs.region_labels,
    });
    spec.concept_rate = inputs.concept_rate;
    spec.second_view = inputs.second_view;
    let image = recipe.model.image.as_ref();
    spec.patch_mask = inputs.patch_mask.zip(image).map(|(spec, image)| PatchMask {
        spec,
        patch_size: image.patch_size,
    });
    Ok(())
}
