//! Where phrases are found in images: maps of the cosines of phrases with patches or regions, after the cross-modal encoder. If the
//! boxes of objects are known, also how often the centre of the nearest patch or region lies in one of them. Boxes are not read
//! next to a detector's features.

use std::rc::Rc;

use image::{Rgb, RgbImage};
use unimo_data::images::Resize;
use unimo_data::{DataError, EvalSet, Sample, TextTokenizer, readable};
use unimo_encoders::features::{ImageFeatures, TextFeatures};
use unimo_encoders::image::ImageEncoder;
use unimo_encoders::output::Keep;
use unimo_eval::grounding::{Pointing, middles};
use unimo_objectives::pretraining::wpg::cosines;
use unimo_report::record::{PhraseMap, PhrasePicture, PhrasesRecord};

use crate::error::TrainError;
use crate::files;
use crate::heat;
use crate::model::{Model, host};
use crate::recipe::Recipe;
use crate::run::RunFolder;

/// Number of captions that are inspected, one per image.
pub const CAPTIONS: usize = 500;
/// Number of images that are drawn, and of phrases per image.
const PICTURES: usize = 8;
const PHRASES: usize = 4;
/// Side of a drawn image, in pixels.
const SIDE: u32 = 128;

/// Where one phrase is found in its image.
#[derive(Debug, Clone)]
struct Found {
    image: usize,
    phrase: String,
    /// Cosine with each patch or region.
    cosines: Vec<f32>,
    places: Rc<Places>,
    boxes: Vec<[f32; 4]>,
}

/// Where the patches or regions of an image lie.
#[derive(Debug)]
enum Places {
    /// On a grid, row by row.
    Patches(usize),
    /// In boxes.
    Regions(Vec<[f32; 4]>),
}

impl Places {
    /// Their centres.
    fn middles(&self) -> Vec<[f32; 2]> {
        match self {
            Self::Patches(grid) => middles(*grid),
            Self::Regions(boxes) => {
                let middle = |[x1, y1, x2, y2]: &[f32; 4]| [(x1 + x2) / 2.0, (y1 + y2) / 2.0];
                boxes.iter().map(middle).collect()
            }
        }
    }

    /// The cosine at a point. With regions it is the highest of those that contain the point; `None` if no region does.
    fn at(&self, cosines: &[f32], [x, y]: [f32; 2]) -> Option<f32> {
        match self {
            Self::Patches(grid) => {
                let cell = |at: f32| ((at * *grid as f32) as usize).min(grid - 1);
                cosines.get(cell(y) * grid + cell(x)).copied()
            }
            Self::Regions(boxes) => boxes
                .iter()
                .zip(cosines)
                .filter(|([x1, y1, x2, y2], _)| {
                    (*x1..=*x2).contains(&x) && (*y1..=*y2).contains(&y)
                })
                .map(|(_, cosine)| *cosine)
                .max_by(f32::total_cmp),
        }
    }
}

/// Where the phrases of some held-out captions are found.
#[derive(Debug, Clone)]
pub struct Phrases {
    found: Vec<Found>,
    pointing: Pointing,
}

