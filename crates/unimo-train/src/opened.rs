//! A trained model with data: what `eval` and `predict` work on. The model is a run, an export, or a public checkpoint with the head of
//! a task.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use unimo_batch::ConfigError;
use unimo_core::world::World;
use unimo_data::{
    ConceptReader, Concepts, PatchCodes, RegionsConfig, SkipList, Source, Split, TaskSet,
    TextTokenizer, TokenizerConfig, processor, published,
};
use unimo_encoders::public::folder_of;

use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::evaluators::Weights;
use crate::first_captions;
use crate::given::{self, Given};
use crate::model::Model;
use crate::prepare;
use crate::pretrained::{self, Network, NetworkConfig};
use crate::recipe::{LabelsConfig, Overrides, Recipe, Task, TaskConfig};
use crate::resuming;
use crate::run::{CONCEPTS, RunFolder};
use crate::tasks::labels::{self, Labels};
use crate::tasks::{self, Judged, Targets};
use crate::trained::{chosen_step, load_model};

/// Settings of `unimo eval` for a run's weights.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The device that it computes on.
    pub device: DeviceChoice,
    /// The checkpoint's step; `None`: the best, or the newest if nothing was evaluated.
    pub step: Option<u64>,
    /// Number of images, drawn at random if there are more; `None`: as the recipe says; 0: all.
    pub limit: Option<usize>,
    /// Whether the matching head also scores every text with every image.
    pub full_itm: bool,
    /// Candidates of each query that the matching head ranks again; `None`: as the recipe says.
    pub shortlist: Option<usize>,
    /// Whether a pair on the list of one direction is ranked again in the other too.
    pub united_shortlists: bool,
    /// Number of parts of the images, one after the other, whose mean recall is reported beside the whole (COCO 1K: 5).
    pub folds: Option<usize>,
    /// A list of pairs to use instead of the recipe's data.
    pub data: Option<PathBuf>,
    /// Features of its images' regions, if the model reads regions from files.
    pub regions: Option<PathBuf>,
    /// Changes of the run's `[data]`, such as `data.vqa.val.questions=FILE`, and of `[eval.grad_cam]` and
    /// `[eval.bitext]`.
    pub set: Vec<String>,
    /// Whether a list need not have the column of labels that the run's data has, and images need not lie in folders of classes.
    pub unlabelled: bool,
    /// The labels of the task, for a checkpoint that comes without them.
    pub labels: Option<PathBuf>,
    /// The split; `None`: the held-out one of the run's data, or all of other data.
    pub split: Option<Split>,
    /// The ranks that share the work.
    pub world: World,
}

/// A trained model with data.
pub(crate) struct Opened {
    /// Its folder or file.
    pub path: PathBuf,
    /// The run, if it is one.
    pub run: Option<RunFolder>,
    pub recipe: Recipe,
    pub source: Arc<dyn Source>,
    pub tokenizer: Arc<TextTokenizer>,
    pub concepts: Option<ConceptReader>,
    pub codes: Option<Arc<PatchCodes>>,
    labels: Option<Labels>,
    /// The step of a run's weights, else 0.
    pub step: u64,
    pub model: Model,
    pub device: Device,
    pub world: World,
}

/// A model before its data is opened.
struct Named {
    path: PathBuf,
    run: Option<RunFolder>,
    recipe: Recipe,
    tokenizer: TextTokenizer,
    labels: Option<Labels>,
    step: u64,
    model: Model,
}

impl Named {
    fn of_run(folder: &Path, step: Option<u64>, device: &Device) -> Result<Self, TrainError> {
        let (run, recipe) = RunFolder::open(folder)?;
        resuming::say_edited(&run, &recipe)?;
        let tokenizer = run.tokenizer()?;
        prepare::check_tokenizer(&recipe, &tokenizer)?;
        let step = chosen_step(&run, step)?;
        Ok(Self {
            path: folder.to_owned(),
            model: load_model(&run, &recipe, step, device)?,
            labels: run.labels_of(&recipe)?,
            run: Some(run),
            recipe,
            tokenizer,
            step,
        })
    }

