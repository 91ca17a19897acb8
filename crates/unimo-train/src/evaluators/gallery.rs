//! Held-out images with the captions that the model ranks first, for the report.

use image::RgbImage;
use unimo_data::EvalSet;
use unimo_data::images::{self, Limits};
use unimo_eval::retrieval::MethodReport;
use unimo_report::record::{GalleryItem, GalleryRecord, RankedCaption};

use crate::error::TrainError;
use crate::files;
use crate::recipe::Recipe;
use crate::run::RunFolder;

/// Longest side of an image in the gallery, in pixels: the report shows no larger ones.
const GALLERY_SIDE: u32 = 320;

/// Writes an image for the report, and returns its path inside the run folder. Photographs are scaled down and saved as JPEG; a
/// small image, such as a generated scene, stays exact.
pub(crate) fn shown_picture(
    run: &RunFolder,
    name: &str,
    picture: &RgbImage,
) -> Result<String, TrainError> {
    let large = picture.width().max(picture.height()) > GALLERY_SIDE;
    let small = large.then(|| images::thumbnail(picture, GALLERY_SIDE));
    let name = format!("{name}.{}", if large { "jpg" } else { "png" });
    files::write_picture(&run.join(&name), small.as_ref().unwrap_or(picture))?;
    Ok(name)
}

/// Some held-out images with the captions that the model ranks first, spread over the set.
pub(crate) fn gallery(
    run: &RunFolder,
    set: &EvalSet,
    recipe: &Recipe,
    best: &MethodReport,
) -> Result<GalleryRecord, TrainError> {
    let folder = run.join("gallery");
    std::fs::create_dir_all(&folder).map_err(TrainError::file("create", &folder))?;
    let count = set.items().len();
    let shown = recipe.eval.gallery.min(count);
    let mut items = Vec::new();
    for number in 0..shown {
        let index = number * count / shown;
        // In full size, even if the model reads a smaller image.
        let item = &set.items()[index];
        let stored = set.source().image_bytes(item.split, item.index);
        let full = stored.ok().flatten().and_then(|(bytes, _)| {
            images::decode(&bytes, Limits::full_size(recipe.data.max_pixels)).ok()
        });
        let picture = match full {
            Some(picture) => Some(picture),
            None => set.picture(index)?,
        };
        let Some(picture) = picture else {
            continue;
        };
        let name = shown_picture(run, &format!("gallery/{number}"), &picture)?;
        let captions = set.captions();
        let ranked = best.captions_of_image.get(index).map_or(&[][..], |c| c);
        items.push(GalleryItem {
            image: name,
            truth: captions[item.captions.clone()]
                .iter()
                .map(|c| c.text.clone())
                .collect(),
            captions: ranked
                .iter()
                .map(|candidate| {
                    let score = f64::from(candidate.score);
                    RankedCaption {
                        text: captions[candidate.index].text.clone(),
                        // The matching head's score is a logit, shown as a probability.
                        score: if candidate.by_itm {
                            1.0 / (1.0 + (-score).exp())
                        } else {
                            score
                        },
                        right: candidate.is_match,
                    }
                })
                .collect(),
        });
    }
    Ok(GalleryRecord { items })
}
