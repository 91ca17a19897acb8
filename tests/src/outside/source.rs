//! `[data.stripes]`: generated images of stripes that lie or stand, which the caption says.

use std::path::PathBuf;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};
use unimo_data::images::Limits;
use unimo_data::{Annotations, DataError, Label, Place, SampleError, Source, SourceConfig, Split};

/// The answers of the task, in the order of the head.
pub const DIRECTIONS: &[&str] = &["lying", "standing"];

/// Names of colours, with their values.
const COLOURS: [(&str, [u8; 3]); 3] = [
    ("red", [200, 30, 30]),
    ("green", [30, 180, 30]),
    ("blue", [30, 30, 220]),
];

/// Its settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StripesConfig {
    /// Pixels per side.
    pub size: u32,
    /// Number of training images.
    pub train: usize,
    /// Number of held-out images.
    #[serde(default)]
    pub val: usize,
    /// A word before each caption.
    #[serde(default)]
    pub prefix: Option<String>,
}

impl SourceConfig for StripesConfig {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        if self.train > 0 {
            return Ok(());
        }
        let key = format!("{table}.train");
        Err(DataError::config(key, self.train, "a whole number from 1"))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }

    fn open(&self, _limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        Ok(Arc::new(Stripes(self.clone())))
    }
}

struct Stripes(StripesConfig);

impl Stripes {
    /// Number, colour and direction of a sample's stripes. Held-out samples have other numbers of stripes.
    fn look(split: Split, index: usize) -> (usize, usize, usize) {
        let held_out = usize::from(split != Split::Train);
        let (direction, rest) = (index % 2, index / 2);
        let (colour, rest) = (rest % COLOURS.len(), rest / COLOURS.len());
        (2 + 2 * (rest % 4) + held_out, colour, direction)
    }
}

impl Source for Stripes {
    fn len(&self, split: Split) -> usize {
        match split {
            Split::Train => self.0.train,
            Split::Val => self.0.val,
            Split::Test => 0,
        }
    }

    fn describe(&self) -> String {
        format!("{} images of stripes", self.0.train + self.0.val)
    }

    fn place(&self, split: Split, index: usize) -> Place {
        Place {
            file: format!("stripes {}", split.name()),
            line: index as u64,
        }
    }

    fn captions(&self, split: Split, index: usize) -> Result<Vec<String>, SampleError> {
        let (count, colour, direction) = Self::look(split, index);
        let caption = format!(
            "{count} {} stripes {}",
            COLOURS[colour].0, DIRECTIONS[direction]
        );
        Ok(vec![match &self.0.prefix {
            Some(prefix) => format!("{prefix} {caption}"),
            None => caption,
        }])
    }

    fn annotations(&self, split: Split, index: usize) -> Result<Annotations, SampleError> {
        let (_, _, direction) = Self::look(split, index);
        let label = Label {
            id: index.to_string(),
            answer: Some(DIRECTIONS[direction].to_owned()),
            ..Label::default()
        };
        Ok(Annotations {
            labels: vec![label],
            ..Annotations::default()
        })
    }

    fn image(&self, split: Split, index: usize) -> Result<Option<RgbImage>, SampleError> {
        let (count, colour, direction) = Self::look(split, index);
        let size = self.0.size;
        let picture = RgbImage::from_fn(size, size, |x, y| {
            let along = [y, x][direction] as usize;
            let striped = (2 * count * along / size as usize).is_multiple_of(2);
            Rgb(if striped { COLOURS[colour].1 } else { [240; 3] })
        });
        Ok(Some(picture))
    }
}
