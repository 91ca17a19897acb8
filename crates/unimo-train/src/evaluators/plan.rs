//! What evaluations during training score, so that they cost little compared with training.
//!
//! The rule does not measure time, so that the same recipe selects the same best weights on any machine. It counts passes of the
//! encoders. Training makes a number of forward and backward passes between two evaluations, and an evaluation may make
//! `eval.share` of them. The number of images, which must also be read, is at most this share of the images trained on. For texts
//! and for pairs through the cross-modal encoder the limit is three times as high, since a backward pass costs as much as two
//! forward passes.

use crate::diagnostics::{codes, phrases};
use crate::recipe::stages::Stage;
use crate::recipe::{During, Recipe};

/// Which methods are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The contrast alone.
    Contrast,
    /// The contrast, its shortlist ranked by the matching head, and the matching head alone if the recipe says so or there is no
    /// contrast.
    Full,
}

impl Protocol {
    /// Its name in a record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Contrast => "contrast",
            Self::Full => "full",
        }
    }
}

/// What evaluations during a training score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The methods that are scored.
    pub protocol: Protocol,
    /// Number of images, drawn at random if there are more.
    pub pictures: usize,
    /// Whether even so few images exceed the allowed cost.
    pub exceeds: bool,
}

/// Fewer images say nothing about a model, whatever the cost.
const LEAST: usize = 32;

/// Cost of a forward and a backward pass, in forward passes.
const TRAINED: f64 = 3.0;

/// A number of forward passes, as a cost or as a budget.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Passes {
    pictures: f64,
    texts: f64,
    pairs: f64,
}

impl Passes {
    fn within(&self, budget: &Self) -> bool {
        self.pictures <= budget.pictures && self.texts <= budget.texts && self.pairs <= budget.pairs
    }
}

impl Plan {
    /// What a recipe's evaluations during training score, for this number of held-out images and texts; `None` if there are none
    /// before the last step.
    pub fn new(recipe: &Recipe, pictures: usize, texts: usize) -> Option<Self> {
        let every = recipe.train.eval_every;
        if every == 0 || every >= recipe.train.steps {
            return None;
        }
        let whole = |protocol| Self {
            protocol,
            pictures,
            exceeds: false,
        };
        let contrast = recipe.objectives.itc.is_some();
        let budget = budget(recipe);
        let fits = |protocol, count: usize| {
            let share = count as f64 / pictures.max(1) as f64;
            let texts = (share * texts as f64).ceil() as usize;
            cost(recipe, protocol, count, texts).within(&budget)
        };
        let most = |protocol| {
            // If a number of images fits, every smaller number fits.
            let (mut low, mut high) = (0, pictures);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if fits(protocol, middle) {
                    low = middle
                } else {
                    high = middle - 1
                }
            }
            let least = LEAST.min(pictures);
            Self {
                protocol,
                pictures: low.max(least),
                exceeds: low < least,
            }
        };
        Some(match recipe.eval.during {
            During::Full => whole(Protocol::Full),
            During::Auto if fits(Protocol::Full, pictures) => whole(Protocol::Full),
            During::Auto | During::Contrast if contrast => most(Protocol::Contrast),
            During::Auto | During::Contrast | During::Part => most(Protocol::Full),
        })
    }

    /// One line for the terminal, including what the last evaluation adds.
    pub fn says(&self, recipe: &Recipe, pictures: usize, texts: usize) -> String {
        let methods = match self.protocol {
            Protocol::Contrast => "the contrast",
            Protocol::Full => "all methods",
        };
        let part = if self.pictures < pictures {
            format!("{} of the {pictures}, drawn at random", self.pictures)
        } else {
            format!("all {pictures}")
        };
        let share = 100.0 * recipe.eval.share;
        let why = match (recipe.eval.during, self.exceeds) {
            (During::Full, _) => "eval.during".to_owned(),
            (_, false) => format!("at most {share}% of the passes in between, eval.share"),
            (_, true) => format!("fewer say nothing, though it is more than eval.share = {share}%"),
        };
        let mut line = format!(
            "evaluations every {} steps: {methods}, held-out images: {part} ({why})",
            recipe.train.eval_every
        );
        if self.protocol != Protocol::Full || self.pictures < pictures {
            let pairs = pairs(recipe, Protocol::Full, pictures, texts);
            line.push_str(&format!(
                "; after the last step all methods and images: {texts} texts, {}",
                match pairs {
                    0 => "no pair through the matching head".to_owned(),
                    pairs => format!("up to {pairs} pairs through the matching head"),
                }
            ));
        }
        line
    }
}

/// Whether the objective with this key is trained.
type Trains<'a> = &'a dyn Fn(&str) -> bool;

/// The allowed cost of an evaluation.
fn budget(recipe: &Recipe) -> Passes {
    let train = &recipe.train;
    let samples = train.eval_every as f64 * (train.batch_size * train.accumulation) as f64;
    let objectives = &recipe.objectives;
    // With stages, the mean over them, weighted by their shares.
    let mean = |passes: &dyn Fn(Trains<'_>) -> f64| -> f64 {
        let stages = recipe.stages();
        let of = |stage: &Stage| stage.steps() as f64 * passes(&|key| stage.trains(key));
        stages.iter().map(of).sum::<f64>() / train.steps as f64
    };
    let mlm = |trains: Trains<'_>| {
        if objectives.mlm.is_some() && trains("mlm") {
            1.0
        } else {
            0.0
        }
    };
    let texts = mean(&|trains| 1.0 + mlm(trains));
    let pairs = mean(&|trains| {
        let itm = objectives.itm.as_ref().filter(|_| trains("itm"));
        let ranking = objectives.ranking.as_ref();
        let ranking = ranking.filter(|_| trains("ranking"));
        mlm(trains)
            + itm.map_or(0.0, |itm| itm.layout.pairs_per_sample())
            + ranking.map_or(0.0, |ranking| 1.0 + ranking.negatives as f64)
    });
    let share = recipe.eval.share * samples;
    Passes {
        pictures: share,
        texts: TRAINED * share * texts,
        pairs: TRAINED * share * pairs,
    }
}

