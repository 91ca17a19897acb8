//! An endless generated corpus: small images of shapes, with true descriptions.
//!
//! A scene is one or two groups of like objects on a coloured ground. Texts and image are derived from the same description, so it
//! is known exactly what a model could have learned. Scenes are a pure function of seed, split and index. A hash of the description
//! alone decides whether a scene may be held out. So no held-out scene is ever seen in training, whatever the seed, and no two
//! held-out scenes look alike.

mod drawing;
mod kinds;
pub(crate) mod language;
pub(crate) mod story;
mod words;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use unimo_batch::TextRole;

use crate::error::{DataError, Place, SampleError};
use crate::images::Limits;
use crate::order::draws::{Stream, hash};
use crate::settings::range;
use crate::sources::label::Label;
use crate::sources::languages::{Alignment, Languages};
use crate::sources::regions::RegionClasses;
use crate::sources::scenes::drawing::{Expression, Scene};
use crate::sources::scenes::words::Description;
use crate::sources::source::{Annotations, Offers, Sample, Source, SourceConfig, SplitFacts};
use crate::sources::splits::{BySplit, Split};

/// `[data.scenes]`: generated images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScenesConfig {
    /// Selects the endless corpus; another seed gives other scenes.
    pub seed: u64,
    /// Number of scenes in a training epoch.
    pub train: usize,
    /// Number of held-out scenes. No two look alike and none is in any training split of any seed.
    pub val: usize,
    /// Number of test scenes: as for `val`, and none is in `val`.
    pub test: usize,
    /// Side of the drawn image in pixels.
    pub size: u32,
    /// What the texts of a scene are.
    #[serde(skip_serializing_if = "SceneTexts::is_default")]
    pub texts: SceneTexts,
    /// The language of its texts.
    #[serde(skip_serializing_if = "SceneLanguage::is_default")]
    pub language: SceneLanguage,
    /// The language of held-out texts; absent: as `language` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_language: Option<SceneLanguage>,
}

/// The language of texts and phrases about scenes. Answers and names of objects stay English.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SceneLanguage {
    /// English.
    #[default]
    English,
    /// A language with words and an order of words of its own: every text of the English corpus, translated word by word.
    Invented,
    /// Every text in English, then every text in the invented language: the same texts in two languages.
    Both,
}

/// The tag of the invented language: ISO 639 keeps it free for local use.
pub(crate) const INVENTED: &str = "qaa";

impl SceneLanguage {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Texts in the language, or in both, one language after the other.
    fn say(self, english: Vec<String>) -> Vec<String> {
        let invented = |text: &String| language::translate(text).text;
        match self {
            Self::English => english,
            Self::Invented => english.iter().map(invented).collect(),
            Self::Both => {
                let translated: Vec<String> = english.iter().map(invented).collect();
                [english, translated].concat()
            }
        }
    }

    /// What is known of the texts in English, for the texts in the language.
    fn each<T: Clone>(self, of_english: Vec<T>) -> Vec<T> {
        match self {
            Self::English | Self::Invented => of_english,
            Self::Both => [of_english.clone(), of_english].concat(),
        }
    }

    /// The languages of these texts in English as they are said, and the words of both that stand for each other.
    fn told(self, english: &[String]) -> Languages {
        let count = english.len();
        let tags = |tag: &str| vec![tag.to_owned(); count];
        match self {
            Self::English => Languages {
                tags: tags("en"),
                ..Languages::default()
            },
            Self::Invented => Languages {
                tags: tags(INVENTED),
                ..Languages::default()
            },
            Self::Both => Languages {
                tags: [tags("en"), tags(INVENTED)].concat(),
                meanings: (0..count).chain(0..count).collect(),
                alignments: {
                    let aligned = |(base, text): (usize, &String)| {
                        let words = language::translate(text).alignment.into_iter();
                        let words = words.map(|word| word as u32).zip(0..);
                        let words = words.collect();
                        Some(Alignment { base, words })
                    };
                    let own = english.iter().enumerate().map(aligned);
                    std::iter::repeat_n(None, count).chain(own).collect()
                },
            },
        }
    }
}

