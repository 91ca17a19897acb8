//! Classes by prompts: an image gets the class whose descriptions are nearest to it (zero-shot classification).
//!
//! Source: CLIP (Radford et al. 2021), section 3.1: each template makes a text from a class's name. The embeddings of a class's
//! texts are averaged and scaled to length 1 again. Images and texts are compared by `[objectives.itc]`.
//!
//! | number | what | chance, of `C` classes |
//! |---|---|---|
//! | `prompts.top1` | share of images whose class is the nearest | `1 / C` |
//! | `prompts.top5` | the same among the five nearest, where there are more | `5 / C` |
//! | `prompts.mean_class` | mean over the classes of their share of `top1` | `1 / C` |
//!
//! Shape legend: `B` images, `C` classes, `T` templates, `E` width of the common space.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use rayon::prelude::*;
use unimo_core::layers::normalise;
use unimo_data::images::{self, ImageSpec, Limits};
use unimo_data::{Pad, Place, ReadError, SampleError, SkipList};
use unimo_encoders::features::Pictures;
use unimo_report::record::{EvalRecord, ScalarRecord};

use crate::error::TrainError;
use crate::evaluators::section::{EvalSection, Selectable, When};
use crate::evaluators::{Evaluator, HeldOut, Weights, left_out};
use crate::interrupt;
use crate::model::host;
use crate::recipe::eval::PLACE;
use crate::recipe::{PromptsConfig, Recipe};

const NAME: &str = "prompts";

/// Its numbers.
const NUMBERS: [&str; 3] = ["top1", "top5", "mean_class"];

/// `top5` is given only for more classes than this.
const FIVE: usize = 5;

/// Images of known classes.
pub struct Prompts {
    config: PromptsConfig,
    classes: Vec<String>,
    /// Each image with the index of its class.
    images: Vec<(PathBuf, usize)>,
    spec: ImageSpec,
    limits: Limits,
    max_skipped: f64,
}

impl Prompts {
    /// Lists the images of a recipe's `[eval.prompts]`.
    ///
    /// # Errors
    ///
    /// The folder cannot be read, or has fewer than two classes, or a class has no image.
    pub fn open(config: &PromptsConfig, recipe: &Recipe) -> Result<Self, TrainError> {
        let wrong = |path: &Path, reason: String| TrainError::Evaluator {
            key: "eval.prompts.folder".to_owned(),
            path: path.to_owned(),
            reason,
        };
        let mut folders = entries(&config.folder)?;
        folders.retain(|path| path.is_dir());
        if folders.len() < 2 {
            let reason = format!(
                "has {} folders; there must be one for each class",
                folders.len()
            );
            return Err(wrong(&config.folder, reason));
        }
        let (mut classes, mut found) = (Vec::new(), Vec::new());
        for (class, folder) in folders.iter().enumerate() {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            classes.push(name.replace('_', " "));
            let files = entries(folder)?;
            let files = files.into_iter().filter(|path| is_image(path));
            let before = found.len();
            found.extend(files.map(|path| (path, class)));
            if found.len() == before {
                let reason = "has no image (.jpg, .jpeg, .png, .webp)".to_owned();
                return Err(wrong(folder, reason));
            }
        }
        Ok(Self {
            config: config.clone(),
            classes,
            images: found,
            spec: recipe.data.image_spec(),
            limits: Limits::full_size(recipe.data.max_pixels),
            max_skipped: recipe.data.max_skipped,
        })
    }

    /// One text for each class and template, class by class.
    fn texts(&self) -> Vec<String> {
        let of_class = |class: &String| {
            let templates = self.config.templates.iter();
            let texts: Vec<String> = templates.map(|t| t.replace(PLACE, class)).collect();
            texts
        };
        self.classes.iter().flat_map(of_class).collect()
    }

