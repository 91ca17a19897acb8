//! `init`: public weights to start from. `starting.rs` reads them.

use std::fmt;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use unimo_batch::ConfigError;
use unimo_encoders::names::covers;

use crate::hub;

/// `init.layers`: which layers of a deeper encoder a shallower one starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// The first ones.
    First,
    /// Every second one, beginning with the first (DistilBERT); there must be twice as many, or one less.
    EverySecond,
}

impl Layers {
    /// Its name in a recipe.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::EverySecond => "every_second",
        }
    }

    /// For each of `ours` layers the number of one of `theirs`, from 0. `key` is the recipe's key of `ours`.
    ///
    /// # Errors
    ///
    /// There are too few, or not twice as many.
    pub(crate) fn of(
        self,
        key: &str,
        ours: usize,
        theirs: usize,
    ) -> Result<Vec<usize>, ConfigError> {
        ConfigError::unless(
            ours <= theirs,
            key,
            ours,
            format_args!("must be at most {theirs}, the layers of the weights that `init` names"),
        )?;
        ConfigError::unless(
            self == Self::First || ours == theirs.div_ceil(2),
            key,
            ours,
            format_args!(
                "must be {}: init.layers = \"every_second\" takes every second one of {theirs}",
                theirs.div_ceil(2)
            ),
        )?;
        let step = match self {
            Self::First => 1,
            Self::EverySecond => 2,
        };
        Ok((0..ours).map(|layer| layer * step).collect())
    }
}

/// `init`: a table, or `"KIND:PATH"` alone for `whole`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct InitConfig {
    /// A whole checkpoint, `KIND:PATH`; kinds are `unimo` (a run of one's own), `meter`, `bridgetower`, `albef` and `clip` (both
    /// towers and their projections).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
    /// The text encoder: a folder, or a Hugging Face id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The image encoder: a folder, or a Hugging Face id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The blocks of one stream, [model.joint]: those of a text encoder, a folder or a Hugging Face id. With `model.joint.split` the matrices of
    /// all parts begin as these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joint: Option<String>,
    /// Our parameters that are read from a run of one's own, such as `backbone.text`; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// Which layers are taken where the recipe's encoder has fewer than the weights. From a run of one's own it must be said; of a public
    /// encoder the first are taken by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Layers>,
    /// Our parameters that may keep random weights: names or prefixes of names, `*` for any one part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub new: Vec<String>,
    /// Tensors of the files that may be left unused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<String>,
}

impl<'de> Deserialize<'de> for InitConfig {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[derive(Default)]
        struct Table {
            whole: Option<String>,
            text: Option<String>,
            image: Option<String>,
            joint: Option<String>,
            parts: Vec<String>,
            layers: Option<Layers>,
            new: Vec<String>,
            unused: Vec<String>,
        }
        struct Given;
        impl<'de> Visitor<'de> for Given {
            type Value = InitConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "\"KIND:PATH\" or a table with text, image, joint, whole, parts, layers, new, unused",
                )
            }
            fn visit_str<E: Error>(self, whole: &str) -> Result<InitConfig, E> {
                Ok(InitConfig {
                    whole: Some(whole.to_owned()),
                    ..InitConfig::default()
                })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<InitConfig, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(InitConfig {
                    whole: table.whole,
                    text: table.text,
                    image: table.image,
                    joint: table.joint,
                    parts: table.parts,
                    layers: table.layers,
                    new: table.new,
                    unused: table.unused,
                })
            }
        }
        input.deserialize_any(Given)
    }
}

/// The kinds of whole checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    Unimo,
    Meter,
    BridgeTower,
    Albef,
    Clip,
}