/// What the texts of a scene are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SceneTexts {
    /// Two descriptions.
    #[default]
    Captions,
    /// Questions, each with its one answer.
    Questions,
    /// Statements, half of them true.
    Statements,
    /// Expressions that refer to one group of objects each, with its box. The tags and boxes of a scene then name its groups of several
    /// objects too, after the single objects.
    Expressions,
    /// None: images alone, whose class is their number of objects, as a word.
    Classes,
    /// One, of scenes with objects of one kind: their number, colour and shape, such as `two red circles`.
    Names,
    /// None: images alone of objects of one kind, whose class is that kind, such as `red circle`: one of 64.
    Kinds,
}

impl SceneTexts {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether scenes have texts at all.
    fn are_told(self) -> bool {
        !matches!(self, Self::Classes | Self::Kinds)
    }
}

impl ScenesConfig {
    fn shows_one_kind(&self) -> bool {
        matches!(self.texts, SceneTexts::Names | SceneTexts::Kinds)
    }
}

impl Default for ScenesConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            train: 4096,
            val: 512,
            test: 0,
            size: 64,
            texts: SceneTexts::Captions,
            language: SceneLanguage::English,
            held_out_language: None,
        }
    }
}

impl SourceConfig for ScenesConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        // A run begins with a digest of every row.
        range(&format!("{table}.train"), self.train, 1, MOST_TRAINING)?;
        // There are about 100,000 descriptions that may be held out; finding unused ones gets slow.
        range(&format!("{table}.val"), self.val, 0, 20_000)?;
        range(&format!("{table}.test"), self.test, 0, 20_000)?;
        if self.shows_one_kind() {
            let held_out = self.val + self.test;
            range(&format!("{table}.val + test"), held_out, 0, MOST_OF_KINDS)?;
        }
        range(&format!("{table}.size"), self.size as usize, 32, 4096)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }

    fn open(&self, _limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Ok(Arc::new(Scenes::new(*self)))
    }

    fn without_table() -> Option<Self> {
        Some(Self::default())
    }
}

/// Generated scenes. See the [module](self).
#[derive(Debug)]
pub struct Scenes {
    config: ScenesConfig,
    /// For each held-out scene, the attempt that gave it. Scenes are made again when needed.
    held_out: BySplit<Vec<u64>>,
}

/// One description in this many is kept for held-out scenes.
const HELD_OUT_IN: u64 = 8;

/// Most training scenes.
const MOST_TRAINING: usize = 100_000_000;

/// Raised when the same settings begin to give other scenes.
const GENERATOR: u64 = 1;

/// Most held-out scenes of one kind of objects: about 500 descriptions of them may be held out.
const MOST_OF_KINDS: usize = 400;

impl Scenes {
    /// The source's name in places.
    const NAME: &'static str = "scenes";

    /// The corpus of a validated configuration.
    pub fn new(config: ScenesConfig) -> Self {
        let mut scenes = Self {
            config,
            held_out: BySplit::default(),
        };
        let mut seen = HashSet::new();
        for (split, count) in [(Split::Val, config.val), (Split::Test, config.test)] {
            for index in 0..count {
                let attempt = (0..)
                    .find(|attempt| {
                        let (description, _) = scenes.description(split, index, *attempt);
                        scenes.shows(&description)
                            && description.is_held_out()
                            && seen.insert(description.key())
                    })
                    .unwrap_or(0);
                scenes.held_out[split].push(attempt);
            }
        }
        scenes
    }

    fn description(&self, split: Split, index: usize, attempt: u64) -> (Description, ChaCha8Rng) {
        let parts = [self.config.seed, split as u64, index as u64, attempt];
        let mut random = ChaCha8Rng::seed_from_u64(hash(Stream::Scene, &parts));
        (Description::draw(&mut random), random)
    }

    fn scene(&self, split: Split, index: usize) -> Scene {
        let (description, mut random) = match split {
            Split::Val | Split::Test => self.description(split, index, self.held_out[split][index]),
            Split::Train => {
                let mut attempt = 0;
                loop {
                    let drawn = self.description(split, index, attempt);
                    if self.shows(&drawn.0) && !drawn.0.is_held_out() {
                        break drawn;
                    }
                    attempt += 1;
                }
            }
        };
        Scene::new(description, self.config.size, &mut random)
    }

    /// Whether the corpus has such scenes.
    fn shows(&self, description: &Description) -> bool {
        !self.config.shows_one_kind() || description.groups().len() == 1
    }

    /// The language of a split's texts.
    fn language(&self, split: Split) -> SceneLanguage {
        let held_out = match split {
            Split::Train => None,
            Split::Val | Split::Test => self.config.held_out_language,
        };
        held_out.unwrap_or(self.config.language)
    }

