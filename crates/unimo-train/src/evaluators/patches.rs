//! Hidden patches of held-out images, as the model fills them in from the rest of the image and from the text.
//!
//! Source: the objective `mim`, whose patches are hidden as in training, the same ones at every evaluation. Images are not changed at random.
//!
//! | number | what | chance |
//! |---|---|---|
//! | `patches.explained` | of pixels and of the teacher's states: the share of their variance that is predicted, `1 - sum (p - y)^2 / sum (y - mean y)^2` | 0: their mean |
//! | `patches.accuracy` | of codes: the share of hidden patches whose code is the most probable one | the share of the most frequent code |
//!
//! The report shows some images as they are, with patches hidden, and filled in. What has no colours of its own, a teacher's states, is
//! shown by three numbers of each patch as red, green and blue: its first three principal components over the images shown.
//!
//! Shape legend: `B` images, `N` patches of an image, `M` hidden patches, `Y` numbers of a target or codes, `P` pixels along a patch.

mod drawing;

use std::collections::BTreeMap;
use std::sync::Arc;

use unimo_batch::Images;
use unimo_data::{
    Batches, ConceptReader, Loader, LoaderSpec, PatchCodes, SkipList, Source, Split, TextTokenizer,
};
use unimo_objectives::pretraining::mim::{Mim, Target};
use unimo_report::record::{EvalRecord, PatchExample, PatchesRecord, ScalarRecord};

use crate::error::TrainError;
use crate::evaluators::gallery::shown_picture;
use crate::evaluators::section::{EvalSection, Selectable};
use crate::evaluators::{Evaluator, HeldOut, Weights, left_out, whole_batches};
use crate::interrupt;
use crate::model::host;
use crate::prepare::for_keys;
use crate::recipe::Recipe;
use crate::recipe::eval::PatchesConfig;
use crate::run::RunFolder;
use crate::seeds::{NO_STEP, Purpose, seed_of};

use drawing::{Filling, Shown};

/// The name of this evaluator.
pub const NAME: &str = "patches";

/// The objective whose patches are looked at.
const OBJECTIVE: &str = "mim";

/// The file of what the report shows, and the folder of its images.
const FILE: &str = "patches.json";
const FOLDER: &str = "patches";

/// The number that a recipe's evaluation gives, without the name of the evaluator.
fn number(target: Target) -> &'static str {
    match target {
        Target::Codes => "accuracy",
        Target::Pixels | Target::Teacher => "explained",
    }
}

/// Held-out images whose patches are hidden.
pub struct Patches {
    source: Arc<dyn Source>,
    tokenizer: Arc<TextTokenizer>,
    concepts: Option<ConceptReader>,
    codes: Option<Arc<PatchCodes>>,
    skip: Arc<SkipList>,
    split: Split,
    target: Target,
    images: usize,
    /// Images of a batch.
    size: usize,
    /// Images that the report shows.
    shown: usize,
}

/// What is known of all hidden patches.
#[derive(Default)]
struct Sums {
    hidden: usize,
    /// Patches whose code is the most probable one, and how often each code is right.
    right: usize,
    codes: BTreeMap<u32, usize>,
    /// The sum of squared differences, and for each number of a target its sum and that of its squares.
    wrong: f64,
    targets: Vec<(f64, f64)>,
}

impl Sums {
    fn add_code(&mut self, code: u32, predicted: u32) {
        self.hidden += 1;
        self.right += usize::from(code == predicted);
        *self.codes.entry(code).or_default() += 1;
    }

    fn add_values(&mut self, target: &[f32], predicted: &[f32]) {
        self.hidden += 1;
        self.targets.resize(target.len(), (0.0, 0.0));
        for ((own, predicted), (sum, squares)) in
            target.iter().zip(predicted).zip(&mut self.targets)
        {
            let (own, predicted) = (f64::from(*own), f64::from(*predicted));
            self.wrong += (own - predicted).powi(2);
            *sum += own;
            *squares += own * own;
        }
    }

    /// The number and its chance; `None` if nothing was hidden, or if all targets are equal.
    fn scalar(&self, target: Target) -> Option<(f64, f64)> {
        let count = self.hidden as f64;
        if self.hidden == 0 {
            return None;
        }
        if target == Target::Codes {
            let most = self.codes.values().copied().max().unwrap_or_default();
            return Some((self.right as f64 / count, most as f64 / count));
        }
        let spread = self.targets.iter();
        let spread: f64 = spread
            .map(|(sum, squares)| squares - sum * sum / count)
            .sum();
        (spread > 0.0).then_some((1.0 - self.wrong / spread, 0.0))
    }
}