/// The cost of an evaluation.
fn cost(recipe: &Recipe, protocol: Protocol, pictures: usize, texts: usize) -> Passes {
    // Some pairs are inspected in addition to the scored ones.
    let gates = match &recipe.model.fusion {
        Some(_) => recipe.eval.batch_size,
        None => 0,
    };
    let grounded = recipe
        .model
        .joint
        .as_ref()
        .and_then(|j| j.grounding.as_ref());
    let codes = grounded.map_or(0, |_| codes::PAIRS);
    let phrases = recipe
        .data
        .concepts
        .as_ref()
        .map_or(0, |_| phrases::CAPTIONS);
    let looked_at = gates.min(texts) + codes.min(texts) + phrases.min(pictures);
    Passes {
        pictures: pictures as f64,
        texts: texts as f64,
        pairs: (pairs(recipe, protocol, pictures, texts) + looked_at) as f64,
    }
}

/// The largest number of pairs that the matching head scores.
pub fn pairs(recipe: &Recipe, protocol: Protocol, pictures: usize, texts: usize) -> usize {
    let all = pictures.saturating_mul(texts);
    let (contrast, matching) = (
        recipe.objectives.itc.is_some(),
        recipe.objectives.scores_pairs(),
    );
    if protocol == Protocol::Contrast || !matching {
        return 0;
    }
    if !contrast || recipe.eval.full_itm {
        return all;
    }
    let k = recipe.eval.shortlist;
    (texts * k.min(pictures) + pictures * k.min(texts)).min(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{BUILT_IN, Overrides};

    fn recipe(name: &str, set: &[&str]) -> Recipe {
        let overrides = Overrides {
            data: (!name.ends_with("-tiny")).then(|| "pairs.jsonl".into()),
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::load(name, &overrides).unwrap()
    }

    /// 6,000 images, of which 1,000 with five captions each are held out, took nine evaluations of 187,251 pairs.
    #[test]
    fn re_ranking_waits_for_the_end_where_it_costs_more_than_its_share() {
        let plan = |set: &[&str]| Plan::new(&recipe("unimo3-small", set), 1000, 5000).unwrap();
        // 100 steps of 64 pairs: a twentieth of 6,400 images.
        assert_eq!(
            plan(&[]),
            Plan {
                protocol: Protocol::Contrast,
                pictures: 320,
                exceeds: false
            }
        );
        assert_eq!(plan(&["eval.share=0.1"]).pictures, 640);
        // 0.05 * 3 * 2 * 6,400 = 1,920 pairs, which 20 images with 100 texts exceed.
        let part = plan(&["eval.during=part"]);
        assert_eq!((part.pictures, part.exceeds), (32, true));
        let full = plan(&["eval.during=full"]);
        assert_eq!((full.protocol, full.pictures), (Protocol::Full, 1000));
        let line = plan(&[]).says(&recipe("unimo3-small", &[]), 1000, 5000);
        assert!(line.contains("320 of the 1000"), "{line}");
        assert!(line.contains("up to 192000 pairs"), "{line}");
    }

    #[test]
    fn every_recipe_stays_within_its_share() {
        for built_in in BUILT_IN {
            for (pictures, texts) in [(300, 300), (1000, 5000), (5000, 25_000)] {
                let recipe = recipe(built_in.name, &[]);
                // Tasks and what only writes captions retrieve nothing.
                if !recipe.retrieves() {
                    continue;
                }
                let plan = Plan::new(&recipe, pictures, texts).unwrap();
                let (name, n) = (built_in.name, plan.pictures);
                let texts = texts * n / pictures;
                let cost = cost(&recipe, plan.protocol, n, texts);
                assert!(cost.within(&budget(&recipe)), "{name}: {plan:?} {cost:?}");
                assert!(!plan.exceeds && n > 0, "{name}: {plan:?}");
                // The base recipes of pre-training train on twenty million samples between two evaluations.
                let samples = recipe.train.eval_every as usize
                    * recipe.train.batch_size
                    * recipe.train.accumulation;
                if samples >= 20_000_000 && pictures == 1000 {
                    assert_eq!(plan.protocol, Protocol::Full, "{name}");
                }
            }
        }
    }

    #[test]
    fn what_trains_little_pays_little() {
        let stage = "stage=[{ name = \"a\", share = 0.5, objectives = [\"itc\"] }, { name = \"b\", share = 0.5 }]";
        let plain = budget(&recipe("unimo3-tiny", &[]));
        let staged = budget(&recipe("unimo3-tiny", &[stage]));
        assert_eq!(staged.pairs, plain.pairs / 2.0);
        assert_eq!(staged.texts, plain.texts * 0.75);
        assert_eq!(
            Plan::new(&recipe("unimo3-tiny", &["train.eval_every=0"]), 9, 9),
            None
        );
        let few = Plan::new(&recipe("unimo3-tiny", &["train.eval_every=1"]), 500, 1000);
        let few = few.unwrap();
        assert_eq!((few.pictures, few.exceeds), (LEAST, true));
    }
}