    /// The texts of a scene, what is known of each, and their languages.
    fn told(&self, split: Split, scene: Scene) -> (Vec<String>, Vec<Label>, Languages) {
        let (texts, labels) = self.told_in_english(scene);
        let language = self.language(split);
        let languages = language.told(&texts);
        // An image without texts has one label.
        let labels = if texts.is_empty() {
            labels
        } else {
            language.each(labels)
        };
        (language.say(texts), labels, languages)
    }

    fn told_in_english(&self, scene: Scene) -> (Vec<String>, Vec<Label>) {
        let answered = |(text, answer): (String, String)| {
            let label = Label {
                answer: Some(answer),
                ..Label::default()
            };
            (text, label)
        };
        let stated =
            |(text, holds): (String, bool)| (text, Label::of_role(TextRole::Statement { holds }));
        match self.config.texts {
            SceneTexts::Captions => (scene.captions, Vec::new()),
            SceneTexts::Questions => {
                let questions = scene.description.questions().into_iter();
                questions.map(answered).unzip()
            }
            SceneTexts::Statements => {
                let statements = scene.description.statements().into_iter();
                statements.map(stated).unzip()
            }
            SceneTexts::Expressions => {
                let expressions = scene.expressions().into_iter();
                let referred = |said: Expression| {
                    let label = Label {
                        kinds: vec![("expression".to_owned(), said.names.to_owned())],
                        bounds: Some(said.bounds),
                        ..Label::default()
                    };
                    (said.text, label)
                };
                expressions.map(referred).unzip()
            }
            SceneTexts::Classes => {
                let (_, label) = answered((String::new(), scene.description.objects().to_owned()));
                (Vec::new(), vec![label])
            }
            SceneTexts::Names => (vec![scene.description.first.named()], Vec::new()),
            SceneTexts::Kinds => {
                let first = scene.description.first;
                let kind = kinds::name(first.colour, first.shape);
                let (_, label) = answered((String::new(), kind));
                (Vec::new(), vec![label])
            }
        }
    }

    /// The names of a scene's objects and, where expressions refer to groups, of its groups, with their boxes.
    fn named(&self, scene: &Scene) -> (Vec<String>, Vec<[f32; 4]>) {
        let (mut tags, mut boxes) = (scene.tags(), scene.boxes());
        if self.config.texts == SceneTexts::Expressions {
            for (name, bounds) in scene.group_boxes() {
                tags.push(name);
                boxes.push(bounds);
            }
        }
        (tags, boxes)
    }

    /// The phrases of each caption; nothing is known of those of other texts.
    fn phrases_of(&self, split: Split, scene: &Scene) -> Vec<Vec<String>> {
        match self.config.texts {
            SceneTexts::Captions => {
                let say = |language: SceneLanguage| {
                    let of_caption = scene.phrases().into_iter();
                    of_caption.map(move |phrases| language.say(phrases))
                };
                match self.language(split) {
                    SceneLanguage::Both => say(SceneLanguage::English)
                        .chain(say(SceneLanguage::Invented))
                        .collect(),
                    one => say(one).collect(),
                }
            }
            SceneTexts::Questions
            | SceneTexts::Statements
            | SceneTexts::Expressions
            | SceneTexts::Classes
            | SceneTexts::Names
            | SceneTexts::Kinds => Vec::new(),
        }
    }

    /// What the texts of a scene say about it.
    fn roles_of(&self, split: Split, scene: &Scene) -> Vec<TextRole> {
        let description = &scene.description;
        self.language(split).each(match self.config.texts {
            SceneTexts::Captions
            | SceneTexts::Expressions
            | SceneTexts::Classes
            | SceneTexts::Names
            | SceneTexts::Kinds => Vec::new(),
            SceneTexts::Questions => vec![TextRole::Question; description.questions().len()],
            SceneTexts::Statements => {
                let statements = description.statements().into_iter();
                statements
                    .map(|(_, holds)| TextRole::Statement { holds })
                    .collect()
            }
        })
    }
}