impl Patches {
    /// Opens the held-out split; `None`, with a line, if the data has none.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub fn open(
        config: &PatchesConfig,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<Self>, TrainError> {
        let Some(mim) = &recipe.objectives.mim else {
            return Err(TrainError::Check(
                "eval.patches needs [objectives.mim], which this run has not".to_owned(),
            ));
        };
        if held_out.source.is_empty(held_out.split) {
            say("eval.patches: no patches are hidden: the data has no held-out split".to_owned());
            return Ok(None);
        }
        let (images, size) = whole_batches(recipe, held_out, config.limit);
        Ok(Some(Self {
            source: Arc::clone(held_out.source),
            tokenizer: Arc::clone(held_out.tokenizer),
            concepts: held_out.concepts.clone(),
            codes: held_out.codes.clone(),
            skip: Arc::new(SkipList::in_memory(recipe.data.max_skipped)),
            split: held_out.split,
            target: mim.target,
            images,
            size,
            shown: config.shown,
        }))
    }

    fn loader(&self, recipe: &Recipe) -> Result<Loader, TrainError> {
        let mut spec = LoaderSpec::new(
            &recipe.data,
            Arc::clone(&self.source),
            Arc::clone(&self.tokenizer),
            Arc::clone(&self.skip),
            Batches {
                size: self.size,
                seed: seed_of(recipe.seed, NO_STEP, 0, Purpose::Order),
            },
        );
        spec.split = self.split;
        spec.concepts = self.concepts.clone();
        spec.codes = self.codes.clone();
        for_keys(&mut spec, recipe, &|key| key == OBJECTIVE)?;
        spec.augment = None;
        Ok(Loader::new(spec)?)
    }

    /// Looks at all batches. Returns what is known of their hidden patches, and the images to show.
    fn look(&self, weights: &Weights<'_>, mim: &Mim) -> Result<(Sums, Vec<Shown>), TrainError> {
        let mut loader = self.loader(weights.recipe)?;
        let (mut sums, mut shown) = (Sums::default(), Vec::new());
        for _ in 0..self.images / self.size {
            interrupt::check()?;
            let Some(batch) = loader.next() else {
                break;
            };
            let batch = batch?;
            let Some(images) = &batch.images else {
                continue;
            };
            let model = weights.model;
            let predicted =
                model
                    .objectives
                    .predict(OBJECTIVE, &model.backbone, &batch, weights.device);
            let (Some(predicted), Some(hidden)) = (predicted, &images.patch_mask) else {
                continue;
            };
            let [_, numbers] = predicted.dims();
            let predicted = host(predicted);
            let predicted: Vec<&[f32]> = predicted.chunks_exact(numbers).collect();
            let teacher = model.teacher.as_ref().map(|teacher| &teacher.backbone);
            let values = mim.values(images, teacher, weights.device).map(host);
            let of_image = hidden.len() / self.size.max(1);
            let mut next = predicted.iter();
            for (row, hidden) in hidden.chunks_exact(of_image.max(1)).enumerate() {
                let mut own = Vec::new();
                let places = hidden.iter().enumerate().filter(|(_, hidden)| **hidden);
                for (place, _) in places {
                    let Some(predicted) = next.next() else {
                        break;
                    };
                    let at = row * of_image + place;
                    if let Some(code) = images.codes.as_ref().map(|codes| codes[at]) {
                        let best = (0..).zip(predicted.iter());
                        let best = best.max_by(|a, b| a.1.total_cmp(b.1));
                        sums.add_code(code, best.map_or(0, |(code, _)| code));
                    } else if let Some(values) = &values {
                        sums.add_values(&values[at * numbers..(at + 1) * numbers], predicted);
                    }
                    own.push((*predicted).to_vec());
                }
                if shown.len() < self.shown {
                    let words = batch.texts.as_ref().map(|texts| texts.row(row).to_vec());
                    shown.push(Shown {
                        levels: pixels(images, row),
                        side: images.height,
                        hidden: hidden.to_vec(),
                        predicted: own,
                        values: values.as_ref().map(|values| {
                            values[row * of_image * numbers..(row + 1) * of_image * numbers]
                                .to_vec()
                        }),
                        text: words.map_or(String::new(), |ids| self.tokenizer.decode(&ids)),
                    });
                }
            }
        }
        Ok((sums, shown))
    }

