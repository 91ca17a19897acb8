//! Stories of a batch: the images and sentences of each sample, in order.

use image::RgbImage;
use unimo_batch::{Slice, Slices};

use crate::images::ImageSpec;
use crate::sources::telling::StorySlice;
use crate::text::tokens::{Encoded, Pad, TextTokenizer};

/// Slices of a story at least: one alone has no order.
const LEAST: usize = 2;

/// A slice as the model reads it.
#[derive(Debug, Clone)]
pub(super) enum MadeSlice {
    /// Levels of an image.
    Image(Vec<u8>),
    /// A sentence.
    Text(Encoded),
}

/// The slices of a sample as a model reads them, which takes `most` at most. `square` makes an image square, given its number in the story.
///
/// # Errors
///
/// It is no story, or has more slices; or what `square` says of an image.
pub(super) fn made(
    slices: Vec<StorySlice>,
    most: usize,
    images: &ImageSpec,
    square: &dyn Fn(usize, RgbImage) -> Result<RgbImage, String>,
    encode: &dyn Fn(&str) -> Encoded,
) -> Result<Vec<MadeSlice>, String> {
    let count = slices.len();
    if count < LEAST {
        return Err(format!(
            "a story of {count} slices, where {LEAST} or more are needed: images and sentences in order"
        ));
    }
    if count > most {
        return Err(format!(
            "a story of {count} slices, where the model reads {most} at most (model.joint.interleaved.slices)"
        ));
    }
    let one = |(at, slice): (usize, StorySlice)| {
        Ok(match slice {
            StorySlice::Text(text) => MadeSlice::Text(encode(&text)),
            StorySlice::Image(picture) => {
                let mut levels = Vec::with_capacity(images.values());
                images.planes(&square(at, picture)?, &mut levels);
                MadeSlice::Image(levels)
            }
        })
    };
    slices.into_iter().enumerate().map(one).collect()
}

/// The stories of a batch.
pub(super) fn batch(
    stories: Vec<Vec<MadeSlice>>,
    images: &ImageSpec,
    tokenizer: &TextTokenizer,
    max_length: usize,
) -> Slices {
    let (mut levels, mut texts) = (Vec::new(), Vec::new());
    let mut pictures = 0;
    let mut numbered = |slice: MadeSlice| match slice {
        MadeSlice::Image(own) => {
            levels.extend(own);
            pictures += 1;
            Slice::Image(pictures - 1)
        }
        MadeSlice::Text(text) => {
            texts.push(text);
            Slice::Text(texts.len() - 1)
        }
    };
    let stories = stories.into_iter();
    let stories = stories.map(|story| story.into_iter().map(&mut numbered).collect());
    let stories = stories.collect();
    Slices {
        stories,
        images: (pictures > 0).then(|| images.batch(levels)),
        texts: (!texts.is_empty()).then(|| tokenizer.pad(&texts, max_length, Pad::Longest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_story_for_the_model_says_what_is_allowed() {
        let texts = |count: usize| vec![StorySlice::Text("x".to_owned()); count];
        let encode = |_: &str| Encoded {
            ids: vec![0, 2],
            word_ids: vec![None; 2],
            concepts: 0,
            first: 2,
        };
        let square = |_, picture| Ok(picture);
        let spec = crate::config::DataConfig::default().image_spec();
        let made = |count| made(texts(count), 4, &spec, &square, &encode).map(|made| made.len());
        assert_eq!(made(4), Ok(4));
        assert!(made(1).unwrap_err().contains("2 or more"));
        let error = made(5).unwrap_err();
        assert!(
            error.contains("5 slices") && error.contains("4 at most"),
            "{error}"
        );
    }
}
