//! A task's predictions on the held-out samples, by its official numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use unimo_data::{SkipList, TaskSet};
use unimo_eval::patch_map::PatchMap;
use unimo_objectives::{AnsweredBy, Predicts};
use unimo_report::record::{
    EvalRecord, Figure, KindFigure, PredictedExample, PredictedLabel, PredictionsRecord,
    ScalarRecord,
};

use crate::error::TrainError;
use crate::evaluators::boxes;
use crate::evaluators::gallery::shown_picture;
use crate::evaluators::{Evaluator, Weights};
use crate::grad_cam::{Glass, of_predictions};
use crate::heat;
use crate::recipe::Recipe;
use crate::run::RunFolder;
use crate::tasks::Targets;
use crate::tasks::judge::{self, Judged};
use crate::tasks::predict::{Predicted, predict};

/// The predictions of the newest evaluation, for the report.
pub const FILE_NAME: &str = "predictions.json";

/// The folder of its images.
const FOLDER: &str = "predictions";

/// What is shown of labels that are chosen.
const LOOKED: &str = "labels stand with their probabilities. The last image of each shows what the model looked at for its first \
                      label: Grad-CAM of the label's score over the patches, all layers together, from 0 (grey) to the highest (red).";

/// From this score on a prediction is shown among the right ones.
const HALF_RIGHT: f64 = 0.5;

/// The held-out samples of a recipe's task.
pub struct Predictions {
    set: TaskSet,
    targets: Arc<Targets>,
    skip: Arc<SkipList>,
    /// How many samples have no answer that can be given.
    beyond: usize,
}

/// What is said where predictions have no score.
pub(crate) const NO_NUMBER: &str = "no number: all predictions or all right values are the same, and their correlation is not defined";

impl Predictions {
    /// An evaluator over these samples; `skip` counts those that are unusable.
    pub fn new(set: TaskSet, targets: Arc<Targets>, skip: Arc<SkipList>) -> Self {
        let many = matches!(targets.task.predicts, Predicts::Answers { .. });
        let beyond = |number: &usize| matches!(targets.learns(&set.row(*number).label), Ok(false));
        let beyond = (0..set.len())
            .filter(|number| many && beyond(number))
            .count();
        Self {
            set,
            targets,
            skip,
            beyond,
        }
    }
}

impl Evaluator for Predictions {
    fn name(&self) -> &'static str {
        self.targets.task.key
    }

    fn scalars(&self) -> Vec<String> {
        let names = judge::names(self.targets.task.predicts).into_iter();
        names
            .map(|name| format!("{}.{name}", self.name()))
            .collect()
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        let mut line = format!(
            "{}: {} held-out samples are predicted at each evaluation",
            self.name(),
            self.set.len()
        );
        if self.set.left_out() > 0 {
            line += &format!(
                "; {} {} are left out",
                self.set.left_out(),
                self.without_what()
            );
        }
        line += &self.beyond();
        vec![line]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let task = self.targets.task;
        let mut all: Vec<Predicted> = Vec::with_capacity(self.set.len());
        let size = weights.recipe.eval.batch_size;
        predict(
            (weights.model, task, weights.device),
            weights.world,
            &self.set,
            size,
            &mut |(batch, _)| {
                all.extend(batch);
                Ok(())
            },
        )?;
        let judged = judge::judge(&self.targets, &all);
        let mut scalars = BTreeMap::new();
        for number in &judged.numbers {
            let scalar = ScalarRecord {
                value: number.value,
                chance: number.chance,
                interval: number.interval,
            };
            scalars.insert(format!("{}.{}", task.key, number.name), scalar);
        }
        // Kinds with few values, such as the type of an answer, are numbers of their own; types of questions are in the report.
        const FEW: usize = 4;
        for name in judged
            .kinds
            .keys()
            .map(|(name, _)| name)
            .collect::<BTreeSet<_>>()
        {
            let of = judged.kinds.iter().filter(|((own, _), _)| own == name);
            if of.clone().count() <= FEW {
                for ((_, kind), (value, _)) in of {
                    let scalar = ScalarRecord {
                        value: *value,
                        chance: None,
                        interval: None,
                    };
                    scalars.insert(format!("{}.{name}.{kind}", task.key), scalar);
                }
            }
        }
        if let Some(first) = judged.numbers.first() {
            let what = match task.predicts {
                Predicts::Box if all.iter().any(|one| !one.candidates.is_empty()) => {
                    "always the same box or a random region"
                }
                Predicts::Box => "always the same box",
                _ => "always the same answer",
            };
            let chance = first
                .chance
                .map(|chance| format!(" ({what}: {:.1}%)", 100.0 * chance));
            say(format!(
                "step {}: {} {} of {} samples of {}: {:.2}%{}{}",
                weights.step,
                task.key,
                first.name,
                all.len(),
                self.set.split().name(),
                100.0 * first.value,
                chance.unwrap_or_default(),
                self.beyond()
            ));
        } else {
            say(format!(
                "step {}: {} of {} samples of {}: {NO_NUMBER}",
                weights.step,
                task.key,
                all.len(),
                self.set.split().name()
            ));
        }
        if let Some(run) = weights.run {
            let record = self.record(run, weights, &all, &judged)?;
            run.write_json(FILE_NAME, &record)?;
        }
        let unusable = self.skip.count() as u64;
        let left_out = [
            ("unusable", unusable),
            (self.without_what(), self.set.left_out() as u64),
        ];
        let left_out = left_out
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .chain(self.set.of_no_split())
            .filter(|(_, count)| *count > 0);
        Ok(vec![EvalRecord {
            evaluator: task.key.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.set.label(),
            left_out: left_out.collect(),
            images: all.len() as u64,
            texts: all.len() as u64,
            ..EvalRecord::default()
        }])
    }
}

