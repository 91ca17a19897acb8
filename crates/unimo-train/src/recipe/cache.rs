//! `train.cache`: which features of frozen encoders can be kept, and why others cannot.

use unimo_batch::ConfigError;
use unimo_encoders::names::covers;
use unimo_objectives::Settings;
use unimo_objectives::kept::KeptOf;
use unimo_objectives::request::{By, ImageForm, Request, TextForm, What};

use crate::recipe::Recipe;
use crate::recipe::stages::Stage;

/// The encoders, each with its word and the beginning of its parameters' names.
const ENCODERS: [(KeptOf, &str, &str); 2] = [
    (KeptOf::Image, "image", "backbone.image"),
    (KeptOf::Text, "text", "backbone.text"),
];

/// Parameters of every part of CLIP, which are frozen where tokens learn.
const OF_CLIP: [&str; 10] = [
    "backbone.text.word_embedding.weight",
    "backbone.text.position_embedding.weight",
    "backbone.text.clip.layers.0.attention.query.weight",
    "backbone.text.clip.final_norm.weight",
    "backbone.image.patch_embedding.weight",
    "backbone.image.class_embedding",
    "backbone.image.layers.0.attention.query.weight",
    "backbone.image.post_norm.weight",
    "objectives.prompts.text_projection.weight",
    "objectives.prompts.image_projection.weight",
];

/// What is kept in a stage.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CachePlan {
    /// The encoders whose features are kept.
    pub kept: Vec<KeptOf>,
    /// Why those of the others are not, one line for each.
    pub reasons: Vec<String>,
}

impl Recipe {
    /// What is kept in a stage, for a model with these parameters. Nothing without `train.cache`.
    pub fn cache_plan(&self, stage: &Stage, parameters: &[String]) -> CachePlan {
        let mut plan = CachePlan::default();
        if !self.train.cache {
            return plan;
        }
        for (encoder, word, prefix) in ENCODERS {
            match self.cannot_be_kept(encoder, stage, (prefix, parameters)) {
                None => plan.kept.push(encoder),
                Some(reason) => plan.reasons.push(format!(
                    "features of the {word} encoder are not kept: {reason}"
                )),
            }
        }
        plan
    }

    /// Checks that `train.cache` keeps something.
    pub(crate) fn check_cache(&self, parameters: &[String]) -> Result<(), ConfigError> {
        let mut reasons: Vec<String> = Vec::new();
        for stage in self.stages() {
            let plan = self.cache_plan(&stage, parameters);
            if !plan.kept.is_empty() {
                return Ok(());
            }
            let of_stage = plan
                .reasons
                .into_iter()
                .map(|reason| match stage.name.as_str() {
                    "" => reason,
                    name => format!("stage \"{name}\": {reason}"),
                });
            reasons.extend(of_stage);
        }
        ConfigError::unless(
            !self.train.cache,
            "train.cache",
            true,
            format_args!("keeps nothing here: {}", reasons.join("; ")),
        )
    }

    /// The first reason why features of an encoder are not the same in every step.
    fn cannot_be_kept(
        &self,
        encoder: KeptOf,
        stage: &Stage,
        (prefix, parameters): (&str, &[String]),
    ) -> Option<String> {
        let of_encoder = || parameters.iter().filter(|name| covers(prefix, name));
        if of_encoder().next().is_none() {
            return Some("there is none that reads pixels in [model.image]".to_owned());
        }
        if let Some(name) = of_encoder().find(|name| self.learns(stage, name)) {
            return Some(format!(
                "it learns ({name}, for one); train.freeze=[\"{prefix}\"] freezes it"
            ));
        }
        let model = &self.model;
        let (section, dropout, drop_path) = match (encoder, &model.image) {
            (KeptOf::Text, _) => ("text", model.text.dropout, model.text.drop_path),
            (KeptOf::Image, Some(image)) => ("image", image.dropout, image.drop_path),
            (KeptOf::Image, None) => return Some("it reads no pixels".to_owned()),
        };
        if dropout > 0.0 || drop_path > 0.0 {
            return Some(format!(
                "its dropout draws anew in each step; model.{section}.dropout=0 and drop_path=0 would allow it"
            ));
        }
        if encoder == KeptOf::Image && model.image_tags {
            return Some(
                "model.image_tags: it reads the names of objects, too, which the text encoder embeds"
                    .to_owned(),
            );
        }
        if encoder == KeptOf::Image && model.reads_concepts() {
            return Some(
                "model.joint.concepts: the names of objects stand beside it, which the text encoder reads"
                    .to_owned(),
            );
        }
        if encoder == KeptOf::Image && stage.data.augment.is_some() {
            return Some(
                "data.augment changes images at random, each time otherwise; data.augment=none would allow it"
                    .to_owned(),
            );
        }
        let each = self.objectives.each().into_iter();
        let mut trained = each.filter(|(key, _)| stage.trains(key));
        trained.find_map(|(key, settings)| {
            let requests = settings.requests();
            let reads = requests
                .iter()
                .find_map(|request| changes(encoder, request))?;
            Some(format!("objectives.{key} {reads}"))
        })
    }

