//! Several runs side by side: what differs in their recipes, their best scores, set-ups over seeds, and curves over each other.
//!
//! Runs whose recipes differ by the seed alone are one set-up, whose scores have a mean and a deviation. Two set-ups are compared seed by
//! seed, over the seeds that both have: what a seed does to both of them (the order of the data, the masks) then cancels out. Numbers are
//! set side by side only where they are of the same held-out data, drawn alike.

mod blocks;
mod charts;
mod curves;
mod page;
mod scores;
mod statistics;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

pub use self::curves::{Curve, CurvePoint, Subject};
pub use self::scores::{Moment, Place, Score};
pub use self::statistics::{Aggregate, Paired};
use crate::record::{self, RunFolder};
use crate::run::{ReportError, read};

/// The key of a recipe's seed.
const SEED: &str = "seed";

/// Keys, and tables, that change neither the weights nor the scores of a run, and so make no set-up of their own.
const NO_SETUP: [&str; 3] = [SEED, "description", "log"];

/// A run, with what only the reader of its recipe knows.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    /// Its folder.
    pub folder: PathBuf,
    /// Its name in tables and legends, different from those of the others.
    pub name: String,
    /// Its resolved recipe: every value by its full key, as TOML writes it.
    pub recipe: BTreeMap<String, String>,
    /// The number of steps that its recipe asks for.
    pub steps: u64,
    /// Samples per step.
    pub samples: u64,
    /// What it is trained for: the key of its task, or a word for pre-training.
    pub task: String,
    /// The rows that it was begun with, by place and split; empty if that was not recorded.
    pub data: BTreeMap<String, String>,
    /// The rows that it is evaluated on; `None` if that was not recorded.
    pub held_out: Option<String>,
    /// What a reader should know of it.
    pub notes: Vec<String>,
}

/// Runs side by side.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What a reader must know before comparing: runs that are unfinished, damaged, or not comparable.
    pub notes: Vec<String>,
    /// The runs, in the order given.
    pub runs: Vec<ComparedRun>,
    /// Runs that differ by the seed alone, in order of appearance.
    pub setups: Vec<Setup>,
    /// What differs between set-ups: for each key of the recipe, or of the data that runs were begun with, its value in each set-up, in
    /// their order; absent keys are `null`.
    pub differences: BTreeMap<String, Vec<Option<String>>>,
    /// Mean and deviation of every score over the seeds of a set-up, of finished runs.
    pub aggregates: Vec<Aggregate>,
    /// Differences between set-ups over their common seeds.
    pub paired: Vec<Paired>,
    /// Curves of losses and evaluations.
    pub curves: Vec<Curve>,
    /// Whether the best weights of every run are its last ones, so that their scores are given once.
    pub best_is_last: bool,
}

/// A run that is compared.
#[derive(Debug, Clone, Serialize)]
pub struct ComparedRun {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The name of its set-up.
    pub setup: String,
    /// Its seed, as in the recipe.
    pub seed: String,
    /// What it is trained for.
    pub task: String,
    /// The last step that it logged.
    pub step: u64,
    /// The steps that its recipe asks for.
    pub steps: u64,
    /// Whether all its steps are done and, if it is evaluated at all, evaluated.
    pub finished: bool,
    /// Seconds of training, if it logged them.
    pub seconds: Option<f64>,
    /// Samples per step.
    pub samples_per_step: u64,
    /// Letter of the data that it is evaluated on; runs with different letters are not comparable.
    pub held_out: String,
    /// Step of its best weights.
    pub best_step: Option<u64>,
    /// What its best weights were chosen by, and their score.
    pub best_by: String,
    /// The score that its best weights were chosen by.
    pub best_score: Option<f64>,
    /// Number of parameters, if the run says it.
    pub parameters: Option<u64>,
    /// Device, if the run says it.
    pub device: String,
    /// Version of the program, if the run says it.
    pub version: String,
    /// Its scores.
    pub scores: Vec<Score>,
}

/// Runs whose recipes differ by the seed alone.
#[derive(Debug, Clone, Serialize)]
pub struct Setup {
    /// Its name: that of its runs as far as they agree.
    pub name: String,
    /// Indices of its runs.
    pub runs: Vec<usize>,
    /// Its seeds, in the order of its runs.
    pub seeds: Vec<String>,
}

