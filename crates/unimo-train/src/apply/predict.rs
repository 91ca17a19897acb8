//! `unimo predict`: what a fine-tuned run answers, judges or classifies, for every sample of a split.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use serde_json::{Value, json};
use unimo_core::world::World;
use unimo_data::sources::glue::GlueTask;
use unimo_data::{SampleError, SkipList, Source, Split, TaskRow, TaskSet};
use unimo_objectives::Predicts;

use super::inputs;
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::files::Output;
use crate::opened::{Opened, Options};
use crate::outputs;
use crate::progress::Progress;
use crate::recipe::Task;
use crate::tasks::Targets;
use crate::tasks::predict::{Predicted, predict};

/// `unimo predict`.
#[derive(Debug, clap::Args)]
pub struct PredictArgs {
    /// The run folder of a task, the file of one of its checkpoints, its export, or a public checkpoint with the head of a task.
    pub run: PathBuf,
    /// Step of the checkpoint; default: the best.
    #[arg(long)]
    pub step: Option<u64>,
    /// Data other than the run's own, of a form that is recognised.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Change a setting of the run's data, such as data.vqa.test.questions=FILE; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The labels of a checkpoint that comes without them: a JSON list, or one label per line.
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Split: val, test or train [default: val of the run's own data, all of --data].
    #[arg(long, value_parser = inputs::split)]
    pub split: Option<Split>,
    /// Number of samples of a split, drawn at random and always the same; 0: all.
    #[arg(long, default_value_t = 0)]
    pub limit: usize,
    /// What is written.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    pub format: Format,
    /// Where to write; default: standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Device: cpu (or flex), wgpu, wgpu:N, cuda, cuda:N or auto.
    #[arg(long, default_value = "flex")]
    pub device: DeviceChoice,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object per sample: sample, id, text, the best labels with their probabilities, and the known answer. A box is x1, y1,
    /// x2, y2 as shares of the image's width and height, with the known one as right_box.
    Jsonl,
    /// VQAv2's results for EvalAI: a JSON list of question_id and answer.
    Vqa,
    /// GQA's results: a JSON list of questionId and prediction.
    Gqa,
    /// NLVR2's results: identifier,True or identifier,False, one per line.
    Nlvr2,
    /// GLUE's results: a header, then the sample's number and its label, divided by a tabulator.
    Glue,
}

/// The tasks with what they predict and the files that their servers take, for `unimo tasks`.
pub fn tasks() -> String {
    let rows = [
        ("vqa", "an answer to a question about an image", "vqa, gqa"),
        (
            "answers",
            "the same by the likelihood of its words",
            "vqa, gqa",
        ),
        (
            "nlvr2",
            "whether a statement about one or two images is true",
            "nlvr2",
        ),
        (
            "snli_ve",
            "whether an image entails or contradicts a sentence",
            "jsonl",
        ),
        ("classes", "the class of an image", "jsonl"),
        (
            "sentences",
            "the class or the score of a sentence or of a pair",
            "glue",
        ),
        (
            "grounding",
            "the box in an image that an expression refers to",
            "jsonl",
        ),
        (
            "region_scoring",
            "the same, chosen from a detector's regions",
            "jsonl",
        ),
    ];
    let mut out = format!("{:<16}{:<56}{}\n", "objective", "predicts", "--format");
    for (key, predicts, format) in rows {
        out.push_str(&format!("{key:<16}{predicts:<56}{format}\n"));
    }
    out
}

/// Runs the command.
///
/// # Errors
///
/// The run has no task, its data cannot be read, or a results file would lack a sample or have one twice.
pub fn run(args: &PredictArgs) -> Result<(), TrainError> {
    run_in(args, World::ALONE)
}

/// Runs the command on the ranks of `world`. Rank 0 writes.
///
/// # Errors
///
/// As of [`run`].
pub fn run_in(args: &PredictArgs, world: World) -> Result<(), TrainError> {
    outputs::check(
        &[args.out.as_deref()],
        &[args.data.as_deref(), args.labels.as_deref()],
        &[&args.run],
    )?;
    let options = Options {
        world,
        device: args.device,
        step: args.step,
        limit: Some(args.limit),
        data: args.data.clone(),
        set: args.set.clone(),
        labels: args.labels.clone(),
        split: args.split,
        unlabelled: true,
        ..Options::default()
    };
    if let Some(other) = args.set.iter().find(|set| !set.starts_with("data.")) {
        return Err(TrainError::Override {
            given: other.clone(),
            reason: "only settings of data change what is predicted".to_owned(),
        });
    }
    let opened = Opened::new(&args.run, &options)?;
    // Every unusable sample gets a line of its own.
    const ALL: f64 = 1.0;
    let skip = Arc::new(SkipList::in_memory(ALL));
    let splits = opened.splits(&options);
    let Some(targets) = opened.targets() else {
        return Err(TrainError::Run {
            path: opened.path.clone(),
            reason: "predicts nothing: it was trained without a task, such as [objectives.vqa]"
                .to_owned(),
        });
    };
    let mut sets = Vec::with_capacity(splits.len());
    for split in &splits {
        let set = opened.task_set(*split, &skip, true)?;
        sets.extend(set.map(|(set, _)| set).filter(|set| !set.is_empty()));
    }
    let refused = Refused::of(&*opened.source, &splits);
    if sets.is_empty() {
        let there = Split::ALL.into_iter().map(|split| {
            let count = opened.source.len(split);
            format!("{count} of {}", split.name())
        });
        let first = opened.source.rejected().first();
        let rejected = first.map_or(String::new(), |first| {
            let count = opened.source.rejected().len();
            format!("; {count} cannot be used, the first: {first}")
        });
        return Err(TrainError::Run {
            path: opened.path.clone(),
            reason: format!(
                "has nothing to predict{}: of its data there are {}{rejected}",
                args.split
                    .or(args.data.is_none().then_some(Split::Val))
                    .map_or(String::new(), |split| format!(" in split {}", split.name())),
                there.collect::<Vec<String>>().join(", ")
            ),
        });
    }
    args.format.fits(targets.task)?;
    for split in &splits {
        opened.look_at(*split);
    }
    let mut writer = Results::new(args.format, &targets);
    writer.glue = opened.recipe.data.glue.as_ref().map(|glue| glue.task);
    writer.check(&sets, &refused)?;
    // The other ranks have the predictions too, and write them nowhere.
    let mut out = if opened.world.is_first() {
        Output::open(args.out.as_deref())?
    } else {
        Output::nowhere()
    };
    // Of a part that was drawn, nothing says whether they would be in it.
    let listed = if args.limit == 0 { &*refused.own } else { &[] };
    let read = write(&opened, &sets, (&mut writer, listed), &mut out)?;
    let samples: usize = sets.iter().map(TaskSet::len).sum();
    if let (0, Some(first)) = (read.predicted, read.first) {
        return Err(TrainError::Check(format!(
            "none of {samples} samples could be read; the first, {first}"
        )));
    }
    out.finish()?;
    if !opened.world.is_first() {
        return Ok(());
    }
    let without = read.unusable + listed.len();
    if without > 0 {
        eprintln!(
            "{without} of {} samples could not be read; each has a line with the reason",
            samples + listed.len()
        );
    }
    let others = refused.own.len() - listed.len() + refused.of_any.len();
    let first = refused.of_any.first().or(refused.own.first());
    if let Some(first) = first.filter(|_| others > 0) {
        eprintln!(
            "{others} rows of the data cannot be used, and have no line here; the first: {first}"
        );
    }
    Ok(())
}

/// Rows that were refused when the data was opened, and so are in no split.
struct Refused {
    /// Those of files that have samples of the chosen splits alone.
    own: Vec<SampleError>,
    /// Those of files that have samples of other splits too: nothing says which split they are of.
    of_any: Vec<SampleError>,
}

impl Refused {
    fn of(source: &dyn Source, splits: &[Split]) -> Self {
        let mut refused = Self {
            own: Vec::new(),
            of_any: Vec::new(),
        };
        if source.rejected().is_empty() {
            return refused;
        }
        let files = |split: Split| -> BTreeSet<String> {
            let places = (0..source.len(split)).map(|index| source.place(split, index).file);
            places.collect()
        };
        let (own, others): (Vec<Split>, Vec<Split>) = Split::ALL
            .into_iter()
            .partition(|split| splits.contains(split));
        let own: BTreeSet<String> = own.into_iter().flat_map(files).collect();
        let others: BTreeSet<String> = others.into_iter().flat_map(files).collect();
        for row in source.rejected() {
            match (
                own.contains(&row.place.file),
                others.contains(&row.place.file),
            ) {
                (true, false) => refused.own.push(row.clone()),
                (true, true) => refused.of_any.push(row.clone()),
                (false, _) => {}
            }
        }
        refused
    }
}

/// What was written.
#[derive(Default)]
struct Read {
    predicted: usize,
    unusable: usize,
    /// The first sample that could not be read.
    first: Option<SampleError>,
}

fn write(
    opened: &Opened,
    sets: &[TaskSet],
    (results, refused): (&mut Results<'_>, &[SampleError]),
    out: &mut Output,
) -> Result<Read, TrainError> {
    let mut bar = if opened.world.is_first() {
        let samples: usize = sets.iter().map(TaskSet::len).sum();
        Progress::new(samples as u64, 0, "predicting")
    } else {
        Progress::silent()
    };
    let model = (&opened.model, results.targets.task, &opened.device);
    out.put(&results.head())?;
    let size = opened.recipe.eval.batch_size;
    let mut read = Read::default();
    for set in sets {
        predict(model, &opened.world, set, size, &mut |(
            predicted,
            unusable,
        )| {
            bar.advance(predicted.len() + unusable.len());
            read.predicted += predicted.len();
            read.unusable += unusable.len();
            for predicted in &predicted {
                out.put(&results.line(predicted)?)?;
            }
            for (row, reason) in &unusable {
                read.first.get_or_insert_with(|| reason.clone());
                out.put(&results.unusable(row, reason)?)?;
            }
            Ok(())
        })?;
    }
    bar.finish();
    for row in refused {
        let line = json!({ "sample": row.place.to_string(), "error": row.reason });
        out.put(&format!("{line}\n"))?;
    }
    out.put(results.foot())?;
    Ok(read)
}

/// Writes results in a format.
struct Results<'a> {
    format: Format,
    targets: &'a Targets,
    /// The task of GLUE that the data is of, whose server may take numbers for labels.
    glue: Option<GlueTask>,
    /// The place of each id that has been written.
    ids: HashMap<String, String>,
}

impl Format {
    /// Checks that the file is one of the task.
    fn fits(self, task: Task) -> Result<(), TrainError> {
        let fits = match self {
            Self::Jsonl => true,
            Self::Vqa | Self::Gqa => matches!(task.predicts, Predicts::Answers { .. }),
            Self::Nlvr2 => task.key == "nlvr2",
            Self::Glue => task.key == "sentences",
        };
        if fits {
            return Ok(());
        }
        let name = self.to_possible_value();
        Err(TrainError::Check(format!(
            "--format {}: is no file of [objectives.{}], which this run predicts; `unimo tasks` lists the formats of each task, and jsonl \
             is one of all",
            name.as_ref().map_or("", |value| value.get_name()),
            task.key
        )))
    }
}

impl<'a> Results<'a> {
    fn new(format: Format, targets: &'a Targets) -> Self {
        Self {
            format,
            targets,
            glue: None,
            ids: HashMap::new(),
        }
    }

