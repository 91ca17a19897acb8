//! Keys that nothing reads, as the rest of a recipe is.
//!
//! Recipes inherit such keys from others, where they count, so they are no error. Who gives one with `--set`, or in a file of their own, gets a
//! line. Keys that cannot be inherited by accident are errors instead: [`Recipe::validate`].

use unimo_encoders::names::covers;

use crate::recipe::train::Decay;
use crate::recipe::{During, Recipe};

/// A key that nothing reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Idle {
    /// The key, or the table that holds it.
    pub key: String,
    /// Why it is not read.
    pub why: &'static str,
}

/// What is done to pixels.
const OF_IMAGES: [&str; 5] = [
    "data.image_size",
    "data.resize",
    "data.mean",
    "data.std",
    "data.augment",
];

/// What is done to texts.
const OF_TEXTS: [&str; 2] = ["data.max_text_length", "data.pad"];

/// The keys that nothing reads.
pub(crate) fn of(recipe: &Recipe) -> Vec<Idle> {
    let mut found = Vec::new();
    let mut add = |keys: &[&str], why: &'static str, idle: bool| {
        let all = keys.iter().filter(|_| idle);
        found.extend(all.map(|key| Idle {
            key: (*key).to_owned(),
            why,
        }));
    };
    add(
        &OF_IMAGES,
        "the model reads no images",
        !recipe.model.reads_images(),
    );
    add(&OF_TEXTS, "no objective reads texts", !recipe.reads_texts());
    add(
        &["eval.shortlist", "eval.united_shortlists"],
        "without a contrast, [objectives.itc], and a matching head, nothing is ranked again",
        !recipe.ranks_again(),
    );
    let possible = recipe.retrieves();
    add(
        &["eval.during", "eval.share"],
        "nothing is retrieved",
        !possible,
    );
    add(
        &["eval.during", "eval.share"],
        "train.eval_every = 0, so nothing is evaluated before the last step",
        possible && recipe.train.eval_every == 0,
    );
    add(
        &["eval.share"],
        "eval.during = \"full\" evaluates everything, whatever it costs",
        possible && recipe.train.eval_every > 0 && recipe.eval.during == During::Full,
    );
    add(
        &["train.schedule.last"],
        "train.schedule.decay = \"constant\" ends where it begins",
        recipe.train.schedule.decay == Decay::Constant,
    );
    let frozen = |pattern: &str| recipe.train.freeze.iter().any(|f| covers(f, pattern));
    for pattern in recipe.train.optimizer.lr_factors.keys() {
        add(
            &[&format!("train.optimizer.lr_factors.{pattern}")],
            "train.freeze holds all of it still",
            frozen(pattern),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Overrides;

    fn notes(recipe: &str, set: &[&str]) -> Vec<String> {
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::load_quietly(recipe, &overrides).unwrap().1
    }

    #[test]
    fn a_setting_that_nothing_reads_is_said() {
        for (recipe, set, why) in [
            ("infoxlm-tiny", "data.image_size=99", "reads no images"),
            (
                "infoxlm-tiny",
                "data.augment={ flip = 0.5, scale = [0.5, 1.0], ratio = [0.8, 1.2] }",
                "reads no images",
            ),
            (
                "vit-classes-tiny",
                "data.max_text_length=20",
                "no objective reads texts",
            ),
            ("clip-tiny", "eval.shortlist=3", "nothing is ranked again"),
            (
                "clip-tiny",
                "eval.united_shortlists=true",
                "nothing is ranked again",
            ),
            ("unimo3-vqa-tiny", "eval.share=0.2", "nothing is retrieved"),
        ] {
            let notes = notes(recipe, &[set]);
            let line = format!("--set {set} changes nothing: ");
            assert!(
                notes.iter().any(|n| n.contains(&line) && n.contains(why)),
                "{recipe}: {notes:?}"
            );
        }
        let both = ["train.schedule.decay=constant", "train.schedule.last=0.3"];
        let found = notes("unimo3-tiny", &both);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("ends where it begins"), "{found:?}");
        assert_eq!(
            notes("unimo3-tiny", &["train.eval_every=0", "eval.share=0.2"]).len(),
            1
        );
        let both = [
            "train.freeze=[\"backbone.text\"]",
            "train.optimizer.lr_factors={ \"backbone.text.layers\" = 0.1, \"backbone.image\" = 0.5 }",
        ];
        let found = notes("unimo3-tiny", &both);
        let frozen = found.iter().filter(|n| n.contains("holds all of it still"));
        assert_eq!(frozen.count(), 1, "{found:?}");
    }

    #[test]
    fn a_setting_that_is_read_is_not_said() {
        for (recipe, set) in [
            ("unimo3-tiny", "eval.shortlist=3"),
            ("unimo3-tiny", "data.max_text_length=20"),
            ("uc2-tiny", "data.resize=crop"),
            ("clip-tiny", "eval.share=0.2"),
        ] {
            assert_eq!(notes(recipe, &[set]), Vec::<String>::new(), "{recipe}");
        }
    }

    #[test]
    fn a_file_of_ones_own_is_told_of_its_own_keys_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let text = "extends = \"clip-tiny\"\ndescription = \"mine\"\n[eval]\nshortlist = 3\n";
        std::fs::write(&path, text).unwrap();
        let (_, notes) =
            Recipe::load_quietly(path.to_str().unwrap(), &Overrides::default()).unwrap();
        assert_eq!(
            notes,
            [
                "eval.shortlist changes nothing: without a contrast, [objectives.itc], and a matching head, nothing is ranked again"
            ]
        );
    }
}
