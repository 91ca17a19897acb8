//! The card of an exported model: `README.md` as the Hugging Face hub shows it, with what its header asks.
//!
//! It says what is known and nothing else. What the files do not tell is left out, or said to be unknown. Folders of the machine that
//! trained the model are not named.

mod parts;
mod tables;

use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value};
use unimo_data::DataConfig;
use unimo_data::sources::AnySource;
use unimo_encoders::public::read_json;
use unimo_objectives::ObjectivesConfig;
use unimo_report::record::{EvalRecord, Figure};

use self::parts::{family, image_size, parts};
use self::tables::{grouped, numbers, retrieval, spelled};
use crate::hub;
use crate::pretrained::NetworkConfig;
use crate::recipe::Recipe;
use crate::recipe::init::InitConfig;

/// What reads an export besides unimo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readers {
    /// transformers knows the model, as this class.
    Transformers(String),
    /// transformers reads it by the code beside it.
    Code,
    /// unimo alone.
    Unimo,
}

/// All that a card tells of.
pub struct Card<'a> {
    /// The name of the folder.
    pub name: String,
    /// The part that was exported, if it is not the whole model: `text`, `image`.
    pub part: Option<&'static str>,
    /// The licence, by its SPDX identifier.
    pub licence: Option<&'a str>,
    /// What it was exported from, if it is no run.
    pub source: String,
    /// The run that it was trained in.
    pub run: Option<Trained<'a>>,
    /// Sizes of the model.
    pub config: &'a NetworkConfig,
    /// Numbers in its weights.
    pub parameters: usize,
    /// How they are stored, as `--dtype` has it.
    pub dtype: &'static str,
    /// What reads it.
    pub readers: Readers,
    /// Whether there are a tokenizer and a preparation of images beside the weights.
    pub reads: (bool, bool),
    /// The longest text in tokens.
    pub longest: Option<u64>,
    /// Labels of its task's head.
    pub labels: Option<usize>,
}

/// The run of an exported model.
pub struct Trained<'a> {
    /// Its recipe.
    pub recipe: &'a Recipe,
    /// The step of the weights.
    pub step: u64,
    /// `run.json`.
    pub facts: &'a Map<String, Value>,
    /// Its evaluations, during training and after it.
    pub evaluations: &'a [EvalRecord],
    /// Numbers of its task with their intervals, if they are of these weights.
    pub figures: &'a [Figure],
}

/// The licence as the hub's header spells it.
///
/// # Errors
///
/// It is no identifier of SPDX's list.
pub fn licence(given: &str) -> Result<String, String> {
    match spdx::license_id(given) {
        Some(id) => Ok(id.name.to_lowercase()),
        None => Err("must be one identifier of https://spdx.org/licenses, such as MIT, Apache-2.0, CC-BY-4.0 or CC-BY-NC-4.0".to_owned()),
    }
}