impl Comparison {
    /// Reads the runs and compares them.
    ///
    /// # Errors
    ///
    /// A folder is no run, or cannot be read.
    pub fn new(candidates: &[Candidate]) -> Result<Self, ReportError> {
        let mut notes = Vec::new();
        let mut folders = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let folder = read(&candidate.folder)?;
            let about = |what: &str| format!("{}: {what}", candidate.name);
            notes.extend(candidate.notes.iter().map(|note| about(note)));
            notes.extend(folder.problems.iter().map(|problem| about(problem)));
            notes.extend(folder.torn.iter().map(|file| {
                about(&format!(
                    "the last line of {file} breaks off, as a run leaves it that is killed while it writes, and is left out"
                ))
            }));
            folders.push(folder);
        }
        let letters = letters(candidates);
        let setups = setups(candidates);
        let both = candidates.iter().zip(&folders);
        let mut runs: Vec<ComparedRun> = both
            .zip(&letters)
            .map(|((candidate, folder), letter)| compared(candidate, folder, letter))
            .collect();
        for setup in &setups {
            for run in &setup.runs {
                runs[*run].setup = setup.name.clone();
            }
        }
        let best_is_last = drop_last_if_best(&mut runs);
        notes.extend(say_unfinished(&runs, &folders));
        notes.extend(say_partly_scored(&setups, &runs));
        notes.extend(say_not_comparable(candidates, &runs));
        let (seeds, repeated) = statistics::seeds(&setups, &runs);
        notes.extend(repeated);
        Ok(Self {
            differences: differences(candidates, &setups),
            aggregates: statistics::aggregates(&setups, &seeds, &runs),
            paired: statistics::paired(&setups, &seeds, &runs),
            curves: curves::curves(candidates, &folders, &runs),
            notes,
            runs,
            setups,
            best_is_last,
        })
    }

    /// The page, which needs nothing from elsewhere.
    pub fn page(&self) -> String {
        page::page(self)
    }

    /// The tables for a terminal.
    pub fn table(&self) -> String {
        table::table(self)
    }

    /// The same tables as Markdown, for a document.
    pub fn markdown(&self) -> String {
        table::markdown(self)
    }

    /// Whether some set-up has more than one run.
    fn has_seeds(&self) -> bool {
        self.setups.iter().any(|setup| setup.runs.len() > 1)
    }
}

