//! `unimo eval`: runs a run's evaluators on its own held-out set or on other data, and finds the run's weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unimo_batch::ConfigError;
use unimo_data::{SkipList, Source, Split};
use unimo_report::record::{EvalRecord, RecallRecord};

use crate::error::TrainError;
use crate::evaluators::captions::Captions;
use crate::evaluators::retrieval::{self, Retrieval};
use crate::evaluators::section::When;
use crate::evaluators::task::{NO_NUMBER, Predictions};
use crate::evaluators::{Evaluator, HeldOut, sections, walks};
use crate::opened::Opened;
pub use crate::opened::Options;
use crate::recipe::Recipe;

/// Evaluates a run's checkpoint and appends the result to the run's `evaluations.jsonl`. The evaluations made during training stay
/// as they are, since they select the best checkpoint. `given` is a run's folder, the file of one of its checkpoints, or an exported
/// or public checkpoint, whose result is only returned. Returns the folder of the run.
///
/// # Errors
///
/// The model or the data cannot be read, or there is nothing to evaluate.
pub fn run(
    given: &Path,
    options: &Options,
) -> Result<(Option<PathBuf>, Vec<EvalRecord>), TrainError> {
    let opened = Opened::new(given, options)?;
    let splits = opened.splits(options);
    let recipe = &opened.recipe;
    check(options, recipe).map_err(|error| TrainError::Check(error.to_string()))?;
    let weights = opened.weights();
    let is_first = opened.world.is_first();
    let say = &mut |line: String| {
        if is_first {
            eprintln!("{line}");
        }
    };
    let mut records = Vec::new();
    let mut unknown = Vec::new();
    for split in &splits {
        opened.look_at(*split);
        let skip = Arc::new(SkipList::in_memory(recipe.data.max_skipped));
        if let Some((set, targets)) = opened.task_set(*split, &skip, false)? {
            if set.is_empty() {
                unknown.push(*split);
                continue;
            }
            let found = Predictions::new(set, targets, skip).evaluate(&weights, say)?;
            records.extend(found.into_iter().map(|record| EvalRecord {
                split: labelled(&record.split, options),
                ..record
            }));
        }
    }
    for split in &unknown {
        let reason = format!(
            "no sample of split {} has a known answer; its data has {}",
            split.name(),
            named(&lengths(&opened.source, &|_| true))
        );
        if unknown.len() == splits.len() {
            return Err(TrainError::Run {
                path: opened.path.clone(),
                reason,
            });
        }
        say(reason);
    }
    records.extend(of_sections(
        &opened,
        When::EachSplit,
        &splits,
        options,
        say,
    )?);
    if recipe.retrieves() || recipe.eval.captions.is_some() {
        records.extend(of_pairs(&opened, &splits, options, say)?);
    }
    // These do not depend on the data of the pairs.
    if options.data.is_none() {
        let once = splits.get(..1).unwrap_or_default();
        records.extend(of_sections(&opened, When::OwnImages, once, options, say)?);
    } else {
        let sections = sections(&recipe.eval).into_iter();
        for section in sections.filter(|section| section.when() == When::OwnImages) {
            let key = section.key();
            say(format!(
                "[eval.{key}] has images of its own, so it is not asked with --data"
            ));
        }
    }
    if records.is_empty() {
        return Err(TrainError::Run {
            path: opened.path.clone(),
            reason: "has nothing to evaluate: it was trained with none of [objectives.itc], [objectives.itm] and [objectives.ranking], \
                     nor a task, and no section of [eval] gives a number"
                .to_owned(),
        });
    }
    if let Some(run) = opened.run.as_ref().filter(|_| is_first) {
        // What was computed for hours is printed, also if the run's folder cannot be written.
        let mut kept = records
            .iter()
            .map(|record| run.append("evaluations.jsonl", record));
        if let Some(error) = kept.find_map(Result::err) {
            say(format!("{error}: the numbers below are kept in no file"));
        }
    }
    Ok((opened.run.map(|run| run.path().to_owned()), records))
}