impl Card<'_> {
    /// The card.
    pub fn text(&self) -> String {
        let mut out = self.header();
        let _ = write!(out, "# {}\n\n", self.name);
        for part in [
            self.what(),
            self.data(),
            self.recipe(),
            self.scores(),
            self.uses(),
            self.limits(),
        ] {
            out.push_str(&part);
            out.push('\n');
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }

    fn objectives(&self) -> Option<&ObjectivesConfig> {
        match self.config {
            NetworkConfig::Pair { objectives, .. } if self.part.is_none() => Some(objectives),
            _ => None,
        }
    }

    fn has(&self, head: &str) -> bool {
        let objectives = self.objectives();
        objectives.is_some_and(|given| given.given().contains(&head))
    }

    /// The header that the hub reads.
    fn header(&self) -> String {
        let mut out = "---\n".to_owned();
        if let Some(licence) = self.licence {
            let _ = writeln!(out, "license: {licence}");
        }
        let language = self.run.as_ref().and_then(|run| language(&run.recipe.data));
        if let Some(language) = language {
            let _ = writeln!(out, "language:\n- {language}");
        }
        let library = match self.readers {
            Readers::Unimo => "unimo",
            Readers::Transformers(_) | Readers::Code => "transformers",
        };
        let _ = writeln!(
            out,
            "library_name: {library}\npipeline_tag: {}",
            self.task()
        );
        out.push_str("tags:\n- unimo\n");
        for tag in self.tags() {
            let _ = writeln!(out, "- {tag}");
        }
        if let Some(datasets) = self.run.as_ref().and_then(|run| dataset(&run.recipe.data)) {
            let _ = writeln!(out, "datasets:\n- {datasets}");
        }
        out.push_str("---\n\n");
        out
    }

    /// The hub's name of what the model is for.
    fn task(&self) -> &'static str {
        for (head, task) in [
            ("vqa", "visual-question-answering"),
            ("lm", "image-to-text"),
            ("classes", "image-classification"),
            ("sentences", "text-classification"),
        ] {
            if self.has(head) {
                return task;
            }
        }
        match (self.config, self.part) {
            (NetworkConfig::Clip(_), None) => "zero-shot-image-classification",
            (NetworkConfig::Image(_), _) | (_, Some("image")) => "image-feature-extraction",
            _ => "feature-extraction",
        }
    }

    fn tags(&self) -> Vec<&'static str> {
        match self.config {
            NetworkConfig::Pair { model, objectives } if self.part.is_none() => {
                let family = family(model, objectives);
                let pairs = model.reads_images().then_some("vision-language");
                family
                    .map(|(_, tag)| tag)
                    .into_iter()
                    .chain(pairs)
                    .collect()
            }
            NetworkConfig::Clip(_) if self.part.is_none() => vec!["clip", "vision-language"],
            _ => Vec::new(),
        }
    }

    /// What it is.
    fn what(&self) -> String {
        let part = match self.part {
            Some(part) => format!("The {part} encoder of a model"),
            None => "A model".to_owned(),
        };
        let trained = match &self.run {
            Some(run) => format!(
                "{part} trained with [unimo](https://github.com/unimo-rs/unimo), after {} of {} steps of the recipe \"{}\".",
                run.step,
                run.recipe.train.steps,
                run.recipe.description.trim_end_matches('.')
            ),
            None => format!(
                "{part} written by [unimo](https://github.com/unimo-rs/unimo) from `{}`.",
                self.source
            ),
        };
        let mut out = format!("{trained}\n\n");
        for line in parts(self.config, self.part) {
            let _ = writeln!(out, "- {line}");
        }
        if let Some(objectives) = self.objectives() {
            let each = objectives.each();
            let heads: Vec<String> = each
                .into_iter()
                .map(|(key, settings)| format!("`{key}` ({})", settings.title()))
                .collect();
            let _ = writeln!(out, "- heads: {}", heads.join(", "));
        }
        if let Some(labels) = self.labels {
            let _ = writeln!(
                out,
                "- {labels} labels, in the order of the head: `labels.json`"
            );
        }
        let _ = writeln!(
            out,
            "- {} parameters, stored as {}",
            grouped(self.parameters),
            self.dtype
        );
        out
    }

    /// What it was trained on.
    fn data(&self) -> String {
        let mut out = "## Data\n\n".to_owned();
        let Some(run) = &self.run else {
            out.push_str(
                "What it was trained on is not told by the files that it was exported from.\n",
            );
            return out;
        };
        let said = run.facts.get("data").and_then(Value::as_str);
        match said {
            Some(said) => {
                let said = without_folders(said);
                let _ = writeln!(out, "{}.", sentence(said.trim_end_matches('.')));
            }
            None => {
                let _ = writeln!(out, "Source `{}`.", run.recipe.data.source.name());
            }
        }
        for stage in &run.recipe.stage {
            if let Some(data) = &stage.data {
                let _ = writeln!(
                    out,
                    "Stage \"{}\" has data of its own: source `{}`.",
                    stage.name,
                    data.source.name()
                );
            }
        }
        out
    }

    /// What decided the training.
    fn recipe(&self) -> String {
        let Some(Trained { recipe, facts, .. }) = &self.run else {
            return String::new();
        };
        let train = &recipe.train;
        let mut rows = vec![
            ("steps", train.steps.to_string()),
            ("samples a step", train.batch_size.to_string()),
            (
                "optimiser",
                format!(
                    "AdamW, rate {:e}, weight decay {}, beta {} and {}",
                    train.optimizer.lr,
                    train.optimizer.weight_decay,
                    train.optimizer.beta1,
                    train.optimizer.beta2
                ),
            ),
            (
                "schedule",
                format!(
                    "warm-up {}, then {}",
                    train.schedule.warmup,
                    spelled(&train.schedule.decay)
                ),
            ),
            ("computed in", spelled(&train.dtype)),
            ("seed", recipe.seed.to_string()),
        ];
        let each = recipe.objectives.each().into_iter();
        let losses: Vec<String> = each
            .map(|(key, settings)| format!("`{key}` x {}", settings.weight()))
            .collect();
        rows.push(("losses", losses.join(", ")));
        if let Some(ema) = train.ema {
            rows.push(("weights", format!("moving average with decay {ema}")));
        }
        if !recipe.stage.is_empty() {
            let each = recipe.stage.iter();
            let stages: Vec<String> = each
                .map(|stage| format!("{} ({:.0}%)", stage.name, 100.0 * stage.share))
                .collect();
            rows.push(("stages", stages.join(", ")));
        }
        if let Some(init) = &recipe.init {
            rows.push(("starts from", origins(init)));
        }
        if !train.freeze.is_empty() {
            rows.push(("frozen", train.freeze.join(", ")));
        }
        if let Some(lora) = &train.lora {
            let mut value = format!(
                "adapters of rank {} on {}",
                lora.rank,
                lora.layers.join(", ")
            );
            if !lora.also.is_empty() {
                value += &format!("; {} learned whole", lora.also.join(", "));
            }
            rows.push(("LoRA", value));
        }
        if let Some(version) = facts.get("versions").and_then(|all| all["unimo"].as_str()) {
            rows.push(("unimo", version.to_owned()));
        }
        let mut out = "## Recipe\n\n| | |\n|---|---|\n".to_owned();
        for (name, value) in rows {
            let _ = writeln!(out, "| {name} | {} |", value.replace('|', "\\|"));
        }
        out
    }

    /// How good these weights are.
    fn scores(&self) -> String {
        let mut out = "## Scores\n\n".to_owned();
        let Some(run) = &self.run else {
            out.push_str("None are told by the files that it was exported from.\n");
            return out;
        };
        // The newest of each kind. What `unimo eval` found again is told once.
        let mut newest: Vec<&EvalRecord> = Vec::new();
        for record in run.evaluations.iter().filter(|e| e.step == run.step) {
            newest.retain(|other| {
                (&other.evaluator, &other.split) != (&record.evaluator, &record.split)
                    && !is_told_by(record, other)
            });
            newest.push(record);
        }
        if newest.is_empty() {
            out.push_str("These weights were not evaluated.\n");
            return out;
        }
        out.push_str(
            "In per cent. In brackets: the 95% interval, where it is known. Chance is what random ranking or the best constant answer \
             reaches.\n",
        );
        for record in newest {
            out.push('\n');
            if record.is_retrieval() {
                retrieval(&mut out, record);
            } else {
                numbers(&mut out, record, run.figures);
            }
        }
        out
    }

    /// How it is used, in three tools.
    fn uses(&self) -> String {
        let mut out = "## Use\n\n### unimo\n\n```sh\n".to_owned();
        for line in self.commands() {
            let _ = writeln!(out, "{line}");
        }
        out.push_str("```\n\n### transformers\n\n");
        match &self.readers {
            Readers::Unimo => out.push_str(
                "transformers does not know this model, and no PyTorch code is beside it, since that could not express it.\n",
            ),
            Readers::Transformers(class) => self.in_python(&mut out, class, ""),
            Readers::Code => self.in_python(&mut out, "AutoModel", ", trust_remote_code=True"),
        }
        let order = match self.readers {
            Readers::Transformers(_) => "matrices of linear layers are `[out, in]`",
            Readers::Code | Readers::Unimo => "matrices of linear layers are `[in, out]`",
        };
        let _ = write!(
            out,
            "\n### safetensors\n\n```python\nfrom safetensors.torch import load_file\n\n\
             weights = load_file(\"{}/model.safetensors\")  # tensors by name; {order}\n```\n",
            self.name
        );
        out
    }

    fn commands(&self) -> Vec<String> {
        let name = &self.name;
        let mut lines = Vec::new();
        let (texts, images) = self.reads;
        let both = texts && images;
        let clip = matches!(self.config, NetworkConfig::Clip(_)) && self.part.is_none();
        if self.has("itm") && both {
            lines.push(format!("unimo score {name} --data pairs.jsonl"));
        }
        if (self.has("itc") || self.has("itm") || clip) && both {
            lines.push(format!(
                "unimo search {name} --images photos --text \"a map\""
            ));
        }
        if self.has("mlm") && both {
            lines.push(format!(
                "unimo fill-mask {name} --image photo.jpg --text \"a <mask> on a table\""
            ));
        }
        if self.has("lm") && both {
            lines.push(format!("unimo caption {name} photos"));
        }
        if self.labels.is_some() {
            lines.push(format!(
                "unimo predict {name} --data questions.jsonl --out answers.jsonl"
            ));
        }
        let alone = self.objectives().is_none();
        if (alone || self.has("itc")) && images {
            lines.push(format!(
                "unimo embed {name} --images photos --out photos.safetensors"
            ));
        } else if (alone || self.has("itc")) && texts {
            lines.push(format!(
                "unimo embed {name} --texts texts.txt --out texts.safetensors"
            ));
        }
        if lines.is_empty() {
            lines.push(format!("unimo eval {name} --data pairs.jsonl"));
        }
        lines
    }

    fn in_python(&self, out: &mut String, class: &str, more: &str) {
        let (texts, images) = self.reads;
        let name = &self.name;
        let mut imports = vec![class];
        imports.extend(texts.then_some("AutoTokenizer"));
        imports.extend(images.then_some("AutoImageProcessor"));
        let _ = write!(
            out,
            "```python\nfrom transformers import {}\n\nmodel = {class}.from_pretrained(\"{name}\"{more})\n",
            imports.join(", ")
        );
        let mut inputs = Vec::new();
        if texts {
            let _ = write!(
                out,
                "tokenizer = AutoTokenizer.from_pretrained(\"{name}\"{more})\n\
                 words = tokenizer([\"a map\"], padding=True, truncation=True, return_tensors=\"pt\")\n"
            );
            inputs.push("input_ids=words[\"input_ids\"], attention_mask=words[\"attention_mask\"]");
        }
        if images {
            let _ = write!(
                out,
                "processor = AutoImageProcessor.from_pretrained(\"{name}\"{more})\n\
                 pixels = processor([image], return_tensors=\"pt\")[\"pixel_values\"]  # image: a PIL image in RGB\n"
            );
            inputs.push("pixel_values=pixels");
        }
        let _ = write!(out, "outputs = model({})\n```\n", inputs.join(", "));
        if self.readers == Readers::Code {
            out.push_str(
                "\n`outputs` is described in `modeling_unimo.py`, which is what `trust_remote_code` runs.\n",
            );
        }
    }

    /// What it cannot do, and what is not known of it.
    fn limits(&self) -> String {
        let mut lines = Vec::new();
        let (texts, images) = self.reads;
        if let (Some(longest), true) = (self.longest, texts) {
            lines.push(format!(
                "Texts of more than {longest} tokens are cut at their end."
            ));
        }
        if let (Some(size), true) = (image_size(self.config), images) {
            lines.push(format!(
                "Every image is brought to {size} x {size} pixels; what is smaller in it than a few of these is not seen."
            ));
        }
        if let Some(run) = &self.run {
            if matches!(run.recipe.data.chosen(), Ok(AnySource::Scenes(_))) {
                lines.push(
                    "It was trained on generated scenes of coloured shapes, and knows nothing of photographs."
                        .to_owned(),
                );
            } else if language(&run.recipe.data).is_none() {
                lines.push(
                    "Which languages it knows follows from its data, whose language no file of the run says."
                        .to_owned(),
                );
            }
            lines.push(
                "The scores are of held-out samples of the same data, and say little of other data."
                    .to_owned(),
            );
        }
        lines.push(
            "What is unfair or wrong in its data is learned with the rest. This was not measured."
                .to_owned(),
        );
        if self.licence.is_none() {
            lines.push("No licence was given when it was exported.".to_owned());
        }
        let mut out = "## Limits\n\n".to_owned();
        for line in lines {
            let _ = writeln!(out, "- {line}");
        }
        out
    }
}

