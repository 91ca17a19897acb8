//! `unimo names`: the parameters of a recipe's model, as `init`, `train.freeze`, `stage.train` and `train.optimizer.lr_factors` name them.

use clap::Args;
use unimo_batch::ConfigError;
use unimo_core::parameters::{self, ParameterInfo};
use unimo_encoders::names::covers;

use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::freezing::Freezing;
use crate::model::Model;
use crate::optimizer::Group;
use crate::prepare::training_device;
use crate::rates::Rates;
use crate::recipe::{Recipe, Task};
use crate::recipes::OneRecipe;

/// Lists a recipe's parameters.
#[derive(Debug, Args)]
pub struct NamesArgs {
    /// The recipe.
    #[command(flatten)]
    pub recipe: OneRecipe,
    /// Only what these patterns cover: names or their beginnings, `*` for any one part.
    #[arg(long = "only", value_name = "PATTERN")]
    pub only: Vec<String>,
}

/// Prints the parameters.
///
/// # Errors
///
/// The recipe is wrong, or a pattern covers nothing.
pub fn run(args: &NamesArgs) -> Result<(), TrainError> {
    print!("{}", table(&args.recipe.load()?, &args.only)?);
    Ok(())
}

/// One parameter of a recipe's model.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its shape; `None`: as many as the data have labels.
    pub shape: Vec<Option<usize>>,
    /// When it learns.
    pub learns: Learns,
    /// Factor of the learning rate.
    pub factor: f64,
    /// Whether weight decay applies.
    pub decays: bool,
}

/// When a parameter learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learns {
    /// In every step.
    Always,
    /// In these stages.
    In(Vec<String>),
    /// Never: `train.freeze`, `train.lora` or every stage leaves it.
    Frozen,
    /// It is no weight but kept state, such as a queue or a teacher.
    State,
}

impl Learns {
    fn told(&self) -> String {
        match self {
            Self::Always => "learns".to_owned(),
            Self::In(stages) => format!("learns in {}", stages.join(", ")),
            Self::Frozen => "frozen".to_owned(),
            Self::State => "state".to_owned(),
        }
    }
}

/// The parameters of a recipe's model, in its order. No weights are drawn and no files read.
///
/// # Errors
///
/// The CPU is not built in.
pub fn of(recipe: &Recipe) -> Result<Vec<Named>, TrainError> {
    let (device, _) = DeviceChoice::Flex.open()?;
    let device = training_device(recipe, &device);
    let list = |recipe: &Recipe| parameters::list(&Model::blank(recipe, &device));
    let model = Model::blank(recipe, &device);
    let all = parameters::list(&model);
    let freezing = Freezing::of(&model, recipe);
    let rates = Rates::new(&recipe.train.optimizer, &recipe.model);
    // The number of labels follows from the data: a size that changes with it is theirs.
    let other = match Task::of(recipe) {
        Some(task) if recipe.task.is_some() => {
            let mut recipe = recipe.clone();
            recipe.objectives.set_classes(task.key, OTHER_LABELS);
            list(&recipe)
        }
        _ => all.clone(),
    };
    let stages = recipe.stages();
    let named = all.into_iter().zip(other).map(|(parameter, other)| {
        let ParameterInfo {
            name,
            shape,
            trainable,
            ..
        } = parameter;
        let learning = stages
            .iter()
            .filter(|stage| freezing.learns(Some(stage), &name));
        let learning: Vec<String> = learning.map(|stage| stage.name.clone()).collect();
        let learns = if !trainable {
            Learns::State
        } else if learning.is_empty() {
            Learns::Frozen
        } else if learning.len() == stages.len() {
            Learns::Always
        } else {
            Learns::In(learning)
        };
        Named {
            factor: rates.factor_of(&name),
            decays: Group::of(&name, shape.len()).decays,
            shape: shape
                .into_iter()
                .zip(other.shape)
                .map(|(size, other)| (size == other).then_some(size))
                .collect(),
            learns,
            name,
        }
    });
    Ok(named.collect())
}

/// A number of labels that no recipe has by itself.
const OTHER_LABELS: usize = 7919;