    /// An export or a public checkpoint. It says what its model is and how its input is prepared; everything else is as in the
    /// smallest recipe.
    fn of_public(
        path: &Path,
        given_labels: Option<&Path>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let folder = folder_of(path);
        let public = pretrained::describe(path, None)?.without_dropout();
        let mut notes = public.notes.clone();
        let loaded = public.load(device)?;
        let wrong = |reason: &str| TrainError::Run {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let (
            Network::Pair(model),
            NetworkConfig::Pair {
                model: config,
                objectives,
                ..
            },
        ) = (loaded.network, loaded.config)
        else {
            return Err(wrong("is an encoder alone, without the head of a task"));
        };
        let text = published::load(&folder)?;
        notes.extend(text.notes.iter().cloned());
        let mut recipe = Recipe::load("unimo3-tiny", &Overrides::default())?;
        recipe.description = format!("{} of {}", public.kind, path.display());
        recipe.data.max_text_length = public.text_length(text.max_length);
        recipe.data.tokenizer = TokenizerConfig::File {
            path: folder.clone(),
            lowercase: false,
        };
        if let Some(image) = &config.image {
            let prepared = processor::find(&folder, public.family, image.image_size)?;
            notes.extend(prepared.notes);
            let spec = prepared.pictures.spec;
            recipe.data.image_size = spec.size;
            recipe.data.resize = spec.resize;
            recipe.data.filter = spec.filter;
            (recipe.data.mean, recipe.data.std) = (spec.mean, spec.std);
        }
        recipe.model = *config;
        recipe.objectives = *objectives;
        let beside = folder.join(labels::FILE_NAME);
        let file = given_labels.map(Path::to_owned);
        let file = file.or_else(|| beside.is_file().then_some(beside));
        let labels = match (&file, Task::of(&recipe)) {
            (Some(file), Some(task)) => {
                let labels = Labels::read(file)?;
                tasks::adopt(&mut recipe, task, &labels)?;
                Some(labels)
            }
            (None, Some(task)) if task.asks_labels() => {
                return Err(wrong(
                    "has no labels.json, so nothing says what its classes mean: give their file by --labels",
                ));
            }
            (None, Some(task)) => Labels::fixed(task)?,
            (_, None) => None,
        };
        if let (Some(path), Some(task)) = (file, Task::of(&recipe))
            && task.asks_labels()
        {
            recipe.task = Some(TaskConfig {
                labels: LabelsConfig::File { path },
                raw_answers: false,
                shots: None,
            });
        }
        let mut model = *model;
        notes.extend(tasks::give(
            &mut model,
            &recipe,
            &text.tokenizer,
            labels.as_ref(),
        )?);
        for note in notes {
            eprintln!("{}: {note}", path.display());
        }
        Ok(Self {
            path: path.to_owned(),
            run: None,
            recipe,
            tokenizer: text.tokenizer,
            labels,
            step: 0,
            model,
        })
    }
}

impl Opened {
    /// Opens the model that `given` names, with other data if `options` say so.
    ///
    /// # Errors
    ///
    /// The model or its data cannot be read.
    pub(crate) fn new(given: &Path, options: &Options) -> Result<Self, TrainError> {
        let world = options.world.clone();
        let device = if world.is_alone() {
            options.device
        } else {
            options.device.of_rank(world.local_rank())
        };
        let (device, _) = device.open()?;
        let named = match given::find(&given.display().to_string(), options.step)? {
            Given::Run { folder, step } => Named::of_run(&folder, step, &device)?,
            Given::Public(path) => Named::of_public(&path, options.labels.as_deref(), &device)?,
        };
        ConfigError::unless(
            named.run.is_none() || options.labels.is_none(),
            "--labels",
            options.labels.as_deref().unwrap_or(Path::new("")).display(),
            "must be absent: a run has its own, labels.json",
        )
        .map_err(|error| TrainError::Check(error.to_string()))?;
        let mut recipe = named.recipe.clone();
        let may_change = |set: &&String| set.starts_with("data.") || asks_any_run(set);
        if let Some(other) = options.set.iter().find(|set| !may_change(set)) {
            return Err(TrainError::Override {
                given: other.clone(),
                reason: "only settings of data, eval.grad_cam and eval.bitext may be changed here, such as \
                         data.vqa.val.questions=FILE or eval.grad_cam={}"
                    .to_owned(),
            });
        }
        if !options.set.is_empty() {
            // Settings of --data are of its source, which may be another than the run's.
            let overrides = Overrides {
                data: options.data.clone(),
                set: options.set.clone(),
            };
            let (changed, notes) =
                Recipe::parse_noting("--set", &recipe.to_toml()?, None, &overrides)?;
            for note in notes {
                eprintln!("{note}");
            }
            recipe = changed;
        }
        if let Some(limit) = options.limit {
            recipe.eval.limit = limit;
        } else if options.data.is_some() {
            // The recipe's limit is meant for its own held-out split.
            recipe.eval.limit = 0;
        }
        recipe.eval.full_itm |= options.full_itm;
        recipe.eval.shortlist = options.shortlist.unwrap_or(recipe.eval.shortlist);
        recipe.eval.united_shortlists |= options.united_shortlists;
        let mut data = recipe.data.clone();
        if let Some(path) = options.data.as_ref().filter(|_| options.set.is_empty()) {
            data.forget_files();
            data.take_from(path.clone())?;
        }
        if let Some(features) = &options.regions {
            let Some(RegionsConfig::Files { path, .. }) = &mut data.regions else {
                return Err(TrainError::Check(format!(
                    "--regions {}: the model does not read regions from files; it was trained without [data.regions] of that kind",
                    features.display()
                )));
            };
            *path = features.clone();
        }
        let share = |set: &String| {
            let key = set.split_once('=').map(|(key, _)| key.trim());
            key.is_some_and(|key| key.ends_with(".val_fraction"))
        };
        if options.data.is_some() && options.split.is_none() && !options.set.iter().any(share) {
            // All of it is meant.
            data.hold_out_nothing();
        }
        if options.unlabelled {
            data.allow_unlabelled();
        }
        let source = unimo_data::open(&data)?;
        for note in source.notes() {
            eprintln!("{note}");
        }
        let same_data = options.data.is_none() && options.set.iter().all(|set| asks_any_run(set));
        if named.run.is_none() && same_data {
            eprintln!(
                "{}: is no run and names no data, so the default is taken, {}; --data FILE takes yours",
                named.path.display(),
                source.describe()
            );
        }
        if let Some(run) = named.run.as_ref().filter(|_| same_data) {
            for line in resuming::other_data(run, &*source)? {
                eprintln!("not the data that the run was begun with: {line}");
            }
        }
        let concepts = match &named.run {
            Some(run) => open_concepts(run, &recipe, &named.tokenizer)?,
            None => None,
        };
        // Made of the data that a model was trained on: without a run there are none.
        let run = named.run.as_ref();
        let codes = run.map(|run| prepare::kept_codes(&recipe, run.path()));
        let codes = codes.transpose()?.flatten();
        Ok(Self {
            path: named.path,
            run: named.run,
            recipe,
            source,
            tokenizer: Arc::new(named.tokenizer),
            concepts,
            codes,
            labels: named.labels,
            step: named.step,
            model: named.model,
            device,
            world,
        })
    }

