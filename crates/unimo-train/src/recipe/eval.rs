//! `[eval]`: how a model is evaluated.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unimo_batch::registry::Beside;
use unimo_batch::{ConfigError, config};
use unimo_encoders::backbone::BackboneConfig;
use unimo_eval::RetrievalConfig;
use unimo_objectives::ObjectivesConfig;
use unimo_objectives::generation::GenerationConfig;

use crate::recipe::outside::{OutsideSections, REGISTRY};

/// `[eval]`.
// The derived reader and writer know no registered evaluators; those below do, and are the ones that serde calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct EvalConfig {
    /// Number of held-out images, drawn at random if there are more; 0: all.
    #[serde(default)]
    pub limit: usize,
    /// What evaluations before the last step score: `auto`, `contrast`, `part` or `full`.
    #[serde(default)]
    pub during: During,
    /// The cost that they may have, as a share of the passes that training makes between two evaluations.
    #[serde(default = "default_share")]
    pub share: f64,
    /// Gigabytes of image and text features that are kept at once; the others are encoded again, block by block.
    #[serde(default = "default_memory")]
    pub memory_gb: f64,
    /// Texts or images per forward pass of an encoder, and pairs per forward pass of the cross-modal encoder.
    #[serde(default = "default_batch")]
    pub batch_size: usize,
    /// Number of candidates, in each direction, that the contrastive score selects for the matching score; 0: none is re-ranked.
    #[serde(default = "default_shortlist")]
    pub shortlist: usize,
    /// Whether what is on the list of one direction is re-ranked in the other too, as BridgeTower and ManagerTower do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub united_shortlists: bool,
    /// Whether the matching score also ranks every text against every image.
    #[serde(default)]
    pub full_itm: bool,
    /// Images shown in the report.
    #[serde(default = "default_gallery")]
    pub gallery: usize,
    /// The number that selects the best weights of a run, such as `prompts.top1`; absent: the mean of R@1, R@5 and R@10 in both
    /// directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// Zero-shot classification by prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PromptsConfig>,
    /// Captions that the model writes for held-out images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<CaptionsConfig>,
    /// The objectives' losses on held-out samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub losses: Option<LossesConfig>,
    /// Words of held-out captions from the image alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_words: Option<KeyWordsConfig>,
    /// Hidden patches of held-out images, filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patches: Option<PatchesConfig>,
    /// What the matching score of an expression looks at: weakly supervised grounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_cam: Option<GradCamConfig>,
    /// Translations of held-out texts, found by the text encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitext: Option<BitextConfig>,
    /// Known and new classes of held-out images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_to_novel: Option<BaseToNovelConfig>,
    /// Held-out stories, found among those that differ by their order or by one attribute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stories: Option<StoriesEvalConfig>,
    /// An agent's decisions on held-out episodes, and where it arrives when it walks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walks: Option<WalksEvalConfig>,
    /// The evaluators of other crates.
    #[serde(flatten, skip_deserializing)]
    pub outside: OutsideSections,
}

impl Serialize for EvalConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        EvalConfig::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for EvalConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Vec::new();
        let mut config = EvalConfig::deserialize(Beside {
            deserializer,
            registry: &REGISTRY,
            found: &mut found,
        })?;
        config.outside = OutsideSections::read(found)?;
        Ok(config)
    }
}

fn default_share() -> f64 {
    0.05
}

fn default_memory() -> f64 {
    2.0
}

fn default_batch() -> usize {
    64
}

fn default_shortlist() -> usize {
    128
}

fn default_gallery() -> usize {
    12
}

impl Default for EvalConfig {
    /// All held-out images, with ALBEF's shortlist of 128 for the matching score.
    fn default() -> Self {
        Self {
            limit: 0,
            during: During::default(),
            share: default_share(),
            memory_gb: default_memory(),
            batch_size: default_batch(),
            shortlist: default_shortlist(),
            full_itm: false,
            united_shortlists: false,
            gallery: default_gallery(),
            select: None,
            prompts: None,
            captions: None,
            losses: None,
            key_words: None,
            patches: None,
            grad_cam: None,
            bitext: None,
            base_to_novel: None,
            stories: None,
            walks: None,
            outside: OutsideSections::default(),
        }
    }
}

