//! The splits of a data set, and the names that the field gives them.

use std::ops::{Index, IndexMut};

use crate::error::DataError;

/// A split of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// Training samples.
    Train,
    /// Held-out samples. Runs are compared and the best step is chosen by them.
    Val,
    /// Test samples, held out until the end.
    Test,
}

/// Names in lower case without punctuation and final digits: `train2014`, `val-0`, `test-dev2015` and `testA` match.
const NAMES: [(Split, &[&str]); 3] = [
    (
        Split::Train,
        // Karpathy's `restval` is the rest of COCO's validation images, which everybody trains on.
        &["train", "training", "trn", "trainval", "restval"],
    ),
    (
        Split::Val,
        &[
            "val",
            "valid",
            "validation",
            "dev",
            "development",
            "minival",
            "eval",
            "evaluation",
            "heldout",
            "holdout",
        ],
    ),
    (
        Split::Test,
        &[
            "test", "testing", "tst", "testa", "testb", "testdev", "teststd", "testp", "testu",
        ],
    ),
];

impl Split {
    /// Every split.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// `train`, `val` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// The split that a name of the field means, in any spelling: `Train`, `validation`, `dev`, `test2015`, `restval`.
    pub fn of_name(name: &str) -> Option<Self> {
        let letters = name.chars().filter(|c| c.is_alphanumeric());
        let plain: String = letters.flat_map(char::to_lowercase).collect();
        let plain = plain.trim_end_matches(|c: char| c.is_ascii_digit());
        let known = |names: &[&str]| names.contains(&plain);
        NAMES
            .iter()
            .find(|(_, names)| known(names))
            .map(|(split, _)| *split)
    }

    /// The split in the name of a file or folder: its beginning (`train-00000-of-00003.parquet`), or the only part that names a
    /// split (`cc3m-validation-0001.tar`).
    pub fn of_file(name: &str) -> Option<Self> {
        let mut told = parts(name).map(Self::of_name);
        let first = told.next().flatten();
        if first.is_some() {
            return first;
        }
        let mut others = told.flatten();
        let found = others.next()?;
        others.all(|other| other == found).then_some(found)
    }
}

/// The parts of a file's name between punctuation.
fn parts(name: &str) -> impl Iterator<Item = &str> {
    name.split(['-', '.', '_', ' '])
        .filter(|part| !part.is_empty())
}

/// One value for each split.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BySplit<T>([T; 3]);

impl<T> BySplit<T> {
    /// Calls `make` for each split.
    pub fn new(make: impl FnMut(Split) -> T) -> Self {
        Self(Split::ALL.map(make))
    }

    /// Each split with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Split, &T)> {
        Split::ALL.into_iter().zip(&self.0)
    }

    /// As [`iter`](Self::iter), mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Split, &mut T)> {
        Split::ALL.into_iter().zip(&mut self.0)
    }

    /// Applies `change` to each value.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> BySplit<U> {
        BySplit(self.0.map(change))
    }
}

impl<T> Index<Split> for BySplit<T> {
    type Output = T;

    fn index(&self, split: Split) -> &T {
        &self.0[split as usize]
    }
}

impl<T> IndexMut<Split> for BySplit<T> {
    fn index_mut(&mut self, split: Split) -> &mut T {
        &mut self.0[split as usize]
    }
}

/// The names of splits in a data set: those of a recipe (`train_split`, `val_split`, `test_split`), else the field's names.
#[derive(Debug, Clone, Default)]
pub(crate) struct SplitNames(BySplit<Vec<String>>);

impl SplitNames {
    pub fn new(train: &[String], val: &[String], test: &[String]) -> Self {
        Self(BySplit([train.to_vec(), val.to_vec(), test.to_vec()]))
    }

    /// Checks that no name is empty or stands for two splits.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] naming the key in `table`.
    pub fn validate(&self, table: &str) -> Result<(), DataError> {
        let key = |split: Split| format!("{table}.{}_split", split.name());
        for (split, names) in self.0.iter() {
            if names.iter().any(|name| name.trim().is_empty()) {
                let found = format!("{names:?}");
                return Err(DataError::config(key(split), found, "names of splits"));
            }
            for name in names {
                let before = Split::ALL.into_iter().take_while(|other| *other != split);
                let same = |other: &String| other.eq_ignore_ascii_case(name);
                let twice = before
                    .into_iter()
                    .find(|other| self.0[*other].iter().any(same));
                // Samples that are in training by default may be held out only on purpose.
                let by_default = self.0[Split::Train].is_empty()
                    && Split::of_name(name) == Some(Split::Train)
                    && split != Split::Train;
                if let Some(other) = twice.or(by_default.then_some(Split::Train)) {
                    return Err(DataError::config(
                        key(split),
                        format!("{name:?}, which is of `{}`", key(other)),
                        "names that no other split has",
                    ));
                }
            }
        }
        Ok(())
    }