/// Checks that what is asked of retrieval would change something.
fn check(options: &Options, recipe: &Recipe) -> Result<(), ConfigError> {
    let possible = recipe.retrieves();
    ConfigError::unless(
        options.folds.is_none() || possible,
        "--folds",
        options.folds.unwrap_or_default(),
        "must be absent: nothing is retrieved without [objectives.itc], [objectives.itm] or [objectives.ranking]",
    )?;
    ConfigError::unless(
        !options.full_itm || recipe.objectives.scores_pairs(),
        "--full-itm",
        options.full_itm,
        "must be absent: no text is scored with an image without a matching head, [objectives.itm] or [objectives.ranking]",
    )?;
    let ranks_again = recipe.ranks_again();
    const NEEDS: &str = "must be absent: without a contrast, [objectives.itc], and a matching head, [objectives.itm] or \
                         [objectives.ranking], nothing is ranked again";
    ConfigError::unless(
        options.shortlist.is_none() || ranks_again,
        "--shortlist",
        options.shortlist.unwrap_or_default(),
        NEEDS,
    )?;
    ConfigError::unless(
        !options.united_shortlists || ranks_again,
        "--united-shortlists",
        options.united_shortlists,
        NEEDS,
    )
}

/// Retrieval among the images of these splits, and the captions that the model writes for them.
fn of_pairs(
    opened: &Opened,
    splits: &[Split],
    options: &Options,
    say: &mut dyn FnMut(String),
) -> Result<Vec<EvalRecord>, TrainError> {
    let (recipe, source) = (&opened.recipe, &opened.source);
    let skip = SkipList::in_memory(recipe.data.max_skipped);
    let concepts = opened.concepts.clone();
    let Some(set) = retrieval::open_set(recipe, source, splits, &skip, concepts)? else {
        return Err(TrainError::Run {
            path: opened.path.clone(),
            reason: format!(
                "its data has nothing to evaluate on in split {}; it has {}",
                splits.first().map_or("val", |split| split.name()),
                named(&lengths(source, &|_| true))
            ),
        });
    };
    let mut left_out = lengths(source, &|split| !splits.contains(&split));
    left_out.extend(source.left_out());
    if skip.count() > 0 {
        left_out.insert("unusable".to_owned(), skip.count() as u64);
    }
    let weights = opened.weights();
    let mut records = Vec::new();
    let mut add = |found: Vec<EvalRecord>, label: String| {
        let first = found.into_iter().next();
        records.extend(first.map(|record| EvalRecord {
            split: labelled(&label, options),
            left_out: left_out.clone(),
            ..record
        }));
    };
    if recipe.retrieves() {
        let whole = Retrieval::whole(set.clone());
        let found = whole.evaluate(&weights, say)?;
        let scored = found.first().map(|record| record.scored.clone());
        add(found, set.label());
        for record in whole.by_language(&weights, &scored.unwrap_or_default(), say)? {
            let label = record.split.clone();
            add(vec![record], label);
        }
    }
    if let Some(folds) = options.folds {
        let pictures = set.items().len();
        ConfigError::unless(
            (2..=pictures).contains(&folds),
            "--folds",
            folds,
            format_args!("must be 2 to {pictures}, the number of images"),
        )
        .map_err(|error| TrainError::Check(error.to_string()))?;
        let mut each = Vec::new();
        for fold in set.folds(folds) {
            each.extend(Retrieval::whole(fold).evaluate(&weights, say)?);
        }
        let mean = retrieval::mean(&each);
        let label = format!("{}, mean over {folds} folds", set.label());
        add(mean.into_iter().collect(), label);
    }
    if let Some(config) = &recipe.eval.captions {
        let captions = Captions::of(config, &set);
        add(captions.evaluate(&weights, say)?, captions.set().label());
    }
    Ok(records)
}

/// What the evaluators of the recipe's sections that are asked at this time say of each of these splits.
fn of_sections(
    opened: &Opened,
    when: When,
    splits: &[Split],
    options: &Options,
    say: &mut dyn FnMut(String),
) -> Result<Vec<EvalRecord>, TrainError> {
    let recipe = &opened.recipe;
    let mut asked = sections(&recipe.eval);
    asked.retain(|section| section.when() == when);
    let targets = opened.targets();
    let mut records = Vec::new();
    for split in splits.iter().filter(|_| !asked.is_empty()) {
        let skip = SkipList::in_memory(recipe.data.max_skipped);
        let held_out = HeldOut {
            source: &opened.source,
            skip: &skip,
            concepts: opened.concepts.clone(),
            codes: opened.codes.clone(),
            tokenizer: &opened.tokenizer,
            targets: targets.as_ref(),
            split: *split,
        };
        for section in &asked {
            let Some(evaluator) = section.open(recipe, &held_out, say)? else {
                continue;
            };
            let found = evaluator.evaluate(&opened.weights(), say)?;
            records.extend(found.into_iter().map(|record| EvalRecord {
                split: labelled(&record.split, options),
                ..record
            }));
        }
    }
    Ok(records)
}

