//! The classes that regions have, and the names of the classes in each language.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use unimo_batch::NO_CLASS;

use crate::error::DataError;
use crate::images::regions::PictureRegions;
use crate::sources::languages::validate_tags;

/// The classes of a detector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionClasses {
    /// By language, the name of each class; all have as many. Empty: classes have no names.
    names: BTreeMap<String, Vec<String>>,
    /// The class of regions that show no object.
    background: Option<i32>,
    numbers: HashMap<String, i32>,
}

/// Checks the languages of `data.regions.names`.
pub(super) fn validate(names: &BTreeMap<String, PathBuf>) -> Result<(), DataError> {
    let languages: Vec<String> = names.keys().cloned().collect();
    validate_tags("data.regions.names", &languages)
}

impl RegionClasses {
    /// Classes with these names, by language.
    pub fn new(names: BTreeMap<String, Vec<String>>, background: Option<i32>) -> Self {
        let mut numbers = HashMap::new();
        for names in names.values() {
            for (number, name) in (0..).zip(names) {
                numbers.entry(name.clone()).or_insert(number);
            }
        }
        Self {
            names,
            background,
            numbers,
        }
    }

    /// Reads the files of names.
    pub(super) fn open(
        files: &BTreeMap<String, PathBuf>,
        background: Option<usize>,
    ) -> Result<Self, DataError> {
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (language, path) in files {
            let text = std::fs::read_to_string(path)
                .map_err(|error| DataError::file("read", path, error))?;
            let own: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
            let key = format!("data.regions.names.{language}");
            if own.iter().all(String::is_empty) {
                let given = path.display();
                return Err(DataError::config(key, given, "a file of names, one a line"));
            }
            if let Some((first, others)) = names.iter().next()
                && others.len() != own.len()
            {
                let given = format!("{} names in {}", own.len(), path.display());
                let allowed = format!("as many as in {first}: {}", others.len());
                return Err(DataError::config(key, given, allowed));
            }
            names.insert(language.clone(), own);
        }
        Ok(Self::new(names, background.map(|class| class as i32)))
    }

    /// The class of a name in any of the languages, or [`NO_CLASS`].
    pub fn of(&self, name: &str) -> i32 {
        let named = self.numbers.get(name).filter(|_| !name.is_empty());
        named.copied().unwrap_or(NO_CLASS)
    }

    /// The names by language, in the order of the classes; empty if there are none.
    pub fn names(&self) -> &BTreeMap<String, Vec<String>> {
        &self.names
    }

    /// The number of classes, if names tell it.
    pub fn count(&self) -> Option<usize> {
        self.names.values().next().map(Vec::len)
    }

    /// Whether regions of a class may be hidden: it is known and no background, and it has a name if classes have names.
    pub fn is_object(&self, class: i32) -> bool {
        if class == NO_CLASS || self.background == Some(class) {
            return false;
        }
        let name = |names: &Vec<String>| {
            let name = usize::try_from(class).ok().and_then(|at| names.get(at));
            name.is_some_and(|name| !name.is_empty())
        };
        self.names.values().all(name)
    }

    /// Checks that every class of some regions is one of these.
    pub(super) fn check(&self, regions: &PictureRegions) -> Result<(), String> {
        let Some(count) = self.count() else {
            return Ok(());
        };
        let known = |class: &i32| usize::try_from(*class).is_ok_and(|class| class < count);
        if let Some(row) = regions.classes.iter().position(|class| !known(class)) {
            return Err(format!(
                "the class of region {row} is {}; data.regions.names has {count} names",
                regions.classes[row]
            ));
        }
        let given = regions.probabilities.len() / regions.boxes.len().max(1);
        if !regions.probabilities.is_empty() && given != count {
            return Err(format!(
                "probabilities of {given} classes; data.regions.names has {count} names"
            ));
        }
        Ok(())
    }
}