impl Whole {
    const ALL: [(&'static str, Self); 5] = [
        ("unimo", Self::Unimo),
        ("meter", Self::Meter),
        ("bridgetower", Self::BridgeTower),
        ("albef", Self::Albef),
        ("clip", Self::Clip),
    ];

    /// The kind and the path of `KIND:PATH`.
    pub(crate) fn parse(given: &str) -> Result<(Self, &str), ConfigError> {
        let found = given.split_once(':').and_then(|(kind, path)| {
            let (_, kind) = Self::ALL.iter().find(|(name, _)| *name == kind)?;
            Some((*kind, path))
        });
        found.ok_or_else(|| ConfigError {
            key: "init".to_owned(),
            value: format!("\"{given}\""),
            allowed:
                "must be \"unimo:RUN\", \"meter:PATH\", \"bridgetower:PATH\", \"albef:PATH\" or \"clip:PATH\", or a table with text and image"
                    .to_owned(),
        })
    }
}

/// The parameter of a learned temperature, in an objective or in a head of its own.
pub(crate) const LOGIT_SCALE: &str = ".logit_scale";

/// The spread of new weights.
pub(crate) const INITIALIZER_RANGE: &str = "model.initializer_range";

impl InitConfig {
    /// Whether a run takes the value of this key from the weights that it starts from, and not from its recipe.
    pub(crate) fn gives(&self, key: &str) -> bool {
        let Some(whole) = &self.whole else {
            return false;
        };
        let own = Whole::parse(whole).is_ok_and(|(kind, _)| kind == Whole::Unimo);
        if own && (key == INITIALIZER_RANGE || key.starts_with("data.tokenizer.")) {
            return true;
        }
        let Some(section) = key.strip_suffix(".temperature") else {
            return false;
        };
        let name = format!("{section}{LOGIT_SCALE}");
        let new = self.new.iter().any(|part| covers(part, &name));
        let read = self.parts.is_empty() || self.parts.iter().any(|part| covers(part, &name));
        section.starts_with("objectives.") && read && !new
    }

    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let parts = self.text.is_some() || self.image.is_some() || self.joint.is_some();
        ConfigError::unless(
            self.whole.is_some() != parts,
            "init",
            "{}",
            "name a whole checkpoint, or text, image and joint or some of them, and not both",
        )?;
        let whole = self.whole.as_deref().map(Whole::parse).transpose()?;
        let own = matches!(whole, Some((Whole::Unimo, _)));
        ConfigError::unless(
            own || parts || self.layers.is_none(),
            "init.layers",
            format_args!("\"{}\"", self.layers.map_or("none", Layers::name)),
            "must be absent with a whole METER, BridgeTower, ALBEF or CLIP, whose depth must be the recipe's",
        )?;
        ConfigError::unless(
            own || self.parts.is_empty(),
            "init.parts",
            format_args!("{:?}", self.parts),
            "must be absent but with whole = \"unimo:RUN\"; other checkpoints are read as a whole, or by text and image",
        )
    }

    /// What it names that is not on this machine: neither a path nor, whole, in the Hugging Face cache.
    pub(crate) fn missing(&self) -> Vec<String> {
        let whole = self
            .whole
            .as_deref()
            .and_then(|whole| whole.split_once(':'));
        let named = whole.map(|(_, path)| path);
        let parts = [&self.text, &self.image, &self.joint].map(Option::as_deref);
        let named = named.into_iter().chain(parts.into_iter().flatten());
        let missing = named.filter(|path| hub::here(path).is_none());
        missing.map(str::to_owned).collect()
    }

    /// Makes the paths of existing files absolute. A path that does not exist may be a Hugging Face id.
    pub fn rebase(&mut self, folder: &Path) {
        let absolute = |given: &str| {
            let path = folder.join(given);
            path.exists().then(|| path.display().to_string())
        };
        if let Some(whole) = &mut self.whole
            && let Some((kind, path)) = whole.split_once(':')
            && let Some(path) = absolute(path)
        {
            *whole = format!("{kind}:{path}");
        }
        let parts = [&mut self.text, &mut self.image, &mut self.joint];
        for part in parts.into_iter().flatten() {
            if let Some(path) = absolute(part) {
                *part = path;
            }
        }
    }
}