/// Number of samples in each non-empty split that `of` selects, by the split's name.
fn lengths(source: &Arc<dyn Source>, of: &dyn Fn(Split) -> bool) -> BTreeMap<String, u64> {
    let splits = Split::ALL.into_iter().filter(|split| of(*split));
    splits
        .map(|split| (split.name().to_owned(), source.len(split) as u64))
        .filter(|(_, length)| *length > 0)
        .collect()
}

/// Counts by name, as text.
fn named(counts: &BTreeMap<String, u64>) -> String {
    let each = counts.iter().map(|(name, count)| {
        let of = if name.starts_with("without ") {
            ""
        } else {
            "of "
        };
        format!("{count} {of}{name}")
    });
    if counts.is_empty() {
        "nothing".to_owned()
    } else {
        each.collect::<Vec<_>>().join(", ")
    }
}

/// What was evaluated, as text, since it may not be the run's whole held-out set.
fn labelled(label: &str, options: &Options) -> String {
    let of = options.data.as_ref().and_then(|path| path.file_name());
    let of = of.map(|name| format!(" of {}", name.display()));
    format!("{label}{} (unimo eval)", of.unwrap_or_default())
}

/// An evaluation as a table for the terminal.
pub fn table(record: &EvalRecord) -> String {
    if !record.is_retrieval() {
        return numbers(record);
    }
    let mut out = format!(
        "step {}, {}: {} images, {} texts\n{:<10}{:>34}{:>34}\n",
        record.step,
        record.split,
        record.images,
        record.texts,
        "",
        "text to image R@1/5/10 (median)",
        "image to text R@1/5/10 (median)"
    );
    let cell = |r: &RecallRecord| {
        let median = if r.median_rank.is_nan() {
            String::new()
        } else {
            format!(" ({})", r.median_rank)
        };
        format!(
            "{:.1} / {:.1} / {:.1}{median}",
            100.0 * r.r1,
            100.0 * r.r5,
            100.0 * r.r10
        )
    };
    let mut row = |name: &str, a: &RecallRecord, b: &RecallRecord| {
        out.push_str(&format!("{name:<10}{:>34}{:>34}\n", cell(a), cell(b)));
    };
    for r in &record.retrieval {
        row(&r.method, &r.text_to_image, &r.image_to_text);
    }
    if let Some(chance) = &record.chance {
        row("chance", &chance.text_to_image, &chance.image_to_text);
    }
    if !record.left_out.is_empty() {
        out.push_str(&format!("left out: {}\n", named(&record.left_out)));
    }
    out
}

/// The numbers of a task, one per line.
fn numbers(record: &EvalRecord) -> String {
    let mut out = format!(
        "step {}, {}: {} samples\n",
        record.step, record.split, record.texts
    );
    if record.scalars.is_empty() {
        out.push_str(&format!("{NO_NUMBER}\n"));
    }
    for (name, scalar) in &record.scalars {
        // Cells and metres are no shares.
        let measured = walks::MEASURED.contains(&name.as_str());
        let factor = if measured { 1.0 } else { 100.0 };
        let chance = scalar
            .chance
            .map(|c| format!("   chance {:.2}", factor * c));
        let value = factor * scalar.value;
        out.push_str(&format!(
            "{name:<44}{value:>8.2}{}\n",
            chance.unwrap_or_default()
        ));
    }
    if !record.left_out.is_empty() {
        out.push_str(&format!("left out: {}\n", named(&record.left_out)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Overrides;

    #[test]
    fn what_would_change_nothing_is_refused() {
        let recipe = |name: &str| Recipe::load(name, &Overrides::default()).unwrap();
        let (pairs, towers) = (recipe("unimo3-tiny"), recipe("clip-tiny"));
        let asked = [
            Options {
                full_itm: true,
                ..Options::default()
            },
            Options {
                shortlist: Some(4),
                ..Options::default()
            },
            Options {
                united_shortlists: true,
                ..Options::default()
            },
        ];
        for options in asked {
            check(&options, &pairs).unwrap();
            let error = check(&options, &towers).unwrap_err().to_string();
            assert!(error.contains("matching head"), "{error}");
        }
        let folds = Options {
            folds: Some(2),
            ..Options::default()
        };
        check(&folds, &towers).unwrap();
        let error = check(&folds, &recipe("unimo3-vqa-tiny")).unwrap_err();
        assert!(
            error.to_string().contains("nothing is retrieved"),
            "{error}"
        );
    }
}
