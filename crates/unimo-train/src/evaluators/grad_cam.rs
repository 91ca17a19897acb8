//! Weakly supervised grounding (ALBEF, Li et al. 2021): where the matching score of a held-out expression comes from, against the box
//! that the expression refers to. The model need not have seen a box.
//!
//! | number | what | chance |
//! |---|---|---|
//! | `grad_cam.pointing` | share of expressions whose map is highest in their box (the pointing game) | the box's share of the patches |
//! | `grad_cam.centre` | the share that the image's centre reaches as a fixed answer | |
//! | `grad_cam.accuracy` | share whose best box has an IoU of at least 0.5 with the right one | the share of candidates that have it |
//! | `grad_cam.recall` | share of which some candidate has it: the most that can be found | |
//! | `grad_cam.blank` | share whose map is 0 everywhere; they point nowhere and choose no box | |
//!
//! The map is Grad-CAM (the module `grad_cam`) of one layer's attention of the text stream to the patches, the mean over the heads and over the
//! positions of the text. From ALBEF it differs in two things: the score is the log-odds of "they belong together", where ALBEF takes the
//! logit of "yes" alone, and edges of boxes are rounded to pixels of what the model sees, where ALBEF cuts them off.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Device;
use unimo_batch::{Batch, ConfigError, TAGS};
use unimo_data::images::Window;
use unimo_data::{SkipList, TaskBatch, TaskRow, TaskSet};
use unimo_encoders::backbone::Backbone;
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::image::ImageEncoder;
use unimo_eval::BoundingBox;
use unimo_eval::boxes::FOUND_AT;
use unimo_eval::grounding::{Pointing, middles};
use unimo_eval::patch_map::{self, BoxChoices, PatchMap};
use unimo_report::record::{
    EvalRecord, Figure, GradCamRecord, PredictedExample, PredictedLabel, ScalarRecord,
};

use crate::error::TrainError;
use crate::evaluators::gallery::shown_picture;
use crate::evaluators::section::{EvalSection, Selectable, named};
use crate::evaluators::{Evaluator, HeldOut, Weights, boxes};
use crate::grad_cam::{Glass, maps};
use crate::heat;
use crate::model::{Model, host};
use crate::recipe::Recipe;
use crate::recipe::eval::{Candidates, GradCamConfig};
use crate::run::RunFolder;
use crate::tasks::Judged;
use crate::tasks::judge::{Number, interval};
use crate::tasks::predict::read_ahead;

const NAME: &str = "grad_cam";

/// The numbers that every evaluation gives.
const NUMBERS: [&str; 5] = ["pointing", "centre", "accuracy", "recall", "blank"];

/// What the newest evaluation looked at, for the report.
pub const FILE_NAME: &str = "grad_cam.json";

/// The folder of its images.
const FOLDER: &str = "grad_cam";

/// Held-out expressions with their boxes.
pub struct GradCam {
    set: TaskSet,
    skip: Arc<SkipList>,
    /// The layer that is read, counted from 1.
    layer: usize,
    candidates: Candidates,
    /// Side of what the model sees, in pixels.
    side: usize,
}

/// What was found of an expression.
struct Found {
    row: TaskRow,
    window: Window,
    map: PatchMap,
    /// The box that the map means, in shares of the whole image.
    chosen: Option<[f32; 4]>,
    /// Its IoU with the right one.
    iou: f64,
    /// Whether the map is highest in the right box.
    points: bool,
}

/// All that was found.
#[derive(Default)]
struct All {
    found: Vec<Found>,
    pointing: Pointing,
    choices: BoxChoices,
    blank: usize,
}

impl GradCam {
    /// The expressions of a split of the data for a recipe's `[eval.grad_cam]`.
    ///
    /// # Errors
    ///
    /// The recipe's model has no matching score, one stream or no patches, or no text of the split has a box.
    pub fn open(
        config: &GradCamConfig,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
    ) -> Result<Self, TrainError> {
        config.possible(recipe).map_err(TrainError::of_recipe)?;
        let skip = Arc::new(SkipList::in_memory(recipe.data.max_skipped));
        let judged = Judged {
            recipe,
            source: held_out.source,
            tokenizer: held_out.tokenizer,
            concepts: held_out.concepts.as_ref(),
            skip: &skip,
            targets: None,
        };
        let layers = recipe.model.fusion.as_ref().map_or(0, |f| f.layers);
        Ok(Self {
            set: judged.with_boxes(held_out.split)?,
            skip,
            layer: config.layer_of(layers),
            candidates: config.boxes,
            side: recipe.data.image_size,
        })
    }