    fn head(&self) -> String {
        match self.format {
            Format::Jsonl | Format::Nlvr2 => String::new(),
            Format::Vqa | Format::Gqa => "[".to_owned(),
            Format::Glue => "index\tprediction\n".to_owned(),
        }
    }

    fn foot(&self) -> &'static str {
        match self.format {
            Format::Jsonl | Format::Nlvr2 | Format::Glue => "",
            Format::Vqa | Format::Gqa => "\n]\n",
        }
    }

    fn line(&mut self, predicted: &Predicted) -> Result<String, TrainError> {
        let row = &predicted.row;
        let answer = self.answer(predicted);
        Ok(match self.format {
            Format::Jsonl => format!("{}\n", self.object(predicted)),
            Format::Vqa => {
                let comma = self.comma();
                let id = number(&self.id(row)?);
                format!("{comma}{}", json!({ "question_id": id, "answer": answer }))
            }
            Format::Gqa => {
                let comma = self.comma();
                let id = self.id(row)?;
                format!(
                    "{comma}{}",
                    json!({ "questionId": id, "prediction": answer })
                )
            }
            Format::Nlvr2 => format!("{},{answer}\n", self.id(row)?),
            Format::Glue => {
                let id = match row.label.id.as_str() {
                    "" => row.number.to_string(),
                    id => id.to_owned(),
                };
                match self.glue {
                    Some(task) => {
                        let line = task.line(&id, &answer).map_err(TrainError::Check)?;
                        format!("{line}\n")
                    }
                    None => format!("{id}\t{answer}\n"),
                }
            }
        })
    }

