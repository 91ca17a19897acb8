//! Images with hidden and filled-in patches.
//!
//! Shape legend: `N` patches of an image, row by row, `Y` numbers of a target, `S` pixels along the image, `P` along a patch, `C` channels.

use image::{Rgb, RgbImage};
use unimo_batch::Images;
use unimo_data::images::codes::Codebook;

/// A hidden patch is hatched, which no image is by itself: the colours of the ground and of the lines, and the pixels from line to line.
const GROUND: Rgb<u8> = Rgb([235, 235, 235]);
const LINE: Rgb<u8> = Rgb([110, 110, 110]);
const LINES: usize = 4;

/// Pixels along an image that are large enough to look at: smaller images are enlarged by a whole factor.
const LARGE: usize = 160;

/// Steps of the power iteration: enough for three components that are only looked at.
const ITERATIONS: usize = 50;

/// The smallest deviation that a patch is scaled by, so that a plain patch stays plain.
const LEAST: f32 = 1e-3;

/// An image to show.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shown {
    /// `[C, S, S]`.
    pub levels: Vec<u8>,
    /// `S`.
    pub side: usize,
    /// `[N]`.
    pub hidden: Vec<bool>,
    /// What is predicted of each hidden patch, `[Y]` each.
    pub predicted: Vec<Vec<f32>>,
    /// `[N, Y]`: the targets of all patches, unless they are codes.
    pub values: Option<Vec<f32>>,
    /// The text beside the image.
    pub text: String,
}

/// How predictions become colours.
pub(super) enum Filling<'a> {
    /// They are pixels.
    Pixels {
        /// Of each patch, with mean 0 and variance 1.
        normalised: bool,
    },
    /// They are states: these directions give red, green and blue.
    States(Colours),
    /// They are logits of codes, whose patches are known or not.
    Codes(Option<&'a Codebook>),
}

/// Three directions of states, and the least and greatest value of each.
pub(super) struct Colours {
    mean: Vec<f32>,
    directions: Vec<Vec<f32>>,
    ranges: Vec<(f32, f32)>,
}

impl Shown {
    fn patch_size(&self) -> usize {
        self.side / self.hidden.len().isqrt().max(1)
    }

    fn image(&self) -> RgbImage {
        let side = self.side as u32;
        RgbImage::from_fn(side, side, |x, y| {
            let at = (y * side + x) as usize;
            let plane = self.side * self.side;
            Rgb(std::array::from_fn(|channel| {
                self.levels[channel * plane + at]
            }))
        })
    }

    /// The image with each patch that `of` gives colours for drawn anew: `[P, P, C]`.
    fn redrawn(&self, mut of: impl FnMut(usize) -> Option<Vec<u8>>) -> RgbImage {
        let mut image = self.image();
        let size = self.patch_size();
        let across = self.side / size.max(1);
        for place in 0..self.hidden.len() {
            let Some(patch) = of(place) else {
                continue;
            };
            let (top, left) = (place / across * size, place % across * size);
            for (at, pixel) in patch.chunks_exact(Images::CHANNELS).enumerate() {
                let (x, y) = (left + at % size, top + at / size);
                if let [red, green, blue] = *pixel {
                    image.put_pixel(x as u32, y as u32, Rgb([red, green, blue]));
                }
            }
        }
        image
    }

    /// A patch of one colour.
    fn plain(&self, colour: Rgb<u8>) -> Vec<u8> {
        let size = self.patch_size();
        colour.0.repeat(size * size)
    }

    fn hatched(&self) -> Vec<u8> {
        let size = self.patch_size();
        let pixels = (0..size * size).flat_map(|at| {
            let along = at % size + at / size;
            if along.is_multiple_of(LINES) {
                LINE.0
            } else {
                GROUND.0
            }
        });
        pixels.collect()
    }

    /// The number of each hidden patch among those that are hidden.
    fn number(&self, place: usize) -> Option<usize> {
        let before = self.hidden[..place].iter().filter(|hidden| **hidden);
        self.hidden[place].then(|| before.count())
    }

    /// The mean and deviation of the levels of a patch, over its pixels and channels.
    fn scale(&self, place: usize) -> (f32, f32) {
        let size = self.patch_size();
        let across = self.side / size.max(1);
        let (top, left) = (place / across * size, place % across * size);
        let plane = self.side * self.side;
        let pixels = (0..Images::CHANNELS).flat_map(|channel| {
            (0..size).flat_map(move |y| {
                let first = channel * plane + (top + y) * self.side + left;
                self.levels[first..first + size]
                    .iter()
                    .copied()
                    .map(f32::from)
            })
        });
        let count = (Images::CHANNELS * size * size) as f32;
        let mean = pixels.clone().sum::<f32>() / count;
        let variance = pixels.map(|level| (level - mean).powi(2)).sum::<f32>() / count;
        (mean, variance.sqrt().max(LEAST))
    }
}