    /// Checks that tokens of a frozen CLIP are read by an objective, and that CLIP is frozen where they are.
    pub(crate) fn check_representation(&self) -> Result<(), ConfigError> {
        let each = self.objectives.each().into_iter();
        let reads = |settings: &dyn Settings| {
            let requests = settings.requests().into_iter();
            let mut images = requests.map(|request| request.what);
            images.any(|what| what == What::Image(ImageForm::Represented))
        };
        let readers: Vec<&str> = each
            .filter(|(_, settings)| reads(*settings))
            .map(|(key, _)| key)
            .collect();
        ConfigError::unless(
            self.model.representation.is_none() || !readers.is_empty(),
            "model.representation",
            "{}",
            "must be absent: no objective of this recipe reads its tokens, as [objectives.prompts] does",
        )?;
        for stage in self.stages() {
            let trained = readers.iter().any(|key| stage.trains(key));
            let learning = OF_CLIP.iter().find(|name| self.learns(&stage, name));
            if let Some(name) = learning.filter(|_| trained) {
                return ConfigError::unless(
                    false,
                    "train.freeze",
                    format_args!("{:?}", self.train.freeze),
                    format_args!(
                        "must have \"backbone.text\", \"backbone.image\", \"objectives.prompts.text_projection\" and \
                         \"objectives.prompts.image_projection\": tokens are for a frozen CLIP, and {name} learns"
                    ),
                );
            }
        }
        Ok(())
    }

    /// Whether a parameter learns in a stage, with its adapter if it has one.
    fn learns(&self, stage: &Stage, name: &str) -> bool {
        let named = |patterns: &[String]| patterns.iter().any(|pattern| covers(pattern, name));
        let beside = self.train.lora.as_ref().is_none_or(|lora| {
            let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
            named(&lora.also) || lora.adapts(layer)
        });
        beside && !named(&self.train.freeze) && stage.learns(name)
    }
}

/// How a request changes what an encoder of the model that is trained reads, if it does.
fn changes(encoder: KeptOf, request: &Request) -> Option<&'static str> {
    if request.by != By::Student {
        return None;
    }
    match (encoder, &request.what) {
        (
            KeptOf::Text,
            What::Text(
                TextForm::Masked(_)
                | TextForm::MaskedLeftToRight(_)
                | TextForm::MaskedPhrases(_)
                | TextForm::MaskedJoined(..),
            ),
        ) => Some("hides words at random, other ones each time"),
        (KeptOf::Text, What::Text(TextForm::Side(sides, _))) => {
            let changes = sides.mixup || sides.mask.is_some();
            changes.then_some("joins texts at random or hides their words, otherwise each time")
        }
        (KeptOf::Text, What::Text(TextForm::LeftToRight)) => {
            Some("reads texts from left to right, after a beginning that is drawn")
        }
        (KeptOf::Image, What::Image(ImageForm::MaskedPatches(_))) => {
            Some("hides patches at random, other ones each time")
        }
        (KeptOf::Image, What::Image(ImageForm::MaskedRegions(_))) => {
            Some("hides regions at random, other ones each time")
        }
        (KeptOf::Image, What::Image(ImageForm::SecondView)) => {
            Some("reads second views, which are drawn")
        }
        _ => None,
    }
}
