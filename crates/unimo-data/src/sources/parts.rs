//! Formats with separate files for training and for held-out samples.

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

/// Files of training samples and, if separate, of held-out samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts<P> {
    /// The training files.
    pub train: P,
    /// The held-out files.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub val: Option<P>,
    /// The files of the test split.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub test: Option<P>,
    /// Share of the training images that is held out if `val` is absent, by a hash of the path.
    #[serde(default = "val_fraction")]
    pub val_fraction: f64,
}

impl<P> Parts<P> {
    /// Training files, with the other settings of a table; by default a share is held out.
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
    /// Name of the format in descriptions.
    const NAME: &'static str;

    /// Checks every value, alone and against the others.
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
    /// A file cannot be read or is not a list of this kind.
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
        let own = [(Split::Val, &self.val), (Split::Test, &self.test)];
        let own = own.into_iter().filter(|(_, part)| part.is_some());
        table.own_files = own.map(|(split, _)| split).collect();
        match &self.val {
            None => {
                table.fraction = self.val_fraction;
                self.train
                    .read(&mut table, Held::Share(self.val_fraction))?;
            }
            Some(val) => {
                table.unused = self.val_fraction;
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