impl Filling<'_> {
    /// The directions of the targets of these images.
    pub fn states(shown: &[Shown]) -> Self {
        let rows: Vec<&[f32]> = shown
            .iter()
            .filter_map(|image| Some((image.values.as_ref()?, image.hidden.len())))
            .flat_map(|(values, patches)| values.chunks_exact(values.len() / patches.max(1)))
            .collect();
        Self::States(Colours::of(&rows))
    }

    /// One sentence for the report.
    pub fn legend(&self) -> &'static str {
        match self {
            Self::Pixels { normalised: true } => {
                "A patch is predicted with mean 0 and variance 1, and drawn with the mean and the deviation of the true patch, as MAE does."
            }
            Self::Pixels { normalised: false } => "A patch is predicted as its pixels.",
            Self::States(_) => {
                "A patch is predicted as a state of the teacher, of which the first three principal components are drawn as red, green and blue."
            }
            Self::Codes(Some(_)) => {
                "A patch is predicted as a code, and drawn as the typical patch that the code stands for."
            }
            Self::Codes(None) => {
                "A patch is predicted as a code that was made elsewhere, so that nothing says what it looks like."
            }
        }
    }

    /// The pictures of an image, each with what it is.
    pub fn pictures(&self, image: &Shown) -> Vec<(&'static str, RgbImage)> {
        let hatched = |place: usize| image.hidden[place].then(|| image.hatched());
        let mut all = vec![("image", image.image()), ("hidden", image.redrawn(hatched))];
        let predicted = |place: usize| image.number(place).and_then(|at| image.predicted.get(at));
        match self {
            Self::Pixels { normalised } => {
                let filled = image.redrawn(|place| {
                    let values = predicted(place)?;
                    let scale = normalised.then(|| image.scale(place));
                    Some(values.iter().map(|value| level(*value, scale)).collect())
                });
                all.push(("filled in", filled));
            }
            Self::Codes(Some(book)) => {
                let filled = image.redrawn(|place| {
                    let logits = (0..).zip(predicted(place)?);
                    let (code, _) = logits.max_by(|a, b| a.1.total_cmp(b.1))?;
                    Some(book.patch(code))
                });
                all.push(("filled in", filled));
            }
            Self::Codes(None) => {}
            Self::States(colours) => {
                let numbers = colours.mean.len().max(1);
                let target = |place: usize| {
                    let values = image.values.as_ref()?;
                    let own = values.chunks_exact(numbers).nth(place)?;
                    Some(image.plain(colours.of_state(own)))
                };
                all.push(("teacher", image.redrawn(target)));
                let filled = image.redrawn(|place| match predicted(place) {
                    Some(state) => Some(image.plain(colours.of_state(state))),
                    None => target(place),
                });
                all.push(("filled in", filled));
            }
        }
        let factor = LARGE.div_ceil(image.side.max(1)).max(1) as u32;
        let enlarged = all.into_iter().map(|(what, picture)| {
            let (width, height) = (picture.width() * factor, picture.height() * factor);
            let large = RgbImage::from_fn(width, height, |x, y| {
                *picture.get_pixel(x / factor, y / factor)
            });
            (what, large)
        });
        enlarged.collect()
    }
}

/// A pixel as a level: scaled back by the mean and deviation of its patch, or from 0..1.
fn level(value: f32, scale: Option<(f32, f32)>) -> u8 {
    let level = match scale {
        Some((mean, deviation)) => value * deviation + mean,
        None => value * f32::from(u8::MAX),
    };
    level.round().clamp(0.0, f32::from(u8::MAX)) as u8
}