    /// Checks that a results file can have every sample once, before anything is predicted.
    fn check(&mut self, sets: &[TaskSet], refused: &Refused) -> Result<(), TrainError> {
        if self.format == Format::Jsonl {
            return Ok(());
        }
        if let Some(first) = refused.own.first() {
            return Err(TrainError::Check(format!(
                "{} rows of the split cannot be used, and a results file needs every sample: {first}; --format jsonl goes on without them",
                refused.own.len()
            )));
        }
        if let Some(first) = refused.of_any.first() {
            return Err(TrainError::Check(format!(
                "{} rows of the data cannot be used, which may be of this split, and a results file needs every sample: {first}; \
                 --format jsonl goes on without them",
                refused.of_any.len()
            )));
        }
        if self.format == Format::Glue && sets.len() > 1 {
            return Err(TrainError::Check(
                "--format glue numbers the samples of one split, and the data has several: --split names one"
                    .to_owned(),
            ));
        }
        let rows = sets
            .iter()
            .flat_map(|set| (0..set.len()).map(|number| set.row(number)));
        for row in rows {
            match self.format {
                Format::Glue if row.label.id.is_empty() => {}
                _ => {
                    self.id(&row)?;
                }
            }
        }
        self.ids.clear();
        Ok(())
    }

    /// What stands before the next element of a list.
    fn comma(&self) -> &'static str {
        if self.ids.is_empty() { "\n" } else { ",\n" }
    }

    /// A results file must have every sample once.
    fn id(&mut self, row: &TaskRow) -> Result<String, TrainError> {
        let id = row.label.id.clone();
        let wrong = |reason: String| {
            TrainError::Check(format!(
                "{}: {reason}; --format jsonl needs no ids",
                row.name
            ))
        };
        if id.is_empty() {
            return Err(wrong(
                "has no id, under which its result would be submitted".to_owned(),
            ));
        }
        match self.ids.insert(id.clone(), row.name.clone()) {
            None => Ok(id),
            Some(before) => Err(wrong(format!("has the id {id}, as {before} has"))),
        }
    }

    fn unusable(&self, row: &TaskRow, reason: &SampleError) -> Result<String, TrainError> {
        match self.format {
            Format::Jsonl => {
                let line = json!({ "sample": row.name, "id": id(row), "text": row.text, "error": reason.reason });
                Ok(format!("{line}\n"))
            }
            Format::Vqa | Format::Gqa | Format::Nlvr2 | Format::Glue => {
                Err(TrainError::Check(format!(
                    "{reason}: a results file needs every sample; --format jsonl goes on without it"
                )))
            }
        }
    }

    fn answer(&self, predicted: &Predicted) -> String {
        let best = predicted.best.first().copied();
        match (&self.targets.labels, best) {
            (Some(labels), Some((label, _))) => {
                labels.name(label as usize).unwrap_or_default().to_owned()
            }
            (None, Some((_, value))) => value.to_string(),
            (_, None) => String::new(),
        }
    }

    fn object(&self, predicted: &Predicted) -> Value {
        let row = &predicted.row;
        let labels = self.targets.labels.as_ref();
        let mut object = json!({ "sample": row.name });
        let mut set = |key: &str, value: Value| {
            if !value.is_null() {
                object[key] = value;
            }
        };
        set("id", json!(id(row)));
        set("text", json!(row.text));
        match predicted.bounds {
            Some(bounds) => set("box", json!(bounds)),
            None => set("prediction", json!(self.answer(predicted))),
        }
        if let Some(labels) = labels {
            let best: Vec<Value> = predicted
                .best
                .iter()
                .map(|(label, score)| {
                    json!({ "label": labels.name(*label as usize), "probability": score })
                })
                .collect();
            set("best", json!(best));
        }
        set("answer", json!(row.label.answer));
        set("right_box", json!(row.label.bounds));
        object
    }
}

/// The id of a row, if it has one.
fn id(row: &TaskRow) -> Option<&str> {
    Some(row.label.id.as_str()).filter(|id| !id.is_empty())
}

/// An id as the number that it is, or as it is.
fn number(id: &str) -> Value {
    id.parse::<u64>()
        .map_or_else(|_| json!(id), |number| json!(number))
}