    /// The class embeddings that images are compared with.
    ///
    /// # Shapes
    ///
    /// - output: `[C, E]`, rows of length 1
    fn prototypes(&self, weights: &Weights<'_>) -> Result<Tensor<2>, TrainError> {
        let (model, data) = (weights.model, &weights.recipe.data);
        let itc = itc(weights)?;
        let encode = |text: &String| weights.tokenizer.encode(text, data.max_text_length);
        let encoded: Vec<_> = self.texts().iter().map(encode).collect();
        let mut parts = Vec::new();
        for texts in encoded.chunks(weights.recipe.eval.batch_size) {
            interrupt::check()?;
            let texts = weights
                .tokenizer
                .pad(texts, data.max_text_length, Pad::Longest);
            let input =
                model
                    .backbone
                    .text
                    .input(&texts.ids, &texts.lengths, texts.length, weights.device);
            parts.push(normalise(
                itc.embed_texts(&model.backbone.encode_texts(&input)),
            ));
        }
        let all = Tensor::cat(parts, 0);
        let [_, width] = all.dims();
        let of_class = all.reshape([self.classes.len(), self.config.templates.len(), width]);
        let mean = of_class.mean_dim(1).squeeze_dim::<2>(1);
        Ok(normalise(mean))
    }

    /// The classes of each image, the nearest first, for the images that can be read.
    fn ranked(&self, weights: &Weights<'_>, skip: &SkipList) -> Result<Vec<Ranked>, TrainError> {
        let prototypes = self.prototypes(weights)?.transpose();
        let itc = itc(weights)?;
        let mut all = Vec::with_capacity(self.images.len());
        for images in self.images.chunks(weights.recipe.eval.batch_size) {
            interrupt::check()?;
            let read: Vec<_> = images.par_iter().map(|(path, _)| self.read(path)).collect();
            let (mut levels, mut kept) = (Vec::new(), Vec::new());
            for ((path, class), read) in images.iter().zip(read) {
                match read {
                    Ok(own) => {
                        levels.extend(own);
                        kept.push(*class);
                    }
                    // A damaged image is left out and counted; a read error ends the evaluation.
                    Err(error) => {
                        let place = Place {
                            file: path.display().to_string(),
                            line: 1,
                        };
                        skip.add(&SampleError::new(place, error))?;
                    }
                }
            }
            if kept.is_empty() {
                continue;
            }
            let batch = self.spec.batch(Vec::new());
            let pixels = Pictures::of_pixels(&batch, &levels, weights.device);
            let features = weights.model.backbone.encode_pictures(&pixels, None, 0);
            let scores = host(itc.embed_images(&features).matmul(prototypes.clone()));
            let rows = scores.chunks(self.classes.len());
            all.extend(kept.into_iter().zip(rows).map(|(class, scores)| Ranked {
                class,
                rank: rank(scores, class),
            }));
        }
        skip.check(self.images.len())?;
        Ok(all)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, ReadError> {
        let picture = images::read(path, self.limits)?;
        let square = self.spec.square(&picture)?;
        let mut levels = Vec::new();
        self.spec.planes(&square, &mut levels);
        Ok(levels)
    }
}

/// An image's class, and how many classes are nearer to the image.
struct Ranked {
    class: usize,
    rank: usize,
}

/// How many other classes score at least as high as `class`: among equal scores the right class comes last.
fn rank(scores: &[f32], class: usize) -> usize {
    let own = scores[class];
    let others = scores.iter().enumerate().filter(|(at, _)| *at != class);
    others.filter(|(_, score)| **score >= own).count()
}

fn itc<'a>(
    weights: &Weights<'a>,
) -> Result<&'a unimo_objectives::pretraining::itc::Itc, TrainError> {
    weights.model.objectives.itc.as_ref().ok_or_else(|| {
        TrainError::Check(
            "eval.prompts compares by [objectives.itc], which this run has not".to_owned(),
        )
    })
}

/// The entries of a folder, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let listed = fs::read_dir(folder).map_err(TrainError::file("read", folder))?;
    let paths = listed.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths
        .collect::<Result<_, _>>()
        .map_err(TrainError::file("read", folder))?;
    paths.sort();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let known = ["jpg", "jpeg", "png", "webp"];
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| known.contains(&e.to_lowercase().as_str()))
}