/// The language of published data sets; of a user's own files nothing says it.
fn language(data: &DataConfig) -> Option<&'static str> {
    match data.chosen().ok()? {
        AnySource::Scenes(_)
        | AnySource::Stories(_)
        | AnySource::Houses(_)
        | AnySource::Coco(_)
        | AnySource::Karpathy(_)
        | AnySource::VisualGenome(_)
        | AnySource::Nlvr(_)
        | AnySource::SnliVe(_)
        | AnySource::Refcoco(_)
        | AnySource::Conceptual(_)
        | AnySource::Glue(_) => Some("en"),
        AnySource::Pairs(_)
        | AnySource::Interleaved(_)
        | AnySource::Episodes(_)
        | AnySource::Vqa(_)
        | AnySource::Images(_)
        | AnySource::Texts(_)
        | AnySource::Parallel(_)
        | AnySource::Webdataset(_)
        | AnySource::Parquet(_)
        | AnySource::Mixture(_)
        | AnySource::Outside(_) => None,
    }
}

/// The hub's name of a data set, where a source is always of one.
fn dataset(data: &DataConfig) -> Option<&'static str> {
    match data.chosen().ok()? {
        AnySource::Glue(_) => Some("nyu-mll/glue"),
        _ => None,
    }
}

/// A text with a capital at its begin, unless it begins with the name of a file.
fn sentence(text: &str) -> String {
    let word = text.split(' ').next().unwrap_or_default();
    let is_word = word
        .trim_end_matches([',', ':', ';'])
        .chars()
        .all(char::is_alphabetic);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if is_word => first.to_uppercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

/// Whether two records say the same numbers of the same samples.
fn is_told_by(record: &EvalRecord, other: &EvalRecord) -> bool {
    record.evaluator == other.evaluator
        && (record.images, record.texts) == (other.images, other.texts)
        && record.retrieval == other.retrieval
        && record.scalars == other.scalars
}

/// A text without the folders of the paths in it.
fn without_folders(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let is_path = word.contains('/') && !word.contains("://");
        let (inner, end) = match word.char_indices().rfind(|(_, c)| !",;:.)".contains(*c)) {
            Some((at, c)) => word.split_at(at + c.len_utf8()),
            None => (word, ""),
        };
        match inner.trim_end_matches('/').rsplit_once('/') {
            Some((_, last)) if is_path && !last.is_empty() => format!("{last}{end}"),
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What a model started from. Of a path its last part is told, which says what it is and not where it was.
fn origins(init: &InitConfig) -> String {
    let parts = [
        ("", &init.whole),
        ("text encoder of ", &init.text),
        ("image encoder of ", &init.image),
        ("single stream of ", &init.joint),
    ];
    let told = parts.into_iter().filter_map(|(what, given)| {
        let given = given.as_ref()?;
        let (_, place) = given.split_once(':').unwrap_or(("", given));
        let path = Path::new(place);
        if !path.exists() && hub::is_id(place) {
            return Some(format!("{what}{place}"));
        }
        let name = path.file_name()?.to_string_lossy().into_owned();
        // What transformers wrote there: a folder may be called anything.
        let config = read_json(&path.join("config.json")).ok();
        let id = config.and_then(|config| Some(config["_name_or_path"].as_str()?.to_owned()));
        let name = match id.filter(|id| hub::is_id(id)) {
            Some(id) => format!("{name} (by its config.json: {id})"),
            None => name,
        };
        Some(format!("{what}{name}"))
    });
    told.collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_a_machine_are_not_named() {
        for (text, without) in [
            (
                "GLUE's sst2 in /home/me/glue/SST-2: 3 rows",
                "GLUE's sst2 in SST-2: 3 rows",
            ),
            ("a.jsonl, ../b/c.jsonl; 3/", "a.jsonl, c.jsonl; 3/"),
            ("shards of s3://bucket/name", "shards of s3://bucket/name"),
            ("(/data/x.tar), 1 / 2", "x.tar), 1 / 2"),
        ] {
            assert_eq!(without_folders(text), without);
        }
    }

    #[test]
    fn a_sentence_begins_with_a_capital_and_a_file_with_its_own_letter() {
        for (text, told) in [
            ("captions.jsonl: 30 pairs", "captions.jsonl: 30 pairs"),
            ("generated scenes, 3", "Generated scenes, 3"),
            ("shards: 3", "Shards: 3"),
        ] {
            assert_eq!(sentence(text), told);
        }
    }

    #[test]
    fn what_it_starts_from_is_named_without_folders() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("model");
        std::fs::create_dir(&at).unwrap();
        let of = |text: &str| {
            origins(&InitConfig {
                text: Some(text.to_owned()),
                ..InitConfig::default()
            })
        };
        assert_eq!(of(&at.display().to_string()), "text encoder of model");
        std::fs::write(at.join("config.json"), r#"{"_name_or_path": "owner/mini"}"#).unwrap();
        assert_eq!(
            of(&at.display().to_string()),
            "text encoder of model (by its config.json: owner/mini)"
        );
        assert_eq!(of("owner/name"), "text encoder of owner/name");
        assert_eq!(of("../gone/of/mine"), "text encoder of mine");
    }

    #[test]
    fn licences_are_of_the_list() {
        assert_eq!(licence("Apache-2.0").as_deref(), Ok("apache-2.0"));
        for wrong in ["Apache 2", "MIT OR Apache-2.0", ""] {
            assert!(licence(wrong).is_err(), "{wrong}");
        }
    }
}