impl EvalConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        config::positive("batch_size", self.batch_size)?;
        ConfigError::unless(
            self.share > 0.0 && self.share <= 1.0,
            "share",
            self.share,
            "must be above 0 and at most 1",
        )?;
        config::above_zero("memory_gb", self.memory_gb)?;
        if let Some(prompts) = &self.prompts {
            prompts.validate().map_err(|e| e.within("prompts"))?;
        }
        if let Some(captions) = &self.captions {
            captions
                .search
                .validate()
                .map_err(|e| e.within("search").within("captions"))?;
        }
        if let Some(stories) = &self.stories {
            ConfigError::unless(
                stories.pool >= 2,
                "stories.pool",
                stories.pool,
                "must be at least 2: one candidate is always found",
            )?;
        }
        if let Some(walks) = &self.walks {
            walks.validate().map_err(|e| e.within("walks"))?;
        }
        self.outside.validate()
    }

    /// The settings of the retrieval evaluation.
    pub fn retrieval(&self) -> RetrievalConfig {
        RetrievalConfig {
            shortlist: self.shortlist,
            united: self.united_shortlists,
            full_itm: self.full_itm,
            batch: self.batch_size,
            top: 5,
        }
    }
}

/// `eval.during`: what an evaluation during training scores. The one after the last step scores everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum During {
    /// `full` if it costs no more than `eval.share`; else `contrast` if the model has it, else `part`.
    #[default]
    Auto,
    /// The contrast alone, on as many held-out images as `eval.share` allows.
    Contrast,
    /// All methods, on as many held-out images as `eval.share` allows.
    Part,
    /// All methods on all images, whatever the cost.
    Full,
}

/// `[eval.captions]`: captions of held-out images, scored against those that people wrote. It needs `[objectives.lm]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionsConfig {
    /// How captions are searched.
    pub search: GenerationConfig,
    /// Number of images, drawn at random if there are more; 0: all that `eval.limit` leaves.
    pub limit: usize,
}

/// `[eval.losses]`: the losses of the objectives on held-out samples, the same samples with the same words hidden at every evaluation.
/// Before the last step they cost at most `eval.share` of the samples that are trained on between two evaluations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossesConfig {
    /// Number of samples; 0: as many as `eval.share` allows.
    pub limit: usize,
    /// Whether each image also meets the text of another sample, which says what a loss has of the other modality: numbers named
    /// `losses.mismatched.NAME`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mismatched: bool,
}

/// `[eval.key_words]`: how well the words of held-out captions are predicted from the image alone, and which words the teacher proposes. It
/// needs `[objectives.psl]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyWordsConfig {
    /// The words that are looked for, each a token of the vocabulary; none: all tokens of which enough images have it and enough have not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// Number of images; 0: all that `eval.limit` leaves.
    pub limit: usize,
}

/// `[eval.patches]`: how well hidden patches of held-out images are filled in, with pictures for the report. It needs `[objectives.mim]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PatchesConfig {
    /// Number of images; 0: all that `eval.limit` leaves.
    pub limit: usize,
    /// Number of images that the report shows.
    pub shown: usize,
}

impl Default for PatchesConfig {
    fn default() -> Self {
        Self {
            limit: 256,
            shown: 12,
        }
    }
}

/// `[eval.grad_cam]`: where the matching score of a held-out expression comes from, against the box that it refers to (ALBEF). It needs
/// `[objectives.itm]` or `[objectives.ranking]`, two streams and images of patches.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GradCamConfig {
    /// The layer of the cross-modal encoder whose attention is read, counted from 1; absent: the middle one, as the third of six in ALBEF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// The boxes that one is chosen from.
    pub boxes: Candidates,
}

/// `[eval.bitext]`: whether the nearest of the held-out texts in another language is the translation (Tatoeba, InfoXLM). A text is the mean
/// of its positions, or its class token, after one layer of the text encoder. The data must have held-out translations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BitextConfig {
    /// The layer of the text encoder that is compared, counted from 1; absent: two thirds up, as the eighth of twelve in InfoXLM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// What a text is after that layer.
    #[serde(skip_serializing_if = "Pooling::is_default")]
    pub pooling: Pooling,
    /// Number of pairs of each two languages, drawn at random if there are more; 0: all.
    pub limit: usize,
}

/// `[eval.base_to_novel]`: how well held-out images are told, those of the labels among the labels (base) and those of other classes among
/// these (novel), with the harmonic mean of both, and CLIP as it is beside them. It needs `[objectives.prompts]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BaseToNovelConfig {
    /// The new classes; none: every class of the training data that is no label.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub novel: Vec<String>,
}

/// `[eval.stories]`: whether a held-out story told again is nearer to its first telling than to tellings in another order, with one attribute
/// changed, and of other stories. The model must read stories; `eval.limit` does not count for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoriesEvalConfig {
    /// Candidates of a query, at least: stories are put into pools until each has so many.
    pub pool: usize,
    /// Stories whose alignments the report shows.
    pub examples: usize,
}

impl Default for StoriesEvalConfig {
    fn default() -> Self {
        Self {
            pool: 200,
            examples: 2,
        }
    }
}

