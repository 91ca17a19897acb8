//! `[objectives]` of a recipe: how it is read, written and validated.

use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use unimo_batch::ConfigError;
use unimo_encoders::backbone::BackboneConfig;

use crate::objective::Settings;
use crate::partners::Between;
use crate::registry::REGISTRY;
use crate::request::{By, Inputs, Request, TextForm, What};
use crate::teacher::TeacherConfig;
use crate::{NEEDS_IMAGE_STATES, ObjectivesConfig};

impl Serialize for ObjectivesConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.write(&mut map)?;
        for outside in &self.outside {
            map.serialize_entry(outside.key, &outside.value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for ObjectivesConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sections;
        impl<'de> Visitor<'de> for Sections {
            type Value = ObjectivesConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a section for each objective")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut config = ObjectivesConfig::default();
                while let Some(key) = map.next_key::<String>()? {
                    if config.given().contains(&key.as_str()) {
                        return Err(de::Error::custom(format!("duplicate field `{key}`")));
                    }
                    if config.read(&key, &mut map)? {
                        continue;
                    }
                    let Some((key, read)) = REGISTRY.get(&key) else {
                        return Err(de::Error::custom(format!(
                            "unknown field `{key}`, {}",
                            REGISTRY.allowed(ObjectivesConfig::KEYS)
                        )));
                    };
                    let value: Value = map.next_value()?;
                    let outside =
                        read(key, value).map_err(|e| de::Error::custom(format!("{key}: {e}")))?;
                    config.outside.push(outside);
                }
                Ok(config)
            }
        }
        deserializer.deserialize_struct("ObjectivesConfig", Self::KEYS, Sections)
    }
}

impl ObjectivesConfig {
    /// The keys of the objectives that are present.
    pub fn given(&self) -> Vec<&'static str> {
        self.each().into_iter().map(|(key, _)| key).collect()
    }

    /// Whether a head scores pairs of a text and an image, see [`Objectives::match_scores`](crate::Objectives::match_scores).
    pub fn scores_pairs(&self) -> bool {
        self.itm.is_some() || self.ranking.is_some()
    }

    /// Checks every value, alone and against the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (key, settings) in self.each() {
            settings.validate().map_err(|e| e.within(key))?;
        }
        ConfigError::unless(
            !self.each().is_empty(),
            "objectives",
            "{}",
            format_args!("name at least one of {}", Self::KEYS.join(", ")),
        )?;
        self.inputs(&|_| true)?;
        for (key, settings) in self.each() {
            let asked = settings.asks_similarity();
            ConfigError::unless(
                asked.is_none_or(|between| self.similarity_of(between, &|_| true).is_some()),
                &format!("{key}.negatives"),
                "hard",
                match asked {
                    Some(Between::TextsAndTexts) => {
                        "hard negatives are chosen by the similarities of [objectives.ttc], which is absent"
                    }
                    _ => {
                        "hard negatives are chosen by the similarities of [objectives.itc], which is absent"
                    }
                },
            )?;
            settings.validate_beside(self).map_err(|e| e.within(key))?;
        }
        Ok(())
    }

    /// Checks the objectives against the encoders that they train.
    pub fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        for (key, settings) in self.each() {
            let reads = |request: &Request| matches!(request.what, What::Image(_));
            let needs = |request: &Request| reads(request) && !request.optional;
            ConfigError::unless(
                model.reads_images() || !settings.requests().iter().any(needs),
                key,
                "{}",
                "needs an image encoder, [model.image] or [model.regions]",
            )?;
            ConfigError::unless(
                model.is_fused() || !settings.reads_fused(),
                key,
                "{}",
                "needs a cross-modal encoder, [model.fusion] or [model.joint]",
            )?;
            ConfigError::unless(
                model.gives_image_states()
                    || model.shares_layers()
                    || !settings.reads_fused_images(),
                key,
                "{}",
                NEEDS_IMAGE_STATES,
            )?;
            let reads_on = |request: &Request| {
                matches!(
                    request.what,
                    What::Text(TextForm::LeftToRight | TextForm::MaskedLeftToRight(_))
                )
            };
            ConfigError::unless(
                !model.shares_layers() || !settings.requests().iter().any(reads_on),
                key,
                "{}",
                "reads texts from left to right, which model.fusion.shared = true does not: its layers read texts in both directions",
            )?;
            settings.validate_with(model).map_err(|e| e.within(key))?;
        }
        Ok(())
    }

    /// Checks the objectives against the recipe's teacher, or against its absence.
    pub fn validate_teacher(&self, teacher: Option<&TeacherConfig>) -> Result<(), ConfigError> {
        let asks = |(_, settings): &(&str, &dyn Settings)| {
            let requests = settings.requests();
            requests.iter().any(|request| request.by == By::Teacher)
        };
        match (self.each().into_iter().find(asks), teacher) {
            (Some((key, _)), None) => ConfigError::unless(
                false,
                "teacher",
                "absent",
                format_args!("is needed by [objectives.{key}], which compares with its features"),
            ),
            (None, Some(_)) => ConfigError::unless(
                false,
                "teacher",
                "{}",
                "must be absent: no objective of this recipe asks for its features",
            ),
            (_, teacher) => teacher.map_or(Ok(()), |teacher| {
                teacher.validate().map_err(|e| e.within("teacher"))
            }),
        }
    }

    /// What the loader must put into a batch for the objectives whose keys are `chosen`.
    ///
    /// # Errors
    ///
    /// Two of them ask for the same input in two ways.
    pub fn inputs(&self, chosen: &dyn Fn(&str) -> bool) -> Result<Inputs, ConfigError> {
        let all = self.each().into_iter().filter(|(key, _)| chosen(key));
        Inputs::of(all.map(|(key, settings)| (key, settings.requests(), settings.samples())))
    }

    /// The objective among `chosen` that gives these similarities.
    pub fn similarity_of(
        &self,
        between: Between,
        chosen: &dyn Fn(&str) -> bool,
    ) -> Option<&'static str> {
        let all = self.each().into_iter().filter(|(key, _)| chosen(key));
        all.into_iter()
            .find(|(_, settings)| settings.gives_similarity() == Some(between))
            .map(|(key, _)| key)
    }
}