/// Finds the phrases of held-out captions in their images; `None` if texts have no concepts. `features` gives the features of pairs
/// of a caption and an image.
pub(crate) fn phrases(
    model: &Model,
    set: &EvalSet,
    tokenizer: &TextTokenizer,
    recipe: &Recipe,
    mut features: impl FnMut(&[(usize, usize)]) -> Result<(TextFeatures, ImageFeatures), TrainError>,
) -> Option<Result<Phrases, TrainError>> {
    let reader = set.concepts()?;
    let patches = model.backbone.image.as_ref().map(ImageEncoder::grid);
    let first_captions = set.items().iter().enumerate();
    let pairs: Vec<(usize, usize)> = first_captions
        .filter(|(_, item)| !item.captions.is_empty())
        .map(|(image, item)| (item.captions.start, image))
        .take(CAPTIONS)
        .collect();
    let mut all = Phrases {
        found: Vec::new(),
        pointing: Pointing::default(),
    };
    let source = set.source();
    for pairs in pairs.chunks(recipe.eval.batch_size) {
        let (texts, images) = match features(pairs) {
            Ok(features) => features,
            Err(error) => return Some(Err(error)),
        };
        let fused = model.backbone.fuse(&texts, &images, Keep::Nothing);
        let text = fused.text();
        let [_, length, _] = text.dims();
        // Patches or regions come last, after a class token if there is one.
        let image = fused.image();
        let count = match (patches, source.region_shape()) {
            (Some(grid), _) => grid * grid,
            (None, shape) => shape?.most,
        };
        let first = image.dims()[1] - count;
        let places = image.clone().narrow(1, first, count);
        let all_cosines = host(cosines(text.clone(), places));
        for (row, (caption, image)) in pairs.iter().enumerate() {
            let encoded = set.encode(*caption, tokenizer, recipe.data.max_text_length);
            let encoded = match encoded {
                Ok(encoded) => encoded,
                Err(error) => return Some(Err(error.into())),
            };
            let end = encoded.ids.len().saturating_sub(1);
            // Boxes are read together with the image, which is not worth reading if they are unknown. Regions are read with the
            // sample.
            let item = &set.items()[*image];
            let (split, index) = (item.split, item.index);
            let of_picture = || -> Result<Sample, DataError> {
                let tagged = !readable(source.tags(split, index))?.is_empty();
                if tagged || patches.is_none() {
                    readable(source.sample(split, index))
                } else {
                    Ok(Sample::default())
                }
            };
            let sample = match of_picture() {
                Ok(sample) => sample,
                Err(error) => return Some(Err(error.into())),
            };
            let places = Rc::new(match (patches, sample.regions) {
                (Some(grid), _) => Places::Patches(grid),
                (None, regions) => Places::Regions(regions.unwrap_or_default().boxes),
            });
            let middles = places.middles();
            for at in end - encoded.concepts..end {
                let Some(phrase) = reader.name(encoded.ids[at]) else {
                    continue;
                };
                let of_row = &all_cosines[(row * length + at) * count..][..middles.len()];
                let boxes = match (recipe.data.resize, patches) {
                    (Resize::Squash, _) | (_, None) => {
                        boxes_of(phrase, &sample.tags, &sample.boxes)
                    }
                    // Boxes are relative to the whole image, of which the model sees only a part.
                    _ => Vec::new(),
                };
                all.pointing.add(of_row, &middles, &boxes);
                all.found.push(Found {
                    image: *image,
                    phrase: phrase.to_owned(),
                    cosines: of_row.to_vec(),
                    places: Rc::clone(&places),
                    boxes,
                });
            }
        }
    }
    Some(Ok(all))
}

/// The boxes of the objects that a phrase names: those whose name's words are all in the phrase, else those whose name has all
/// words of the phrase. None if these have different names, as for `red circle above blue star`.
fn boxes_of(phrase: &str, tags: &[String], boxes: &[[f32; 4]]) -> Vec<[f32; 4]> {
    // Singular and plural count as one word.
    let words = |text: &str| -> Vec<String> {
        let stem = |word: &str| {
            let word = word.strip_suffix("es").unwrap_or(word);
            word.strip_suffix('s')
                .unwrap_or(word)
                .trim_end_matches('e')
                .to_owned()
        };
        text.split(' ').map(stem).collect()
    };
    let of_phrase = words(phrase);
    let holds = |all: &[String], some: &[String]| some.iter().all(|word| all.contains(word));
    let named = |matches: &dyn Fn(&[String]) -> bool| -> Vec<usize> {
        (0..tags.len().min(boxes.len()))
            .filter(|i| matches(&words(&tags[*i])))
            .collect()
    };
    let whole = named(&|tag| holds(&of_phrase, tag));
    let chosen = match whole.is_empty() {
        true => named(&|tag| holds(tag, &of_phrase)),
        false if whole.iter().any(|i| tags[*i] != tags[whole[0]]) => Vec::new(),
        false => whole,
    };
    chosen.into_iter().map(|i| boxes[i]).collect()
}