    /// The split that a name stands for; `None` if it belongs to no split.
    pub fn of(&self, name: &str) -> Option<Split> {
        let name = name.trim();
        let given = |same: &dyn Fn(&str) -> bool| {
            let has = |names: &&Vec<String>| names.iter().any(|given| same(given.trim()));
            self.0
                .iter()
                .find(|(_, names)| has(names))
                .map(|(split, _)| split)
        };
        given(&|other| other == name)
            .or_else(|| given(&|other| other.eq_ignore_ascii_case(name)))
            .or_else(|| self.unless_given(Split::of_name(name)))
    }

    /// The split that a file's name stands for.
    #[cfg(any(test, feature = "parquet"))]
    pub fn of_file(&self, name: &str) -> Option<Split> {
        let given = |(_, names): &(Split, &Vec<String>)| {
            names.iter().any(|given| {
                let begins = name.get(..given.len());
                let rest = name.get(given.len()..).unwrap_or_default();
                begins.is_some_and(|begins| begins.eq_ignore_ascii_case(given))
                    && !rest.starts_with(char::is_alphanumeric)
            })
        };
        let found = self.0.iter().find(given).map(|(split, _)| split);
        found.or_else(|| self.unless_given(Split::of_file(name)))
    }

    /// If a recipe names a split, nothing else belongs to that split.
    fn unless_given(&self, split: Option<Split>) -> Option<Split> {
        split.filter(|split| self.0[*split].is_empty())
    }
}

/// The note when nothing distinguishes splits and a share is held out.
pub(crate) fn drawn(name: &str, held: usize, of: usize, what: &str, fraction: f64) -> String {
    format!(
        "{name}: nothing says of {of} {what} which split they are of: {held} of them are held out, chosen by a hash (val_fraction = \
         {fraction})"
    )
}

/// The default share that is held out: a twentieth.
pub(crate) fn val_fraction() -> f64 {
    0.05
}

/// Why nothing is drawn where held-out files are given.
pub(crate) const BESIDE_VAL: &str = "the held-out samples have files of their own";

/// The note when a share was chosen (another than the default, and not nothing) and none is drawn.
pub(crate) fn not_drawn(name: &str, fraction: f64, why: &str) -> Option<String> {
    let chosen = fraction > 0.0 && fraction != val_fraction();
    chosen.then(|| format!("{name}: val_fraction = {fraction} changes nothing: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_field_are_known() {
        for (split, names) in [
            (
                Split::Train,
                "train Train TRAIN training trn train2014 train_0 restval trainval",
            ),
            (
                Split::Val,
                "val valid Validation dev val2017 DEV minival held_out held-out Val",
            ),
            (
                Split::Test,
                "test TEST testing test2015 test-dev2015 testA test_B test-std test1",
            ),
        ] {
            for name in names.split(' ') {
                assert_eq!(Split::of_name(name), Some(split), "{name}");
                assert_eq!(Split::of_name(&format!(" {name}\n")), Some(split));
            }
        }
        for name in [
            "", " ", "0", "2014", "trained", "other", "contest", "valley",
        ] {
            assert_eq!(Split::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn files_tell_their_split() {
        for (name, split) in [
            ("train-00000-of-00003.parquet", Some(Split::Train)),
            ("validation-00000-of-00001.parquet", Some(Split::Val)),
            ("test.parquet", Some(Split::Test)),
            ("cc3m-validation-0001.tar", Some(Split::Val)),
            ("imagenet_val_0001.tar", Some(Split::Val)),
            ("train2014", Some(Split::Train)),
            ("train_of_the_test.tar", Some(Split::Train)),
            ("one-train-test.tar", None),
            ("trained.parquet", None),
            ("000000.tar", None),
        ] {
            assert_eq!(Split::of_file(name), split, "{name}");
        }
    }

    #[test]
    fn what_a_recipe_says_takes_the_place_of_the_names() {
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let given = SplitNames::new(&[], &names(&["test"]), &[]);
        given.validate("data.x").unwrap();
        assert_eq!(given.of("restval"), Some(Split::Train));
        assert_eq!(given.of("Test"), Some(Split::Val));
        // A recipe that holds out the test split does not mean the validation split.
        assert_eq!(given.of("val"), None);
        assert_eq!(given.of("testing"), Some(Split::Test));
        assert_eq!(given.of_file("test-0.parquet"), Some(Split::Val));
        assert_eq!(given.of_file("tested.parquet"), None);
        let given = SplitNames::new(&names(&["A", "b"]), &[], &[]);
        assert_eq!(given.of("a"), Some(Split::Train));
        assert_eq!(given.of("train"), None);
        assert_eq!(given.of_file("b-train-val.tar"), Some(Split::Train));
        for (train, val, test, key) in [
            (&["a"][..], &["A"][..], &[][..], "data.x.val_split"),
            (&["a"], &["b"], &["b"], "data.x.test_split"),
            (&[], &["restval"], &[], "data.x.val_split"),
            (&[], &[], &["Training"], "data.x.test_split"),
            (&["a"], &[" "], &[], "data.x.val_split"),
        ] {
            let given = SplitNames::new(&names(train), &names(val), &names(test));
            let message = given.validate("data.x").unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}`")), "{message}");
        }
    }
}