impl Source for Scenes {
    /// What a scene is made from. It need not be made, and a million are identified in less than a second.
    fn identify(
        &self,
        split: Split,
        index: usize,
        give: &mut dyn FnMut(&[u8]),
    ) -> Result<(), SampleError> {
        let attempt = match split {
            Split::Train => 0,
            Split::Val | Split::Test => self.held_out[split][index],
        };
        let parts = [
            GENERATOR,
            self.config.seed,
            self.config.size as u64,
            self.config.texts as u64,
            self.language(split) as u64,
            split as u64,
            index as u64,
            attempt,
        ];
        parts.iter().for_each(|part| give(&part.to_le_bytes()));
        Ok(())
    }

    fn len(&self, split: Split) -> usize {
        match split {
            Split::Train => self.config.train,
            Split::Val => self.config.val,
            Split::Test => self.config.test,
        }
    }

    fn describe(&self) -> String {
        let test = match self.config.test {
            0 => String::new(),
            scenes => format!(", {scenes} to test on"),
        };
        format!(
            "generated scenes of seed {}: {} for training, {} held out{test}, {} × {} pixels, {}{}{}",
            self.config.seed,
            self.config.train,
            self.config.val,
            self.config.size,
            self.config.size,
            match self.config.texts {
                SceneTexts::Captions => "2 captions each",
                SceneTexts::Questions => "with questions",
                SceneTexts::Statements => "with true and false statements",
                SceneTexts::Expressions => "with expressions for groups of objects",
                SceneTexts::Classes => "their numbers of objects as classes",
                SceneTexts::Names => "named by the kind of their objects",
                SceneTexts::Kinds => "the kinds of their objects as classes",
            },
            match self.config.language {
                SceneLanguage::English => "",
                SceneLanguage::Invented => ", in an invented language",
                SceneLanguage::Both => ", and as many in an invented language",
            },
            match self.config.held_out_language {
                Some(SceneLanguage::English) => "; held-out ones in English",
                Some(SceneLanguage::Invented) => "; held-out ones in an invented language",
                Some(SceneLanguage::Both) => "; held-out ones in both languages",
                None => "",
            }
        )
    }

    fn place(&self, split: Split, index: usize) -> Place {
        Place {
            file: format!("{}-{}", Self::NAME, split.name()),
            line: index as u64,
        }
    }

    fn picture_id(&self, split: Split, index: usize) -> Result<u64, SampleError> {
        let of = [self.config.seed, split as u64, index as u64];
        Ok(hash(Stream::Picture, &of))
    }

    fn offers(&self) -> Offers {
        Offers {
            captions: self.config.texts.are_told(),
            translations: self.config.language == SceneLanguage::Both,
            alignments: self.config.language == SceneLanguage::Both,
            ..Offers::default()
        }
    }

    fn facts(&self, _split: Split) -> SplitFacts {
        SplitFacts {
            all_describe: matches!(
                self.config.texts,
                SceneTexts::Captions | SceneTexts::Expressions | SceneTexts::Names
            ),
            languages: self.config.texts.are_told(),
            ..SplitFacts::default()
        }
    }

    /// Every name of a single object, in both languages.
    fn region_classes(&self) -> Option<Arc<RegionClasses>> {
        let english = kinds::names();
        let invented = |name: &String| language::translate(name).text;
        let invented = english.iter().map(invented).collect();
        let names = [("en", english), (INVENTED, invented)];
        let names = names.map(|(language, names)| (language.to_owned(), names));
        Some(Arc::new(RegionClasses::new(names.into(), None)))
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let scene = self.scene(split, index);
        let known = Annotations {
            roles: self.roles_of(split, &scene),
            phrases: self.phrases_of(split, &scene),
            tags: self.named(&scene).0,
            ..Annotations::default()
        };
        let (_, labels, languages) = self.told(split, scene);
        Ok(Annotations {
            labels,
            languages,
            ..known
        })
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        Ok(self.told(split, self.scene(split, index)).0)
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        Ok(Some(self.scene(split, index).draw()))
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample, SampleError> {
        let scene = self.scene(split, index);
        let (tags, boxes) = self.named(&scene);
        let sample = Sample {
            name: self.place(split, index).to_string(),
            image: Some(scene.draw()),
            phrases: self.phrases_of(split, &scene),
            tags,
            boxes,
            questions: scene.description.questions(),
            statements: scene.description.statements(),
            roles: self.roles_of(split, &scene),
            ..Sample::default()
        };
        let (captions, labels, languages) = self.told(split, scene);
        Ok(Sample {
            captions,
            labels,
            languages,
            ..sample
        })
    }
}

#[cfg(test)]
mod tests;