impl Phrases {
    /// Writes `phrases.json` and the maps next to it.
    pub(crate) fn write(&self, run: &RunFolder, set: &EvalSet) -> Result<(), TrainError> {
        let folder = run.join("phrases");
        std::fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
        let mut images: Vec<usize> = self.found.iter().map(|found| found.image).collect();
        images.dedup();
        let mut pictures = Vec::new();
        let shown = PICTURES.min(images.len());
        for number in 0..shown {
            let image = images[number * images.len() / shown];
            let Some(picture) = set.picture(image)? else {
                continue;
            };
            let square = set
                .image_spec()
                .square(&picture)
                .map_err(TrainError::Check)?;
            let mut maps = Vec::new();
            let own = self.found.iter().filter(|found| found.image == image);
            for (index, found) in own.take(PHRASES).enumerate() {
                let name = format!("phrases/{number}-{index}.png");
                let path = run.join(&name);
                let drawn = draw(&square, found);
                files::write_picture(&path, &drawn)?;
                maps.push(PhraseMap {
                    phrase: found.phrase.clone(),
                    image: name,
                });
            }
            let caption = set.items()[image].captions.start;
            pictures.push(PhrasePicture {
                caption: set.captions()[caption].text.clone(),
                maps,
            });
        }
        let record = PhrasesRecord {
            phrases: self.pointing.phrases as u64,
            accuracy: self.pointing.accuracy(),
            centre: self.pointing.centre(),
            chance: self.pointing.chance(),
            pictures,
        };
        run.write_json("phrases.json", &record)
    }

    /// One line for the terminal; `None` if no boxes are known.
    pub(crate) fn summary(&self) -> Option<String> {
        let percent = |share: Option<f64>| share.map(|share| format!("{:.1}%", 100.0 * share));
        Some(format!(
            "phrases point into their boxes: {} of {} (centre {}, chance {})",
            percent(self.pointing.accuracy())?,
            self.pointing.phrases,
            percent(self.pointing.centre())?,
            percent(self.pointing.chance())?,
        ))
    }
}

/// The image in grey with its boxes and the cosines as colour: no colour at the lowest, full colour at the highest.
fn draw(square: &RgbImage, found: &Found) -> RgbImage {
    let picture =
        image::imageops::resize(square, SIDE, SIDE, image::imageops::FilterType::Triangle);
    let at = |point| found.places.at(&found.cosines, point);
    let mut picture = heat::heated(&picture, heat::range(&found.cosines), at);
    let last = SIDE - 1;
    for bounds in &found.boxes {
        let [x1, y1, x2, y2] = bounds.map(|edge| ((edge * SIDE as f32) as u32).min(last));
        for x in x1..=x2 {
            picture.put_pixel(x, y1, Rgb([255; 3]));
            picture.put_pixel(x, y2, Rgb([255; 3]));
        }
        for y in y1..=y2 {
            picture.put_pixel(x1, y, Rgb([255; 3]));
            picture.put_pixel(x2, y, Rgb([255; 3]));
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_has_the_boxes_of_what_it_names() {
        let tags = ["red circle", "red circle", "blue star"].map(str::to_owned);
        let boxes = [[0.1; 4], [0.2; 4], [0.3; 4]];
        let of = |phrase: &str| boxes_of(phrase, &tags, &boxes);
        assert_eq!(of("large red circles"), boxes[..2]);
        assert_eq!(of("circle"), boxes[..2]);
        assert_eq!(of("stars"), boxes[2..]);
        assert!(of("red circles above blue star").is_empty());
        assert!(of("grey background").is_empty());
    }
}