fn compared(candidate: &Candidate, folder: &RunFolder, letter: &str) -> ComparedRun {
    let step = folder.steps.last().map_or(0, |step| step.step);
    let evaluated = folder.evals.iter().map(|eval| eval.step).max();
    let best = record::best(&folder.evals);
    let text = |key: &str| match folder.facts.get(key) {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    let seed = candidate.recipe.get(SEED).cloned();
    ComparedRun {
        name: candidate.name.clone(),
        folder: candidate.folder.clone(),
        setup: String::new(),
        seed: seed.unwrap_or_default(),
        task: candidate.task.clone(),
        step,
        steps: candidate.steps,
        finished: step >= candidate.steps && evaluated.is_none_or(|at| at >= candidate.steps),
        seconds: folder
            .steps
            .last()
            .map(|step| step.elapsed_seconds)
            .filter(|seconds| seconds.is_finite()),
        samples_per_step: candidate.samples,
        held_out: letter.to_owned(),
        best_step: best.map(|(eval, _)| eval.step),
        best_by: best.map_or(String::new(), |(eval, _)| eval.scored.clone()),
        best_score: best.map(|(_, score)| score),
        parameters: folder.facts.get("parameters").and_then(Value::as_u64),
        device: text("device"),
        version: match folder
            .facts
            .get("versions")
            .and_then(|all| all.get("unimo"))
        {
            Some(Value::String(version)) => version.clone(),
            _ => String::new(),
        },
        scores: scores::scores(folder, letter, best.map(|(eval, _)| eval.step)),
    }
}

/// Leaves out the scores of the last weights where they are the best ones of every run.
fn drop_last_if_best(runs: &mut [ComparedRun]) -> bool {
    let is_last = |run: &ComparedRun| {
        let mut last = run
            .scores
            .iter()
            .filter(|score| score.place.weights == Moment::Last);
        last.all(|score| Some(score.step) == run.best_step)
    };
    let all = runs.iter().all(is_last);
    if all {
        for run in runs {
            run.scores
                .retain(|score| score.place.weights != Moment::Last);
        }
    }
    all
}

/// A letter for each run, equal where they are evaluated on the same rows. What was not recorded is like nothing else.
fn letters(candidates: &[Candidate]) -> Vec<String> {
    let mut known: Vec<&str> = Vec::new();
    let mut unknown = 0;
    candidates
        .iter()
        .map(|candidate| match candidate.held_out.as_deref() {
            Some(rows) => {
                let place = known.iter().position(|other| *other == rows);
                let place = place.unwrap_or_else(|| {
                    known.push(rows);
                    known.len() - 1
                });
                letter(place)
            }
            None => {
                unknown += 1;
                format!("unknown {unknown}")
            }
        })
        .collect()
}

/// `A`, `B`, ..., `Z`, `A1`, ...
fn letter(place: usize) -> String {
    let letters: Vec<char> = ('A'..='Z').collect();
    let (round, at) = (place / letters.len(), place % letters.len());
    let letter = letters.get(at).copied().unwrap_or('A');
    match round {
        0 => letter.to_string(),
        round => format!("{letter}{round}"),
    }
}

/// The recipe as far as it makes a set-up: without its seed and its description.
fn of_setup(candidate: &Candidate) -> BTreeMap<&str, &str> {
    let own = |(key, _): &(&String, &String)| {
        let first = key.split_once('.').map_or(key.as_str(), |(table, _)| table);
        !NO_SETUP.contains(&first)
    };
    candidate
        .recipe
        .iter()
        .filter(own)
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

/// Whether two runs differ by the seed alone. Rows that were not recorded, as of a run that is just beginning, do not differ.
fn is_one_setup(a: &Candidate, b: &Candidate) -> bool {
    let same_rows = a.data.is_empty() || b.data.is_empty() || a.data == b.data;
    same_rows && of_setup(a) == of_setup(b)
}

fn setups(candidates: &[Candidate]) -> Vec<Setup> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (run, candidate) in candidates.iter().enumerate() {
        let alike = |group: &&mut Vec<usize>| {
            group
                .iter()
                .all(|other| is_one_setup(&candidates[*other], candidate))
        };
        match groups.iter_mut().find(alike) {
            Some(runs) => runs.push(run),
            None => groups.push(vec![run]),
        }
    }
    let mut taken: BTreeSet<String> = BTreeSet::new();
    groups
        .into_iter()
        .enumerate()
        .map(|(number, runs)| {
            let names: Vec<&str> = runs.iter().map(|run| &*candidates[*run].name).collect();
            let mut name = common(&names);
            if name.is_empty() || taken.contains(&name) {
                name = format!("set-up {}", number + 1);
            }
            taken.insert(name.clone());
            let seed = |run: &usize| candidates[*run].recipe.get(SEED).cloned();
            Setup {
                name,
                seeds: runs
                    .iter()
                    .map(|run| seed(run).unwrap_or_default())
                    .collect(),
                runs,
            }
        })
        .collect()
}

/// What names begin with alike, without the word "seed" at its end; a single name as it is.
fn common(names: &[&str]) -> String {
    let [first, others @ ..] = names else {
        return String::new();
    };
    if others.is_empty() {
        return (*first).to_owned();
    }
    let alike = first.char_indices().find(|(at, character)| {
        let same = |other: &&str| {
            let rest = other.get(*at..);
            rest.is_some_and(|rest| rest.starts_with(*character))
        };
        !others.iter().all(same)
    });
    let end = alike.map_or(first.len(), |(at, _)| at);
    let goes_on = |name: &&str| {
        let rest = name.get(end..);
        rest.is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()))
    };
    let mut begin = &first[..end];
    // `seed10` and `seed12` differ in a number, not in its last digit.
    if names.iter().any(goes_on) {
        begin = begin.trim_end_matches(|last: char| last.is_ascii_digit());
    }
    let separators = ['-', '_', '.', ' ', '/'];
    let begin = begin.trim_end_matches(separators);
    let begin = begin.strip_suffix(SEED).unwrap_or(begin);
    begin.trim_end_matches(separators).to_owned()
}