impl EvalSection for PromptsConfig {
    fn key(&self) -> &'static str {
        NAME
    }

    fn when(&self) -> When {
        When::OwnImages
    }

    fn selectable(&self, _recipe: &Recipe) -> Selectable {
        Selectable::of(&NUMBERS)
    }

    fn open(
        &self,
        recipe: &Recipe,
        _held_out: &HeldOut<'_>,
        _say: &mut dyn FnMut(String),
    ) -> Result<Option<Box<dyn Evaluator>>, TrainError> {
        Ok(Some(Box::new(Prompts::open(self, recipe)?)))
    }
}

impl Evaluator for Prompts {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scalars(&self) -> Vec<String> {
        let more = self.classes.len() > FIVE;
        NUMBERS
            .into_iter()
            .filter(|name| *name != "top5" || more)
            .map(|name| format!("{NAME}.{name}"))
            .collect()
    }

    fn says(&self, _recipe: &Recipe) -> Vec<String> {
        vec![format!(
            "classes by prompts: {} images of {} classes in {}",
            self.images.len(),
            self.classes.len(),
            self.config.folder.display()
        )]
    }

    fn evaluate(
        &self,
        weights: &Weights<'_>,
        say: &mut dyn FnMut(String),
    ) -> Result<Vec<EvalRecord>, TrainError> {
        let skip = SkipList::in_memory(self.max_skipped);
        let ranked = self.ranked(weights, &skip)?;
        let classes = self.classes.len();
        let share = |most: usize, of: &dyn Fn(&Ranked) -> bool| {
            let own: Vec<&Ranked> = ranked.iter().filter(|image| of(image)).collect();
            let right = own.iter().filter(|image| image.rank < most).count();
            right as f64 / own.len() as f64
        };
        let each = (0..classes).map(|class| share(1, &|image| image.class == class));
        // A class without readable images has no share.
        let each: Vec<f64> = each.filter(|share| share.is_finite()).collect();
        let mean_class = each.iter().sum::<f64>() / each.len() as f64;
        let scalar = |value: f64, most: usize| ScalarRecord {
            value,
            chance: Some(most as f64 / classes as f64),
            interval: None,
        };
        let mut scalars = BTreeMap::from([
            (format!("{NAME}.top1"), scalar(share(1, &|_| true), 1)),
            (format!("{NAME}.mean_class"), scalar(mean_class, 1)),
        ]);
        if classes > FIVE {
            let top5 = scalar(share(FIVE, &|_| true), FIVE);
            scalars.insert(format!("{NAME}.top5"), top5);
        }
        let top1 = &scalars[&format!("{NAME}.top1")];
        say(format!(
            "step {}: {} images of {classes} classes by prompts: top-1 {:.1}% (chance {:.1}%)",
            weights.step,
            ranked.len(),
            100.0 * top1.value,
            100.0 / classes as f64
        ));
        let unusable = skip.count() as u64;
        Ok(vec![EvalRecord {
            evaluator: NAME.to_owned(),
            step: weights.step,
            selects: false,
            scalars,
            split: self.config.folder.display().to_string(),
            left_out: left_out(unusable),
            images: ranked.len() as u64,
            texts: (classes * self.config.templates.len()) as u64,
            ..EvalRecord::default()
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_scores_the_right_class_comes_last() {
        assert_eq!(rank(&[0.1, 0.9, 0.3], 1), 0);
        assert_eq!(rank(&[0.9, 0.9, 0.3], 1), 1);
        assert_eq!(rank(&[0.5; 4], 2), 3);
    }

    #[test]
    fn a_template_says_where_the_name_stands() {
        let config = |template: &str| PromptsConfig {
            folder: "classes".into(),
            templates: vec![template.to_owned()],
        };
        config("a photo of a {}.").validate().unwrap();
        for wrong in ["a photo", "{} and {}"] {
            let error = config(wrong).validate().unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