impl Colours {
    /// The first three principal components of these rows, by power iteration.
    fn of(rows: &[&[f32]]) -> Self {
        let numbers = rows.first().map_or(0, |row| row.len());
        let count = rows.len().max(1) as f32;
        let mut mean = vec![0f32; numbers];
        for row in rows {
            mean.iter_mut()
                .zip(*row)
                .for_each(|(mean, own)| *mean += own / count);
        }
        let mut directions: Vec<Vec<f32>> = Vec::new();
        for component in 0..Images::CHANNELS.min(numbers) {
            // Any start that is not orthogonal to the component does.
            let mut direction: Vec<f32> = (0..numbers)
                .map(|at| 1.0 + ((at + component) % Images::CHANNELS) as f32)
                .collect();
            for _ in 0..ITERATIONS {
                let mut next = vec![0f32; numbers];
                for row in rows {
                    let along = along(row, &mean, &direction);
                    for ((next, own), mean) in next.iter_mut().zip(*row).zip(&mean) {
                        *next += along * (own - mean);
                    }
                }
                for known in &directions {
                    let along: f32 = next.iter().zip(known).map(|(a, b)| a * b).sum();
                    next.iter_mut()
                        .zip(known)
                        .for_each(|(a, b)| *a -= along * b);
                }
                let length = next.iter().map(|a| a * a).sum::<f32>().sqrt();
                if length <= f32::MIN_POSITIVE {
                    break;
                }
                next.iter_mut().for_each(|a| *a /= length);
                direction = next;
            }
            directions.push(direction);
        }
        let range = |direction: &Vec<f32>| {
            let all = rows.iter().map(|row| along(row, &mean, direction));
            all.fold((f32::MAX, f32::MIN), |(least, most), own| {
                (least.min(own), most.max(own))
            })
        };
        let ranges = directions.iter().map(range).collect();
        Self {
            mean,
            directions,
            ranges,
        }
    }

    fn of_state(&self, state: &[f32]) -> Rgb<u8> {
        Rgb(std::array::from_fn(|channel| {
            let (Some(direction), Some((least, most))) =
                (self.directions.get(channel), self.ranges.get(channel))
            else {
                return 0;
            };
            let own = along(state, &self.mean, direction);
            let share = (own - least) / (most - least).max(f32::MIN_POSITIVE);
            level(share, None)
        }))
    }
}

/// How far a row lies from the mean along a direction.
fn along(row: &[f32], mean: &[f32], direction: &[f32]) -> f32 {
    let all = row.iter().zip(mean).zip(direction);
    all.map(|((own, mean), direction)| (own - mean) * direction)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two by two patches of two by two pixels: dark above, bright below, with a bright dot in each.
    fn shown() -> Shown {
        let plane: Vec<u8> = vec![
            10, 30, 10, 30, //
            10, 10, 10, 10, //
            200, 240, 200, 240, //
            200, 200, 200, 200,
        ];
        Shown {
            levels: plane.repeat(Images::CHANNELS),
            side: 4,
            hidden: vec![false, true, false, true],
            predicted: Vec::new(),
            values: None,
            text: String::new(),
        }
    }

    fn small(pictures: &[(&'static str, RgbImage)], what: &str) -> RgbImage {
        let (_, large) = pictures.iter().find(|(own, _)| *own == what).unwrap();
        let factor = large.width() / 4;
        RgbImage::from_fn(4, 4, |x, y| *large.get_pixel(x * factor, y * factor))
    }

    #[test]
    fn a_right_prediction_gives_the_image_back() {
        let mut image = shown();
        for place in [1, 3] {
            let (mean, deviation) = image.scale(place);
            let first = if place == 1 {
                [10, 30, 10, 10]
            } else {
                [200, 240, 200, 200]
            };
            let values = first.iter().flat_map(|level| {
                let value = (*level as f32 - mean) / deviation;
                [value; Images::CHANNELS]
            });
            image.predicted.push(values.collect());
        }
        let pictures = Filling::Pixels { normalised: true }.pictures(&image);
        let (whole, hidden) = (small(&pictures, "image"), small(&pictures, "hidden"));
        assert_eq!(small(&pictures, "filled in"), whole);
        assert_eq!(*hidden.get_pixel(3, 0), GROUND);
        assert_eq!(*hidden.get_pixel(2, 2), LINE);
        assert_eq!(hidden.get_pixel(1, 0), whole.get_pixel(1, 0));
        assert!(
            pictures
                .iter()
                .all(|(_, large)| large.width() as usize >= LARGE)
        );
    }

    #[test]
    fn states_that_differ_most_have_the_ends_of_the_colours() {
        // Along one direction alone.
        let rows: Vec<Vec<f32>> = [0.0f32, 1.0, 2.0, 4.0]
            .iter()
            .map(|along| vec![*along, 2.0 * along, 7.0])
            .collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let colours = Colours::of(&rows);
        let red = |row: &[f32]| colours.of_state(row).0[0];
        let ends = [red(rows[0]), red(rows[3])];
        assert!(ends == [0, 255] || ends == [255, 0], "{ends:?}");
        assert!((i32::from(red(rows[1])) - i32::from(red(rows[0]))).abs() - 64 <= 1);
    }

    #[test]
    fn without_states_there_are_no_colours() {
        assert_eq!(Colours::of(&[]).of_state(&[]), Rgb([0, 0, 0]));
    }
}