    /// The splits to use: the one that was asked for, the held-out one of the run's data, or all of other data.
    pub(crate) fn splits(&self, options: &Options) -> Vec<Split> {
        match (options.split, &options.data) {
            (Some(split), _) => vec![split],
            (None, Some(_)) => Split::ALL
                .into_iter()
                .filter(|split| !self.source.is_empty(*split))
                .collect(),
            (None, None) => vec![Split::Val],
        }
    }

    /// Says what of the first texts of a split is not read as it is written.
    pub(crate) fn look_at(&self, split: Split) {
        if !self.recipe.reads_texts() || !self.world.is_first() {
            return;
        }
        let room = self.recipe.data.room_for_words();
        let read_as = (&*self.tokenizer, room);
        first_captions::look_at_split(&*self.source, split, read_as, &mut |line| {
            eprintln!("{line}");
        });
    }

    /// What the run's task predicts.
    pub(crate) fn targets(&self) -> Option<Arc<Targets>> {
        Targets::of(&self.recipe, self.labels.clone()).map(Arc::new)
    }

    /// The samples of the run's task in a split: those with a known answer, or all of them. Unusable ones are listed in `skip`.
    pub(crate) fn task_set(
        &self,
        split: Split,
        skip: &Arc<SkipList>,
        all: bool,
    ) -> Result<Option<(TaskSet, Arc<Targets>)>, TrainError> {
        let Some(targets) = self.targets() else {
            return Ok(None);
        };
        let judged = Judged {
            recipe: &self.recipe,
            source: &self.source,
            tokenizer: &self.tokenizer,
            concepts: self.concepts.as_ref(),
            skip,
            targets: Some(&targets),
        };
        let set = judged.set(split, all)?;
        Ok(Some((set, targets)))
    }

    /// The weights for an evaluator.
    pub(crate) fn weights(&self) -> Weights<'_> {
        Weights {
            model: &self.model,
            device: &self.device,
            recipe: &self.recipe,
            tokenizer: &self.tokenizer,
            step: self.step,
            last: true,
            run: None,
            quiet: !self.world.is_first(),
            world: &self.world,
        }
    }
}

/// Whether an override asks what any run may be asked: what the matching score looks at, or whether translations are found.
fn asks_any_run(set: &str) -> bool {
    let of = |section: &str| {
        let rest = set.strip_prefix(section);
        rest.is_some_and(|rest| rest.starts_with(['=', '.']))
    };
    of("eval.grad_cam") || of("eval.bitext")
}

/// A run's concepts, if it has any.
fn open_concepts(
    run: &RunFolder,
    recipe: &Recipe,
    tokenizer: &TextTokenizer,
) -> Result<Option<ConceptReader>, TrainError> {
    let concepts = recipe
        .data
        .concepts
        .as_ref()
        .map(|_| Concepts::load(&run.join(CONCEPTS)))
        .transpose()?;
    prepare::concept_reader(recipe, concepts.as_ref(), tokenizer)
}