    /// The maps of all expressions, and what they mean.
    fn look(&self, weights: &Weights<'_>) -> Result<All, TrainError> {
        let glass = Glass::without_dropout(weights.model, weights.recipe, weights.device);
        let grid = weights.model.backbone.image.as_ref();
        let grid = grid.map_or(0, ImageEncoder::grid);
        let sliding = match self.candidates {
            Candidates::Source => Vec::new(),
            Candidates::Sliding => patch_map::sliding(grid),
        };
        let mut all = All::default();
        let size = weights.recipe.eval.batch_size;
        read_ahead(&self.set, size, &mut |range, read| {
            let TaskBatch {
                batch,
                rows,
                windows,
                boxes,
                ..
            } = read;
            let Some(batch) = batch else {
                return Ok(());
            };
            let maps = self.maps(&glass, (weights.model, weights.device), &batch, grid);
            let maps = maps.map_err(|reason| {
                let place = (range.start, range.end.saturating_sub(1));
                TrainError::Check(format!(
                    "eval.grad_cam: {reason}, expressions {} to {}",
                    place.0, place.1
                ))
            })?;
            let each = rows.into_iter().zip(windows).zip(boxes).zip(maps);
            for (((row, window), known), map) in each {
                let candidates: Vec<[f32; 4]> = match self.candidates {
                    Candidates::Source => known,
                    Candidates::Sliding => sliding.iter().map(|b| window.original(*b)).collect(),
                };
                let map = PatchMap::new([grid; 2], map);
                all.add(row, window, map, &candidates, self.side);
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// The map of each row of a batch.
    fn maps(
        &self,
        glass: &Glass,
        (model, device): (&Model, &Device),
        batch: &Batch,
        grid: usize,
    ) -> Result<Vec<Vec<f32>>, String> {
        let lengths = batch.texts.as_ref().map(|texts| texts.lengths.as_slice());
        let features = features(&model.backbone, batch, device);
        let (Some(lengths), Some((texts, images))) = (lengths, features) else {
            return Err("the data lacks texts or images".to_owned());
        };
        let fused = glass.fuse(texts, images);
        let scores = glass.objectives.match_scores(&glass.backbone, &fused);
        let scores = scores.ok_or("the model has no matching head")?;
        if host(scores.clone()).iter().any(|score| !score.is_finite()) {
            return Err("a matching score is not finite; has the model diverged?".to_owned());
        }
        let gradients = scores.sum().backward();
        let layer = &fused.attention[self.layer - 1..self.layer];
        Ok(maps(layer, &gradients, lengths, grid * grid))
    }

    /// What the report shows: the numbers, and some expressions with their maps that are spread over the set.
    fn record(
        &self,
        run: &RunFolder,
        weights: &Weights<'_>,
        all: &All,
    ) -> Result<GradCamRecord, TrainError> {
        let folder = run.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
        let shown = weights.recipe.eval.gallery;
        let some = |good: bool| -> Result<Vec<PredictedExample>, TrainError> {
            let rows = all.found.iter();
            let rows: Vec<&Found> = rows.filter(|f| (f.iou >= FOUND_AT) == good).collect();
            let every = rows.len().div_ceil(shown.max(1)).max(1);
            let chosen = rows.into_iter().step_by(every).take(shown).enumerate();
            let name = if good { "right" } else { "wrong" };
            chosen
                .map(|(at, found)| self.example(run, &format!("{FOLDER}/{name}-{at}"), found))
                .collect()
        };
        let figure = |number: Number| Figure {
            name: number.name,
            value: number.value,
            chance: number.chance,
            interval: number.interval,
        };
        Ok(GradCamRecord {
            step: weights.step,
            layer: self.layer as u64,
            texts: all.found.len() as u64,
            candidates: match self.candidates {
                Candidates::Source => "the boxes that the data knows of the image",
                Candidates::Sliding => "all boxes along the edges of patches",
            }
            .to_owned(),
            legend: boxes::CHOSEN.to_owned(),
            figures: all.numbers().into_iter().map(figure).collect(),
            right: some(true)?,
            wrong: some(false)?,
        })
    }

    fn example(
        &self,
        run: &RunFolder,
        name: &str,
        found: &Found,
    ) -> Result<PredictedExample, TrainError> {
        let row = &found.row;
        let fine = found.map.enlarged([self.side; 2]);
        let (_, highest) = heat::range(fine.values());
        let mut images = Vec::new();
        for picture in self.set.pictures(row.number) {
            let at = |point| found.window.point(point).map(|point| fine.at(point));
            let picture = heat::heated(&picture, (0.0, highest), at);
            let drawn = boxes::drawn(&picture, row.label.bounds, found.chosen);
            images.push(shown_picture(run, name, &drawn)?);
        }
        Ok(PredictedExample {
            sample: row.name.clone(),
            text: row.text.clone().unwrap_or_default(),
            images,
            best: vec![
                PredictedLabel {
                    label: "IoU of the chosen box with the right one".to_owned(),
                    score: found.iou,
                    right: found.iou >= FOUND_AT,
                },
                PredictedLabel {
                    label: "highest in the right box".to_owned(),
                    score: f64::NAN,
                    right: found.points,
                },
            ],
            answers: Vec::new(),
            looked: Vec::new(),
        })
    }
}

/// The texts and images of a batch after their own encoders; `None` if it lacks one of them.
fn features(
    backbone: &Backbone,
    batch: &Batch,
    device: &Device,
) -> Option<(TextFeatures, ImageFeatures)> {
    let input = |texts: &unimo_batch::Texts| {
        let text = &backbone.text;
        text.input(&texts.ids, &texts.lengths, texts.length, device)
    };
    let pictures = backbone.pictures(batch, device)?;
    let tags = batch.further_texts.get(TAGS);
    let tags = tags.filter(|_| backbone.reads_tags()).map(input);
    Some((
        backbone.encode_texts(&input(batch.texts.as_ref()?)),
        backbone.encode_pictures(&pictures, tags.as_ref(), 0),
    ))
}

impl All {
    /// Adds an expression whose box is known. Candidates are shares of the whole image; what the model does not see of it is left out
    /// of their scores.
    fn add(
        &mut self,
        row: TaskRow,
        window: Window,
        map: PatchMap,
        candidates: &[[f32; 4]],
        side: usize,
    ) {
        let Some(right) = row.label.bounds else {
            return;
        };
        let [grid, _] = map.size();
        let centre = |[x, y]: [f32; 2]| {
            let [x, y, ..] = window.original([x, y, x, y]);
            [x, y]
        };
        let points: Vec<[f32; 2]> = middles(grid).into_iter().map(centre).collect();
        let hits = self.pointing.hits;
        self.pointing.add(map.values(), &points, &[right]);
        self.blank += usize::from(map.values().iter().all(|value| *value == 0.0));

        let bounding = |of: [f32; 4]| BoundingBox::new(of.map(f64::from)).ok();
        let seen = candidates.iter().filter_map(|candidate| {
            Some((*candidate, bounding(*candidate)?, window.seen(*candidate)?))
        });
        let seen: Vec<_> = seen.collect();
        let in_view: Vec<[f32; 4]> = seen.iter().map(|(_, _, seen)| *seen).collect();
        let scores = map.enlarged([side; 2]).scores(&in_view);
        let best = patch_map::best(&scores);
        let boxes: Vec<BoundingBox> = seen.iter().map(|(_, whole, _)| *whole).collect();
        let iou = match bounding(right) {
            Some(right) => self.choices.add(best, &boxes, &right),
            None => 0.0,
        };
        self.found.push(Found {
            chosen: best.map(|best| seen[best].0),
            points: self.pointing.hits > hits,
            row,
            window,
            map,
            iou,
        });
    }

    /// The numbers in the order of [`NUMBERS`].
    fn numbers(&self) -> Vec<Number> {
        let share = |of: Option<f64>| of.unwrap_or(f64::NAN);
        let between = |holds: &dyn Fn(&Found) -> bool| {
            let each = self.found.iter().map(|found| f64::from(holds(found)));
            interval(&each.collect::<Vec<_>>())
        };
        let blank = self.blank as f64 / self.found.len() as f64;
        let (pointing, choices) = (&self.pointing, &self.choices);
        let values = [
            (
                share(pointing.accuracy()),
                pointing.chance(),
                between(&|found| found.points),
            ),
            (share(pointing.centre()), None, None),
            (
                share(choices.accuracy()),
                choices.chance(),
                between(&|found| found.iou >= FOUND_AT),
            ),
            (share(choices.recall()), None, None),
            (blank, None, None),
        ];
        let named = NUMBERS.into_iter().zip(values);
        named
            .map(|(name, (value, chance, interval))| Number {
                name: name.to_owned(),
                value,
                chance,
                interval,
            })
            .collect()
    }

    /// The accuracy of each kind of expression, by what distinguishes the kinds and the kind, where they are few.
    fn kinds(&self) -> BTreeMap<String, f64> {
        const FEW: usize = 4;
        let mut kinds: BTreeMap<&str, BTreeMap<&str, (f64, f64)>> = BTreeMap::new();
        for found in &self.found {
            for (name, kind) in &found.row.label.kinds {
                let sum = kinds.entry(name).or_default().entry(kind).or_default();
                sum.0 += f64::from(found.iou >= FOUND_AT);
                sum.1 += 1.0;
            }
        }
        let few = kinds.into_iter().filter(|(_, kinds)| kinds.len() <= FEW);
        few.flat_map(|(name, kinds)| {
            let each = kinds.into_iter();
            each.map(move |(kind, (found, count))| (format!("{name}.{kind}"), found / count))
        })
        .collect()
    }
}

impl EvalSection for GradCamConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn possible(&self, recipe: &Recipe) -> Result<(), ConfigError> {
        let fits = self.validate_with(&recipe.model, &recipe.objectives);
        fits.map_err(|e| e.within(NAME).within("eval"))
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        Selectable::of(&NUMBERS)
    }

    fn open(
        &self,
        recipe: &Recipe,
        held_out: &HeldOut<'_>,
        _say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        Ok(Some(Box::new(GradCam::open(self, recipe, held_out)?)))
    }
}

impl Evaluator for GradCam {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        named(NAME, &NUMBERS)
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        vec![format!(
            "{NAME}: {} held-out expressions ({}) are looked at by the attention of layer {} at each evaluation",
            self.set.len(),
            self.set.label(),
            self.layer
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let all = self.look(weights)?;
        if all.found.is_empty() {
            return Err(TrainError::Check(format!(
                "eval.grad_cam: none of {} expressions of {} can be used",
                self.set.len(),
                self.set.split().name()
            )));
        }
        let numbers = all.numbers();
        let mut scalars: BTreeMap<String, ScalarRecord> = BTreeMap::new();
        for number in &numbers {
            let scalar = ScalarRecord {
                value: number.value,
                chance: number.chance,
                interval: number.interval,
            };
            scalars.insert(format!("{NAME}.{}", number.name), scalar);
        }
        for (kind, value) in all.kinds() {
            let scalar = ScalarRecord {
                value,
                chance: None,
                interval: None,
            };
            scalars.insert(format!("{NAME}.{kind}"), scalar);
        }
        let percent = |share: Option<f64>| match share {
            Some(share) => format!("{:.1}%", 100.0 * share),
            None => "unknown".to_owned(),
        };
        let (pointing, choices) = (&all.pointing, &all.choices);
        say(format!(
            "step {}: {NAME}, layer {}: {} of {} expressions point into their box (chance {}, centre {}); the best box is right for {} \
             (chance {}, at most {}){}",
            weights.step,
            self.layer,
            percent(pointing.accuracy()),
            all.found.len(),
            percent(pointing.chance()),
            percent(pointing.centre()),
            percent(choices.accuracy()),
            percent(choices.chance()),
            percent(choices.recall()),
            match all.blank {
                0 => String::new(),
                blank => format!("; {blank} maps are 0 everywhere"),
            }
        ));
        if let Some(run) = weights.run {
            let record = self.record(run, weights, &all)?;
            run.write_json(FILE_NAME, &record)?;
        }
        let left_out = [
            ("unusable", self.skip.count() as u64),
            ("without a box", self.set.left_out() as u64),
        ];
        let left_out = left_out.into_iter().filter(|(_, count)| *count > 0);
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.set.label(),
            left_out: left_out
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            images: all.found.len() as u64,
            texts: all.found.len() as u64,
            ..EvalRecord::default()
        }])
    }
}