/// Keys whose values differ between set-ups.
fn differences(
    candidates: &[Candidate],
    setups: &[Setup],
) -> BTreeMap<String, Vec<Option<String>>> {
    let of: Vec<BTreeMap<&str, &str>> = setups
        .iter()
        .map(|setup| {
            let first = setup.runs.first();
            let mut own = first
                .map(|run| of_setup(&candidates[*run]))
                .unwrap_or_default();
            let data = setup.runs.iter().flat_map(|run| &candidates[*run].data);
            own.extend(data.map(|(key, value)| (key.as_str(), value.as_str())));
            own
        })
        .collect();
    let keys: BTreeSet<&str> = of.iter().flat_map(|own| own.keys().copied()).collect();
    let values = |key: &str| -> Vec<Option<String>> {
        let value = |own: &BTreeMap<&str, &str>| own.get(key).map(|value| (*value).to_owned());
        of.iter().map(value).collect()
    };
    keys.into_iter()
        .map(|key| (key.to_owned(), values(key)))
        .filter(|(_, values)| values.windows(2).any(|pair| pair[0] != pair[1]))
        .collect()
}

fn say_unfinished(runs: &[ComparedRun], folders: &[RunFolder]) -> Vec<String> {
    let mut notes = Vec::new();
    for (run, folder) in runs.iter().zip(folders) {
        let what = match (folder.steps.is_empty(), run.finished) {
            (true, _) => "has no line of metrics.jsonl yet".to_owned(),
            (false, false) if run.step >= run.steps => {
                format!(
                    "has done its {} steps, but is not evaluated after the last",
                    run.steps
                )
            }
            (false, false) => format!("is unfinished, at step {} of {}", run.step, run.steps),
            (false, true) if folder.evals.is_empty() => {
                notes.push(format!(
                    "{}: is finished, but nothing was evaluated",
                    run.name
                ));
                continue;
            }
            (false, true) => continue,
        };
        notes.push(format!(
            "{}: {what}; it is shown, and in no mean or difference",
            run.name
        ));
    }
    notes
}

/// Lines on runs whose best weights lack numbers that those of other seeds have: evaluations during training may score less than the last
/// one, and a mean is of fewer seeds then.
fn say_partly_scored(setups: &[Setup], runs: &[ComparedRun]) -> Vec<String> {
    fn of_best(run: &ComparedRun) -> BTreeSet<&Place> {
        let scores = run.scores.iter().map(|score| &score.place);
        scores
            .filter(|place| place.weights == Moment::Best)
            .collect()
    }
    let mut notes = Vec::new();
    for setup in setups {
        let finished = || setup.runs.iter().map(|run| &runs[*run]);
        let finished = || finished().filter(|run| run.finished);
        let all: BTreeSet<&Place> = finished().flat_map(of_best).collect();
        for run in finished() {
            let lacking = all.len() - of_best(run).len();
            let best = run.best_step.filter(|step| *step < run.steps);
            if let Some(best) = best.filter(|_| lacking > 0) {
                notes.push(format!(
                    "{}: its best weights, of step {best}, lack {lacking} of the {} numbers that those of other seeds have, since less was scored \
                     during training than after the last step; `unimo eval` scores them whole, and the means of these numbers are of fewer seeds",
                    run.name,
                    all.len()
                ));
            }
        }
    }
    notes
}

/// Lines on runs that are evaluated on other data, trained for other tasks, or made by other versions.
fn say_not_comparable(candidates: &[Candidate], runs: &[ComparedRun]) -> Vec<String> {
    let groups = |of: &dyn Fn(usize) -> String| -> Vec<String> {
        let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
        // A run that has not begun to train says little of itself.
        for (at, run) in runs.iter().enumerate().filter(|(_, run)| run.step > 0) {
            let own = of(at);
            match groups.iter_mut().find(|(other, _)| *other == own) {
                Some((_, names)) => names.push(&run.name),
                None => groups.push((own, vec![&run.name])),
            }
        }
        let said = |(what, names): &(String, Vec<&str>)| format!("{what}: {}", names.join(", "));
        groups.iter().map(said).collect()
    };
    let mut notes = Vec::new();
    let mut say = |what: &str, groups: Vec<String>| {
        if groups.len() > 1 {
            notes.push(format!("{what} {}", groups.join("; ")));
        }
    };
    say(
        "Not comparable: the runs are evaluated on different data, and their scores stand in tables of their own.",
        groups(&|at| {
            let rows = candidates[at].held_out.as_deref();
            let rows =
                rows.unwrap_or("an earlier version began the run and did not record its rows");
            format!("data {} ({rows})", runs[at].held_out)
        }),
    );
    say(
        "The runs are of different tasks, and only numbers of the same name are set side by side.",
        groups(&|at| runs[at].task.clone()),
    );
    say(
        "The runs were made by different versions of the program.",
        groups(&|at| runs[at].version.clone()),
    );
    notes
}

#[cfg(test)]
mod tests;
