//! Formats whose files for training and for holding out are given apart.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::images::Limits;
use crate::settings::share;
use crate::sources::given::{Held, val_fraction};
use crate::sources::listed::Listed;
use crate::sources::source::{Source, SourceConfig};
use crate::sources::splits::Split;

/// Files of training samples and, where they are separate, of held-out ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts<P> {
    /// What is trained on.
    pub train: P,
    /// What is held out.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub val: Option<P>,
    /// What is held out to the end.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub test: Option<P>,
    /// Where `val` is absent, share of the training images that is held out, by a hash of the path.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
}

impl<P> Parts<P> {
    /// Files to train on, with what else a table says; by default a share of them is held out.
    pub(crate) fn of(train: P, table: Option<Self>) -> Self {
        match table {
            Some(table) => Self { train, ..table },
            None => Self {
                train,
                val: None,
                test: None,
                val_fraction: val_fraction(),
            },
        }
    }
}

/// The files of one split in one format.
pub trait Part: std::fmt::Debug + Clone + Send + Sync {
    /// What the format is called in descriptions.
    const NAME: &'static str;

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key, what was found and what is allowed.
    fn validate(&self, table: &str) -> Result<(), DataError>;

    /// Every path in it.
    fn paths(&mut self) -> Vec<&mut PathBuf>;

    /// Reads the files into a table.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is no list of this kind.
    fn read(&self, table: &mut Listed, held: Held) -> Result<(), DataError>;
}

impl<P: Part> SourceConfig for Parts<P> {
    fn validate(&self, table: &str) -> Result<(), DataError> {
        self.train.validate(&format!("{table}.train"))?;
        for (key, part) in [("val", &self.val), ("test", &self.test)] {
            if let Some(part) = part {
                part.validate(&format!("{table}.{key}"))?;
            }
        }
        share(&format!("{table}.val_fraction"), self.val_fraction)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = self.train.paths();
        let held_out = self.val.iter_mut().chain(&mut self.test);
        paths.extend(held_out.flat_map(Part::paths));
        paths
    }

    fn open(&self, limits: &Limits) -> Result<Arc<dyn Source>, DataError> {
        let mut table = Listed::new(P::NAME, limits);
        match &self.val {
            None => {
                table.fraction = self.val_fraction;
                self.train
                    .read(&mut table, Held::Share(self.val_fraction))?;
            }
            Some(val) => {
                self.train.read(&mut table, Held::All(Split::Train))?;
                val.read(&mut table, Held::All(Split::Val))?;
            }
        }
        if let Some(test) = &self.test {
            test.read(&mut table, Held::All(Split::Test))?;
        }
        Ok(Arc::new(table.finish()?))
    }
}