/// A line for every parameter, and sums.
///
/// # Errors
///
/// As [`of`]; a pattern covers nothing.
pub fn table(recipe: &Recipe, only: &[String]) -> Result<String, TrainError> {
    let all = of(recipe)?;
    for pattern in only {
        ConfigError::unless(
            all.iter().any(|named| covers(pattern, &named.name)),
            "--only",
            pattern,
            "is the name of no parameter, nor a beginning",
        )
        .map_err(TrainError::of_recipe)?;
    }
    let shown = |named: &&Named| only.is_empty() || only.iter().any(|p| covers(p, &named.name));
    let shown: Vec<&Named> = all.iter().filter(shown).collect();
    let wide = |column: fn(&Named) -> usize| shown.iter().map(|n| column(n)).max().unwrap_or(0);
    let names = wide(|named| named.name.len());
    let shapes = wide(|named| told_shape(&named.shape).len());
    let learns = wide(|named| named.learns.told().len());
    let mut text = String::new();
    for named in &shown {
        let mut line = format!(
            "{:<names$}  {:<shapes$}  {:<learns$}",
            named.name,
            told_shape(&named.shape),
            named.learns.told(),
        );
        if matches!(named.learns, Learns::Always | Learns::In(_)) {
            line += &format!("  rate x {}", named.factor);
            line += if named.decays { ", decays" } else { "" };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text.push('\n');
    for group in groups(&shown) {
        let of = shown.iter().filter(|named| covers(&group, &named.name));
        text += &sums(&group, of);
    }
    text += &sums("all", shown.iter());
    Ok(text)
}

fn told_shape(shape: &[Option<usize>]) -> String {
    let sizes = shape.iter().map(|size| match size {
        Some(size) => size.to_string(),
        None => "labels".to_owned(),
    });
    format!("[{}]", sizes.collect::<Vec<_>>().join(", "))
}

/// The first two parts of the names, in order.
fn groups(shown: &[&Named]) -> Vec<String> {
    let mut groups: Vec<String> = Vec::new();
    for named in shown {
        let first: Vec<&str> = named.name.split('.').take(2).collect();
        let first = first.join(".");
        if !groups.contains(&first) {
            groups.push(first);
        }
    }
    groups
}

/// How many parameters and numbers a group has, and how many of them learn.
fn sums<'a>(group: &str, named: impl Iterator<Item = &'a &'a Named>) -> String {
    let (mut count, mut numbers, mut learning) = (0, 0, 0);
    for named in named {
        // What follows from the data is not counted.
        let own: usize = named.shape.iter().map(|size| size.unwrap_or(0)).product();
        count += 1;
        numbers += own;
        if matches!(named.learns, Learns::Always | Learns::In(_)) {
            learning += own;
        }
    }
    format!("{group}: {count} parameters of {numbers} numbers, {learning} of them learn\n")
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::recipe::Overrides;

    fn recipe(name: &str, set: &[&str]) -> Recipe {
        let overrides = Overrides {
            data: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        Recipe::load(name, &overrides).unwrap()
    }

    fn find<'a>(all: &'a [Named], name: &str) -> &'a Named {
        all.iter().find(|named| named.name == name).unwrap()
    }

    /// The names are those of the model that is trained.
    #[test]
    fn names_shapes_and_rates_are_those_of_the_training() {
        let recipe = recipe(
            "unimo3-tiny",
            &[
                "train.freeze=[\"backbone.image\"]",
                "train.optimizer.fusion_lr_factor=5.0",
                "train.optimizer.lr_factors={ \"objectives.itm\" = 10.0 }",
            ],
        );
        let device = training_device(&recipe, &DeviceChoice::Flex.open().unwrap().0);
        let model = Model::new(&recipe, &device);
        let model = Freezing::of(&model, &recipe).apply(model, None);
        let trained = parameters::list(&model);
        let all = of(&recipe).unwrap();
        assert_eq!(all.len(), trained.len());
        for (named, trained) in all.iter().zip(&trained) {
            assert_eq!(named.name, trained.name);
            let shape: Vec<usize> = named.shape.iter().map(|size| size.unwrap()).collect();
            assert_eq!(shape, trained.shape, "{}", named.name);
            assert_eq!(
                named.learns == Learns::Always,
                trained.trainable,
                "{}",
                named.name
            );
        }
        let factor = |name| find(&all, name).factor;
        assert_eq!(factor("backbone.text.word_embedding.weight"), 1.0);
        assert_eq!(factor("backbone.fusion.type_embedding.weight"), 5.0);
        assert_eq!(factor("objectives.itm.classifier.weight"), 10.0);
        assert!(find(&all, "backbone.text.word_embedding.weight").decays);
        assert!(!find(&all, "objectives.itm.classifier.bias").decays);
        let text = table(&recipe, &["backbone.image".to_owned()]).unwrap();
        assert!(
            text.contains("frozen") && !text.contains("backbone.text"),
            "{text}"
        );
        let error = table(&recipe, &["backbone.imgae".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("backbone.imgae"), "{error}");
    }

    #[test]
    fn stages_labels_and_kept_state_are_told() {
        let set = "stage[0].train=[\"backbone.text\", \"objectives\"]";
        let staged = recipe("mvp-tiny", &[set]);
        let later = Learns::In(vec![staged.stage[1].name.clone()]);
        let all = of(&staged).unwrap();
        assert_eq!(find(&all, "backbone.image.class_embedding").learns, later);
        let words = find(&all, "backbone.text.word_embedding.weight");
        assert_eq!(words.learns, Learns::Always);
        let labels = table(&recipe("unimo3-vqa-tiny", &[]), &["objectives".to_owned()]).unwrap();
        assert!(labels.contains("labels]"), "{labels}");
        let queue = recipe(
            "unimo3-tiny",
            &[
                "teacher={ decay = 0.995 }",
                "objectives.itc.momentum={ queue = 64, alpha = 0.4 }",
            ],
        );
        let all = of(&queue).unwrap();
        let states = all.iter().filter(|named| named.learns == Learns::State);
        let states: Vec<&str> = states.map(|named| named.name.as_str()).collect();
        assert!(
            states.iter().any(|name| name.starts_with("teacher.")),
            "{states:?}"
        );
        assert!(
            states
                .iter()
                .any(|name| name.starts_with("objectives.itc.")),
            "{states:?}"
        );
    }
}