/// `[right class][predicted class]`: numbers of samples; empty without classes, or with more than a reader can look through.
fn confusion(judged: &Judged) -> Vec<Vec<u64>> {
    const MOST: usize = 200;
    let confusion = judged.confusion.as_ref();
    let confusion = confusion.filter(|confusion| confusion.classes() <= MOST);
    confusion.map_or_else(Vec::new, |confusion| {
        let rows = confusion.counts().chunks(confusion.classes().max(1));
        rows.map(<[u64]>::to_vec).collect()
    })
}

impl Predictions {
    /// What is said of answers that are no label, if there are some.
    fn beyond(&self) -> String {
        match self.beyond {
            0 => String::new(),
            count => format!(
                "; {count} have no answer that is one of the labels, and count as wrong whatever is predicted"
            ),
        }
    }

    /// What samples lack that cannot be judged.
    fn without_what(&self) -> &'static str {
        match self.targets.task.predicts {
            Predicts::Box => "without a box",
            _ => "without an answer",
        }
    }

    /// The predictions for the report, with some right and wrong examples that are spread over the set.
    fn record(
        &self,
        run: &RunFolder,
        weights: &Weights<'_>,
        all: &[Predicted],
        judged: &Judged,
    ) -> Result<PredictionsRecord, TrainError> {
        let folder = run.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
        let shown = weights.recipe.eval.gallery;
        let glass = self
            .chooses()
            .then(|| Glass::without_dropout(weights.model, weights.recipe, weights.device));
        let mut with_maps = false;
        let mut some = |good: bool| -> Result<Vec<PredictedExample>, TrainError> {
            let rows: Vec<usize> = (0..all.len())
                .filter(|row| (judged.right[*row] >= HALF_RIGHT) == good)
                .collect();
            let every = rows.len().div_ceil(shown.max(1)).max(1);
            let chosen = rows.into_iter().step_by(every).take(shown).enumerate();
            let name = if good { "right" } else { "wrong" };
            let example = |(at, row): (usize, usize)| {
                let name = format!("{FOLDER}/{name}-{at}");
                let looked = match &glass {
                    Some(glass) => self.looked((run, &name), glass, weights, &all[row])?,
                    None => Vec::new(),
                };
                with_maps |= !looked.is_empty();
                let example = self.example(run, &name, &all[row])?;
                Ok(PredictedExample { looked, ..example })
            };
            chosen.map(example).collect()
        };
        let (right, wrong) = (some(true)?, some(false)?);
        Ok(PredictionsRecord {
            task: self.targets.task.key.to_owned(),
            step: weights.step,
            figures: judged
                .numbers
                .iter()
                .map(|number| Figure {
                    name: number.name.clone(),
                    value: number.value,
                    chance: number.chance,
                    interval: number.interval,
                })
                .collect(),
            kinds: kinds(judged),
            classes: match &self.targets.labels {
                Some(labels) if judged.confusion.is_some() => labels.names().to_vec(),
                _ => Vec::new(),
            },
            confusion: confusion(judged),
            legend: match self.targets.task.predicts {
                Predicts::Box => boxes::LEGEND.to_owned(),
                _ if with_maps => LOOKED.to_owned(),
                _ => String::new(),
            },
            right,
            wrong,
        })
    }

    /// Copies of a sample's images with what the model looked at for its prediction; none where that is not known.
    fn looked(
        &self,
        (run, name): (&RunFolder, &str),
        glass: &Glass,
        weights: &Weights<'_>,
        predicted: &Predicted,
    ) -> Result<Vec<String>, TrainError> {
        let Some((class, _)) = predicted.best.first() else {
            return Ok(Vec::new());
        };
        let number = predicted.row.number;
        let read = self.set.read(number..number + 1)?;
        let (key, device) = (self.targets.task.key, weights.device);
        let batch = read.batch.as_ref();
        let maps = batch.and_then(|batch| of_predictions(glass, key, batch, device, &[*class]));
        let Some(maps) = maps else {
            return Ok(Vec::new());
        };
        let spec = weights.recipe.data.image_spec();
        let mut names = Vec::new();
        let pictures = self.set.pictures(number);
        for (side, (picture, maps)) in pictures.iter().zip(maps).enumerate() {
            let Some(map) = maps.into_iter().next() else {
                continue;
            };
            let grid = map.len().isqrt();
            let map = PatchMap::new([grid; 2], map).enlarged([spec.size; 2]);
            let (_, highest) = heat::range(map.values());
            let window = spec.window(picture.dimensions());
            let at = |point| window.point(point).map(|point| map.at(point));
            let drawn = heat::heated(picture, (0.0, highest), at);
            names.push(shown_picture(
                run,
                &format!("{name}-{side}-looked"),
                &drawn,
            )?);
        }
        Ok(names)
    }

    /// Whether one of several labels is predicted by a score of its own. A box is drawn itself, a number has no other that it was preferred
    /// to, and an answer that is read word by word has no single score.
    fn chooses(&self) -> bool {
        matches!(
            self.targets.task.predicts,
            Predicts::Answers {
                by: AnsweredBy::Class,
                ..
            } | Predicts::Class { .. }
        )
    }

    fn example(
        &self,
        run: &RunFolder,
        name: &str,
        predicted: &Predicted,
    ) -> Result<PredictedExample, TrainError> {
        let row = &predicted.row;
        let mut images = Vec::new();
        for (side, picture) in self.set.pictures(row.number).iter().enumerate() {
            let drawn = boxes::drawn(picture, row.label.bounds, predicted.bounds);
            images.push(shown_picture(run, &format!("{name}-{side}"), &drawn)?);
        }
        let labels = self.targets.labels.as_ref();
        let named = |(label, score): &(u32, f32)| {
            let name = labels.and_then(|labels| labels.name(*label as usize));
            PredictedLabel {
                right: name.is_some_and(|name| {
                    judge::score(self.targets.task.predicts, name, predicted) >= HALF_RIGHT
                }),
                label: name.map_or_else(|| score.to_string(), str::to_owned),
                score: f64::from(*score),
            }
        };
        let box_found = judge::overlap(predicted).map(|iou| PredictedLabel {
            label: "IoU with the right box".to_owned(),
            score: iou,
            right: iou >= HALF_RIGHT,
        });
        Ok(PredictedExample {
            sample: row.name.clone(),
            text: row.text.clone().unwrap_or_default(),
            images,
            best: predicted.best.iter().map(named).chain(box_found).collect(),
            answers: row.label.given().into_iter().map(str::to_owned).collect(),
            looked: Vec::new(),
        })
    }
}

/// The numbers of each kind of sample, by what distinguishes the kinds.
fn kinds(judged: &Judged) -> BTreeMap<String, Vec<KindFigure>> {
    let mut kinds: BTreeMap<String, Vec<KindFigure>> = BTreeMap::new();
    for ((name, kind), (value, count)) in &judged.kinds {
        kinds.entry(name.clone()).or_default().push(KindFigure {
            kind: kind.clone(),
            value: *value,
            count: *count,
        });
    }
    kinds
}