    /// Draws the images that the report shows.
    fn draw(
        &self,
        run: &RunFolder,
        (step, images): (u64, u64),
        mim: &Mim,
        shown: &[Shown],
    ) -> Result<(), TrainError> {
        let folder = run.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
        let filling = match self.target {
            Target::Pixels => Filling::Pixels {
                normalised: mim.config.normalised,
            },
            Target::Teacher => Filling::states(shown),
            Target::Codes => Filling::Codes(self.codes.as_deref().and_then(PatchCodes::book)),
        };
        let mut examples = Vec::new();
        for (number, image) in shown.iter().enumerate() {
            let mut pictures = Vec::new();
            for (at, (what, picture)) in filling.pictures(image).into_iter().enumerate() {
                let name = shown_picture(run, &format!("{FOLDER}/{number}-{at}"), &picture)?;
                pictures.push((what.to_owned(), name));
            }
            examples.push(PatchExample {
                text: image.text.clone(),
                pictures,
            });
        }
        let record = PatchesRecord {
            step,
            images,
            legend: filling.legend().to_owned(),
            examples,
        };
        run.write_json(FILE, &record)
    }
}

/// The levels of one image, `[C, H, W]`.
fn pixels(images: &Images, row: usize) -> Vec<u8> {
    let size = Images::CHANNELS * images.height * images.width;
    images.pixels[row * size..(row + 1) * size].to_vec()
}

impl EvalSection for PatchesConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn selectable(&self, recipe: &Recipe) -> Selectable {
        let target = recipe.objectives.mim.as_ref().map(|mim| mim.target);
        let names: Vec<_> = target.map(number).into_iter().collect();
        Selectable::of(&names)
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        let opened = Patches::open(self, recipe, held_out, say)?;
        Ok(opened.map(|own| Box::new(own) as Box<dyn Evaluator>))
    }
}

impl Evaluator for Patches {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        vec![format!("{NAME}.{}", number(self.target))]
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        vec![format!(
            "hidden patches of {} held-out images are filled in at each evaluation",
            self.images
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let mim = weights.model.objectives.mim.as_ref();
        let mim = mim.ok_or_else(|| {
            TrainError::Check(
                "eval.patches needs [objectives.mim], which this run has not".to_owned(),
            )
        })?;
        let (sums, shown) = self.look(weights, mim)?;
        let name = number(self.target);
        let mut scalars = BTreeMap::new();
        match sums.scalar(self.target) {
            Some((value, chance)) => {
                let scalar = ScalarRecord {
                    value,
                    chance: Some(chance),
                    interval: None,
                };
                scalars.insert(format!("{NAME}.{name}"), scalar);
                say(format!(
                    "step {}: {} hidden patches of {} images: {name} {:.1}% (chance {:.1}%)",
                    weights.step,
                    sums.hidden,
                    self.images,
                    100.0 * value,
                    100.0 * chance
                ));
            }
            None => say(format!(
                "step {}: no hidden patch of the held-out images can be judged",
                weights.step
            )),
        }
        if let Some(run) = weights.run.filter(|_| !shown.is_empty()) {
            let of = (weights.step, self.images as u64);
            self.draw(run, of, mim, &shown)?;
        }
        let unusable = self.skip.count() as u64;
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.split.name().to_owned(),
            left_out: left_out(unusable),
            images: self.images as u64,
            texts: self.images as u64,
            ..EvalRecord::default()
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_explains_nothing_and_the_targets_everything() {
        let targets = [[1.0f32, 4.0], [3.0, 0.0]];
        let of = |predicted: [[f32; 2]; 2]| {
            let mut sums = Sums::default();
            for (target, predicted) in targets.iter().zip(&predicted) {
                sums.add_values(target, predicted);
            }
            sums.scalar(Target::Pixels).unwrap()
        };
        assert_eq!(of([[2.0, 2.0], [2.0, 2.0]]), (0.0, 0.0));
        assert_eq!(of(targets), (1.0, 0.0));
        // Squared differences of 1 + 0 + 0 + 4 against a spread of 2 + 8.
        assert_eq!(of([[2.0, 4.0], [3.0, 2.0]]).0, 0.5);
    }

    #[test]
    fn the_most_frequent_code_is_what_chance_would_reach() {
        let mut sums = Sums::default();
        assert_eq!(sums.scalar(Target::Codes), None, "of nothing");
        for (code, predicted) in [(5, 5), (5, 1), (5, 5), (2, 2)] {
            sums.add_code(code, predicted);
        }
        assert_eq!(sums.scalar(Target::Codes), Some((0.75, 0.75)));
    }

    #[test]
    fn targets_that_are_all_equal_cannot_be_explained() {
        let mut sums = Sums::default();
        sums.add_values(&[1.0], &[2.0]);
        assert_eq!(sums.scalar(Target::Teacher), None);
    }
}