/// `[eval.walks]`: what an agent decides of recorded held-out episodes, and where it arrives when it walks by itself in generated houses, told its own
/// instruction or that of another episode. It needs `[model.map]` and `[objectives.walk]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WalksEvalConfig {
    /// Number of recorded episodes; 0: all that `eval.limit` leaves.
    pub limit: usize,
    /// Number of episodes that are walked in a closed loop, if the data is generated houses; 0: none.
    pub walked: usize,
    /// Episodes that are read at the same time.
    pub batch_size: usize,
    /// The progress above which an agent stops; 0.8 in WS-MGMap.
    pub stop: f64,
    /// Cells around the path within which attention counts as near it.
    pub radius: f32,
    /// Walked episodes that the report draws.
    pub examples: usize,
}

impl Default for WalksEvalConfig {
    fn default() -> Self {
        Self {
            limit: 0,
            walked: 50,
            batch_size: 8,
            stop: 0.8,
            radius: 3.0,
            examples: 6,
        }
    }
}

impl WalksEvalConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        config::positive("batch_size", self.batch_size)?;
        ConfigError::unless(
            self.stop > -1.0 && self.stop < 1.0,
            "stop",
            self.stop,
            "must be above -1 and below 1, as the progress is",
        )?;
        ConfigError::unless(
            self.radius >= 0.0 && self.radius.is_finite(),
            "radius",
            self.radius,
            "must be a number of cells, 0 or more",
        )
    }
}

/// `eval.bitext.pooling`: what a text is after a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean of its positions (Tatoeba).
    #[default]
    Mean,
    /// Its class token, which `objectives.xlco` contrasts.
    Class,
}

impl Pooling {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl BitextConfig {
    /// The layer that is compared in a text encoder of so many layers, counted from 1.
    pub(crate) fn layer_of(&self, layers: usize) -> usize {
        self.layer.unwrap_or((2 * layers).div_ceil(3))
    }

    /// Checks the layer against the recipe's model.
    pub(crate) fn validate_with(&self, model: &BackboneConfig) -> Result<(), ConfigError> {
        let layers = model.text.layers;
        let layer = self.layer_of(layers);
        ConfigError::unless(
            (1..=layers).contains(&layer),
            "layer",
            layer,
            format_args!("must be 1 to model.text.layers = {layers}"),
        )
    }
}

/// `eval.grad_cam.boxes`: the boxes that one is chosen from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Candidates {
    /// Those that the data knows of the image, the right one among them ("ground-truth proposals").
    #[default]
    Source,
    /// All boxes whose edges are edges of patches; of more than 16 x 16 patches at 17 edges a side. Nothing is known of the image.
    Sliding,
}

impl GradCamConfig {
    /// The layer that is read in a cross-modal encoder of so many layers, counted from 1.
    pub(crate) fn layer_of(&self, layers: usize) -> usize {
        self.layer.unwrap_or(layers.div_ceil(2))
    }

    /// Checks the values against the recipe's model and objectives.
    pub(crate) fn validate_with(
        &self,
        model: &BackboneConfig,
        objectives: &ObjectivesConfig,
    ) -> Result<(), ConfigError> {
        let needs = [
            (
                objectives.scores_pairs(),
                "needs a matching score, [objectives.itm] or [objectives.ranking]",
            ),
            (
                model.fusion.is_some(),
                "needs a cross-modal encoder of two streams, [model.fusion]: one stream has no attention of one to the other",
            ),
            (
                model.image.is_some(),
                "needs images of patches, [model.image]: a map over regions has no pixels",
            ),
        ];
        for (there, reason) in needs {
            ConfigError::of_section(there, reason)?;
        }
        let layers = model.fusion.as_ref().map_or(0, |fusion| fusion.layers);
        let layer = self.layer_of(layers);
        ConfigError::unless(
            (1..=layers).contains(&layer),
            "layer",
            layer,
            format_args!("must be 1 to {layers}, the layers of [model.fusion]"),
        )
    }
}

/// The place of a class's name in a template.
pub(crate) const PLACE: &str = "{}";

/// `[eval.prompts]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptsConfig {
    /// A folder with one folder of images per class. The folder's name, with `_` read as a space, is the name of the class.
    pub folder: PathBuf,
    /// Texts with `{}` in place of the class's name.
    pub templates: Vec<String>,
}

impl PromptsConfig {
    /// Checks every value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            !self.templates.is_empty(),
            "templates",
            "[]",
            "name at least one, such as \"a photo of a {}.\"",
        )?;
        for template in &self.templates {
            ConfigError::unless(
                template.matches(PLACE).count() == 1,
                "templates",
                format_args!("\"{template}\""),
                "must have one {} where the class's name stands",
            )?;
        }
        Ok(())
    }
}
