//! The command line of `unimo`, for programs that add parts of their own: objectives, sources, evaluators, encoders.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     unimo_train::cli::main_with(|| {
//!         // unimo_objectives::registry::register::<BrightnessConfig>("brightness")?;
//!         Ok(())
//!     })
//! }
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use unimo_batch::ConfigError;
use unimo_core::world::World;
use unimo_data::Split;

use crate::apply::{caption, embed, explain, fill_mask, inputs, predict, score, search};
use crate::device::DeviceChoice;
use crate::error::TrainError;
use crate::fingerprint::Given;
use crate::ranks::sums::{self, Order};
use crate::ranks::{self, Session, launcher};
use crate::recipe::{Overrides, Recipe};
use crate::recipes::RecipesCommand;
use crate::resuming::{self, Asked};
use crate::run::{NewRun, RunFolder};
use crate::scoring::captions::{self, ScoreCaptionsArgs};
use crate::{
    allocator, compare, data, evaluation, export, interrupt, names, pipe, program, recipes, report,
    scaling, sweep, training,
};

/// Vision-language pre-training: UNIMO-3, UNIMO-2, MVP, METER, BridgeTower and ManagerTower from image-text files to a trained
/// and evaluated model.
#[derive(Parser)]
#[command(name = "unimo", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a recipe, evaluate it on held-out pairs and write a report.
    ///
    /// Everything goes into a run folder: checkpoints, metrics.jsonl, TensorBoard events, report.html. A run that was stopped, even
    /// by kill -9, continues exactly where it was with --resume. On SIGTERM or Ctrl-C it saves after the current step and ends with
    /// exit code 75; a second signal ends it at once.
    #[command(after_help = TRAIN_EXAMPLES)]
    Train(Train),
    /// Train recipes and variants of them with several seeds, and compare the runs.
    #[command(after_help = SWEEP_EXAMPLES)]
    Sweep(sweep::SweepArgs),
    /// Evaluate a run's checkpoint: retrieval in both directions on a held-out split, or on a whole file.
    #[command(after_help = EVAL_EXAMPLES)]
    Eval(Eval),
    /// Write a run's report.html again.
    Report {
        /// The run folder.
        run: PathBuf,
    },
    /// Set several runs side by side: what differs in their recipes, best scores, set-ups over seeds, and curves over each other.
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(compare::CompareArgs),
    /// List the recipes that ship with unimo, show or check one, or explain a key.
    #[command(after_help = RECIPES_EXAMPLES)]
    Recipes {
        #[command(subcommand)]
        command: Option<RecipesCommand>,
    },
    /// List the parameters of a recipe's model: name, shape, whether it learns, factor of its learning rate, whether it decays.
    ///
    /// These are the names that init, train.freeze, stage.train and train.optimizer.lr_factors take, whole or by their beginning.
    #[command(after_help = NAMES_EXAMPLES)]
    Names(names::NamesArgs),
    /// Estimate which micro-batch fits a card, and what several ranks would give: what they exchange, how long that takes, what each keeps.
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(scaling::PlanArgs),
    /// Write embeddings of images and texts to a safetensors or .npy file.
    #[command(after_help = EMBED_EXAMPLES)]
    Embed(embed::EmbedArgs),
    /// Write the probability that a text and an image belong together, for every row of a list.
    #[command(after_help = SCORE_EXAMPLES)]
    Score(score::ScoreArgs),
    /// Find images for texts, and texts for images.
    #[command(after_help = SEARCH_EXAMPLES)]
    Search(search::SearchArgs),
    /// Fill in the likeliest words of a masked caption, given an image.
    #[command(after_help = FILL_MASK_EXAMPLES)]
    FillMask(fill_mask::FillMaskArgs),
    /// Show where each word of a caption looks in an image, and what makes the model say that they belong together.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(explain::ExplainArgs),
    /// Write captions for images.
    #[command(after_help = CAPTION_EXAMPLES)]
    Caption(caption::CaptionArgs),
    /// Answer the questions of a data set, judge its statements, classify its images: by a fine-tuned run.
    #[command(after_help = PREDICT_EXAMPLES)]
    Predict(predict::PredictArgs),
    /// List the tasks, with what each predicts and the file that it expects for submission.
    Tasks,
    /// Score generated captions against references: BLEU, ROUGE-L, CIDEr and CIDEr-D, as COCO's evaluation does.
    #[command(after_help = SCORE_CAPTIONS_EXAMPLES)]
    ScoreCaptions(ScoreCaptionsArgs),
    /// Write a model as a folder that Hugging Face transformers and unimo read.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(export::ExportArgs),
    /// Check, measure, show and pack data.
    #[command(subcommand)]
    Data(Data),
    /// Build a vocabulary of phrases and tags in addition to the tokens (MVP).
    #[command(subcommand)]
    Concepts(ConceptsCommand),
}

#[derive(Subcommand)]
enum Data {
    /// Read everything once and report what is damaged, missing, duplicated or leaked between the splits.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(data::verify::VerifyArgs),
    /// Show sizes, shapes, lengths, words and languages.
    Stats(data::stats::StatsArgs),
    /// Write a page with what the model actually sees: after every transform, with hidden words marked.
    Show(data::show::ShowArgs),
    /// Write any data as tar shards with checksummed indices; continues where it was interrupted.
    #[command(after_help = PACK_EXAMPLES)]
    Pack(data::pack::PackArgs),
    /// Write generated images with true captions as files, to try the other commands on: a folder of PNGs and pairs.jsonl.
    Scenes(data::scenes::ScenesArgs),
    /// Write paths through generated houses, with all that an agent sees on them, as files of the form of R2R-CE.
    Houses(data::houses::HousesArgs),
    /// Make codes of patches: a k-means of the training images' patches, for data.codes.path in a recipe.
    #[command(after_help = CODES_EXAMPLES)]
    Codes(data::codes::CodesArgs),
    /// Measure how many samples per second the loader makes, one JSON line per number of threads.
    Bench(data::bench::BenchArgs),
}

#[derive(Subcommand)]
enum ConceptsCommand {
    /// Count the phrases of captions and the tags of images and keep the frequent ones.
    #[command(after_help = CONCEPTS_EXAMPLES)]
    Build(data::concepts::ConceptsArgs),
}

const RECIPES_EXAMPLES: &str = "\
Examples:
  unimo recipes
  A recipe as it is trained, with everything that it leaves out; what is printed is a recipe, too:
    unimo recipes show unimo3-base --set train.steps=2000 > mine.toml
  What a key or a table means:
    unimo recipes explain train.optimizer
  Everything that is wrong with a file, each with its line:
    unimo recipes check mine.toml --data pairs.jsonl";

const NAMES_EXAMPLES: &str = "\
Examples:
  unimo names unimo3-tiny
  What a pattern covers:
    unimo names unimo3-base --only backbone.text.layers.*.attention";

const EVAL_EXAMPLES: &str = "\
Examples:
  The best checkpoint on the run's own held-out images:
    unimo eval runs/unimo3-small
  Another step, and 500 images drawn at random, always the same:
    unimo eval runs/unimo3-small/checkpoints/step-00000800.safetensors --limit 500
  All rows of a list, whatever their split, and only those of one:
    unimo eval runs/unimo3-small --data test.jsonl
    unimo eval runs/unimo3-small --data pairs.jsonl --split val
  The published protocols, from Karpathy's files: Flickr30k's 1,000 test images; COCO's 5,000, and the mean over five times 1,000:
    unimo eval runs/unimo3-retrieval-base --limit 0 --split test
    unimo eval RUN --limit 0 --split test --folds 5 --shortlist 256 --set data.source=karpathy \\
      --set data.karpathy.path=karpathy/dataset_coco.json --set data.karpathy.images=coco

Every caption of an image counts: COCO's 5,000 images have 25,010. The lines are the contrast (itc), its shortlist ranked by the matching \
head (itc+itm) and, with --full-itm, the matching head on every pair (itm).
The images and texts of larger sets are encoded block by block: eval.memory_gb of the run's recipe.toml says how much is kept at once.";

const SWEEP_EXAMPLES: &str = "\
A sweep's file:
  recipes = [\"unimo3-tiny\"]             # names, or files beside this one
  seeds = [0, 1, 2]
  set = [\"train.steps=150\"]             # of all runs, as --set
  # data = \"pairs.jsonl\"                # of all runs, as --data, relative to this file
  # out = \"runs\"                        # the folder of the runs, relative to this file

  [[variant]]
  name = \"cross\"

  [[variant]]
  name = \"in-layer\"
  set = [\"model.fusion.levels=none\"]
  # recipes = [\"unimo3-tiny\"]           # the recipes that it is a variant of; default: all

Each recipe, variant and seed is a run in RECIPE-VARIANT-seedN. Finished runs are passed over, interrupted ones go on where they were: after
a kill, start the same command again. When the last run is done, compare.html and compare.json are written beside the runs.

Examples:
  unimo sweep levels.toml
  unimo sweep levels.toml --list
  As an array of Slurm, whose last task writes the comparison:
    sbatch --array=0-5 --wrap \"unimo sweep levels.toml --device cuda\"";

const COMPARE_EXAMPLES: &str = "\
Examples:
  Two runs, and a page to look at:
    unimo compare runs/unimo3-tiny runs/meter-tiny --html compare.html
  All runs of a folder, and the numbers as data:
    unimo compare runs/sweep --json compare.json

Runs whose recipes differ by the seed alone are one set-up: its scores have a mean and a standard deviation, and two set-ups are compared
over the seeds that both have, seed by seed. Runs that are unfinished are shown, but are in no mean. Runs that were evaluated on other
data have tables of their own.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  unimo data verify --data pairs.jsonl
  Write a list without what is damaged or in two splits at once, and train on it:
    unimo data verify --data pairs.jsonl --clean clean.jsonl
    unimo train unimo3-small --data clean.jsonl
  The same, without images that occur twice in a split:
    unimo data verify --data pairs.jsonl --clean clean.jsonl --drop-duplicates";

const PACK_EXAMPLES: &str = "\
Examples:
  unimo data pack --data pairs.jsonl --out shards
  Smaller images, and shards of 200 MB:
    unimo data pack --data pairs.jsonl --out shards --shorter-side 288 --format 92 --megabytes 200
  unimo data pack --check shards
  unimo train unimo3-small --data shards";

const CODES_EXAMPLES: &str = "\
Examples:
  unimo data codes simla-tiny --out codebook.safetensors
  unimo data codes simla-base --data pairs.jsonl --codes 1024 --out codebook.safetensors
  unimo train simla-base --data pairs.jsonl --set data.codes.codes=1024 --set data.codes.path=codebook.safetensors";

const CONCEPTS_EXAMPLES: &str = "\
Examples:
  unimo concepts build --data pairs.jsonl --out concepts.json
  unimo train mvp-base --data pairs.jsonl --set data.concepts.vocabulary=concepts.json
  Tuples of another parser, one caption a line:
    unimo concepts build --data pairs.jsonl --phrases tuples.jsonl --out concepts.json";

const EMBED_EXAMPLES: &str = "\
Examples:
  All images of a folder:
    unimo embed runs/unimo3-tiny --images photos --out photos.safetensors
  Images and captions of a list, for numpy:
    unimo embed openai/clip-vit-base-patch16 --images pairs.jsonl --texts pairs.jsonl --out pairs.npy
  The images of tar shards, in cells, for searches in a part of them:
    unimo embed runs/unimo3-small --images shards --recall 0.95 --out shards.safetensors";

const SCORE_EXAMPLES: &str = "\
Examples:
  unimo score BridgeTower/bridgetower-base-itm-mlm --data pairs.jsonl --out scores.jsonl
  unimo score runs/unimo3-small --data pairs.csv --text-column alt";

const SEARCH_EXAMPLES: &str = "\
Examples:
  Images for two texts, with a page to look at:
    unimo search runs/unimo3-small --images photos --text \"a map\" --text \"two people\" --html found.html
  Texts for an image:
    unimo search runs/unimo3-small --texts captions.txt --image photo.jpg
  What was embedded before, by `unimo embed ... --images shards --out shards.safetensors`:
    unimo search runs/unimo3-small --index shards.safetensors --text \"a map\"
    unimo search runs/unimo3-small --index shards.safetensors --images shards --text \"a map\" --html found.html";

const PREDICT_EXAMPLES: &str = "\
Examples:
  The run's own held-out questions, one JSON object a line:
    unimo predict runs/unimo3-vqa-tiny
  Images that nobody has labelled, a folder or a list, all of them:
    unimo predict runs/vit-classes-tiny --data photos --out classes.jsonl
  Other questions, and the file that the server of VQAv2 takes:
    unimo predict runs/unimo3-vqa-base --format vqa --out results.json --split test \\
      --set data.vqa.test.questions=v2_OpenEnded_mscoco_test2015_questions.json \\
      --set data.vqa.test.images=test2015 --set data.vqa.test.image=COCO_test2015_{id:12}.jpg";

const FILL_MASK_EXAMPLES: &str = "\
Examples:
  unimo fill-mask BridgeTower/bridgetower-base-itm-mlm --image cat.jpg --text \"a <mask> on a sofa\"";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  unimo explain runs/unimo3-small --image photo.jpg --text \"a map of France\"
  unimo explain BridgeTower/bridgetower-base-itm-mlm --image cat.jpg --text \"a cat on a sofa\" --html cat.html --picture cat.svg

Grad-CAM needs a matching head; a model without one shows its attention alone.";

const CAPTION_EXAMPLES: &str = "\
Examples:
  unimo caption runs/unimo3-caption-tiny photo.jpg
  A folder, for COCO's evaluation, searched as UNIMO-2 does:
    unimo caption runs/mine val2014 --format coco --out results.json --beam 5 --length-rule every-step --length-penalty 0.6 \\
        --min-length 5 --max-length 50
  Drawn words:
    unimo caption runs/mine photo.jpg --top-p 0.9 --temperature 0.8 --seed 1

The model must be a run that was trained with [objectives.lm].";

const SCORE_CAPTIONS_EXAMPLES: &str = "\
Examples:
  unimo score-captions results.json --references captions_val2014.json
  With the scores of each image:
    unimo score-captions results.json --references captions_val2014.json --json scores.json

The numbers are those of pycocoevalcap. What it prints as CIDEr, and papers report, is CIDEr-D: here it is called CIDEr-D (cider_d), and
CIDEr (cider) is plain CIDEr. Only images that have a result are scored. METEOR and SPICE are left out: both need Java and large
files of their own.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  A BridgeTower that was trained here, for transformers:
    unimo export runs/bridgetower-base --out my-bridgetower
  A UNIMO-3 with its PyTorch code and its model card, to share:
    unimo export runs/unimo3-small --licence Apache-2.0 --out my-unimo3
    huggingface-cli upload NAME/my-unimo3 my-unimo3
  The text encoder of a UNIMO-3 as RoBERTa, in half precision:
    unimo export runs/unimo3-base --part text --dtype bf16 --out my-roberta";

const PLAN_EXAMPLES: &str = "\
Examples:
  What fits cards of 24, 40 and 80 GB:
    unimo plan unimo3-small --data pairs.jsonl --memory 24,40,80
  64 GPUs with links of 100 Gbit/s:
    unimo plan unimo3-base --ranks 64 --bandwidth 100G
  The same with a micro-batch of 0.45 seconds, as measured on one of them:
    unimo plan unimo3-base --ranks 64 --bandwidth 100G --seconds 0.45";

const TRAIN_EXAMPLES: &str = "\
Examples:
  Train the smallest recipe on generated scenes; needs no data and no GPU:
    unimo train unimo3-tiny
  Your own pairs, one JSON object a line with \"image\" and \"caption\":
    unimo train unimo3-small --data pairs.jsonl
  Other column names, and only the rows where lang is en:
    unimo train unimo3-small --data pairs.csv --set data.pairs.text_columns=alt --set data.pairs.filter.lang=en
  An ablation: in-layer interaction only
    unimo train unimo3-tiny --set model.fusion.levels=none
  Go on with a stopped run:
    unimo train --resume runs/unimo3-tiny
  In four processes, each with a GPU (built with the feature mpi):
    mpirun -n 4 unimo train unimo3-base --data pairs.jsonl --device cuda
  In a job that may be started again, such as Slurm's with --requeue:
    unimo train unimo3-base --data pairs.jsonl --out runs/mine --or-resume
  Train a finished run on:
    unimo train --resume runs/unimo3-tiny --set train.steps=4000";

#[derive(Args)]
struct Train {
    /// A recipe's name (see `unimo recipes`) or the path of a .toml file.
    #[arg(required_unless_present = "resume")]
    recipe: Option<String>,
    /// Data to train on: a list of image-text pairs (JSON lines, CSV, TSV), tar shards, Parquet files, or a folder of them.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    data: Option<PathBuf>,
    /// Change a value of the recipe, such as train.steps=100 or stage.0.lr=1e-4; may be given several times, the last value of a
    /// key counts. `none` removes a section or an optional value. With --resume, only settings that may change in a run that has
    /// begun, such as the number of steps or the learning rate.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The new run folder; default runs/RECIPE, with a number appended if it is taken.
    #[arg(long, value_name = "FOLDER", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Go on with the run in the folder of --out, if it is there already, so that the same line begins a run and continues it: in a
    /// job that is started again.
    #[arg(long, requires = "out", conflicts_with = "resume")]
    or_resume: bool,
    /// Continue the run in this folder from its newest checkpoint. Recipe, data and tokenizer must be those that it began with. A
    /// RECIPE given as well must be the run's own.
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Device: cpu (or flex), wgpu, wgpu:N, cuda, cuda:N or auto [default: cpu, or the resumed run's device].
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Only train: no evaluation, no report.
    #[arg(long)]
    train_only: bool,
    /// Show no progress line.
    #[arg(long, short)]
    quiet: bool,
    /// Several ranks share the optimiser's moments, each those of some parameters (ZeRO stage 1). The results are the same; a step
    /// exchanges the weights as well.
    #[arg(long)]
    share_moments: bool,
    /// Several ranks exchange gradients once a step, and not after each of their micro-batches: faster where a rank has several. Gradients are
    /// then added in another order for each number of ranks, so that runs are equal to rounding and not to the bit.
    #[arg(long)]
    sum_once: bool,
    /// Megabytes (10^6 bytes) of gradients that several ranks exchange at once [default: 25]. The results are the same.
    #[arg(long, value_name = "MB", value_parser = scaling::positive)]
    bucket: Option<f64>,
    /// Several ranks compute nothing while gradients are exchanged: to measure what is gained otherwise. The results are the same.
    #[arg(long)]
    no_overlap: bool,
    /// Seconds that one of several ranks waits for the others in an exchange before it gives up [default: 600].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    patience: Option<u64>,
}

impl Train {
    /// The option that one process has no use for.
    fn for_ranks(&self) -> Option<&'static str> {
        let given = [
            (self.share_moments, "--share-moments"),
            (self.sum_once, "--sum-once"),
            (self.no_overlap, "--no-overlap"),
            (self.bucket.is_some(), "--bucket"),
            (self.patience.is_some(), "--patience"),
        ];
        given
            .into_iter()
            .find_map(|(given, option)| given.then_some(option))
    }
}

#[derive(Args)]
struct Eval {
    /// The run folder, the file of one of its checkpoints, an export, or a public checkpoint with heads.
    run: PathBuf,
    /// Step of the checkpoint; default: the best.
    #[arg(long)]
    step: Option<u64>,
    /// Number of images, drawn at random and always the same; default: as the recipe says, all with --data; 0: all.
    #[arg(long)]
    limit: Option<usize>,
    /// Also score every text with every image by the matching head; slow.
    #[arg(long)]
    full_itm: bool,
    /// How many candidates of each query, by the contrast, the matching head ranks again; default: as the recipe says. Flickr30k: 128,
    /// COCO: 256.
    #[arg(long, value_name = "K")]
    shortlist: Option<usize>,
    /// Rank a candidate on the list of one direction again in the other direction too, as BridgeTower does.
    #[arg(long)]
    united_shortlists: bool,
    /// Report also the mean over this many parts of the images, in their order. COCO's 1K is the mean over 5 parts of its 5,000.
    #[arg(long, value_name = "N")]
    folds: Option<usize>,
    /// Data other than the run's own: a list of pairs, tar shards, Parquet files, or a folder of them. All of it, unless --split is
    /// given.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Folder with the features of the images' regions, for a model that reads them; default: the folder used in training.
    #[arg(long, value_name = "FOLDER")]
    regions: Option<PathBuf>,
    /// Change a setting of the run's data, such as data.vqa.val.questions=FILE, or ask what the matching score of expressions looks at,
    /// eval.grad_cam={}, or whether translations are found, eval.bitext={}; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The labels of a checkpoint that comes without them: a JSON list, or one label per line.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Split: val, test or train [default: val of the run's data, all of --data].
    #[arg(long, value_parser = inputs::split)]
    split: Option<Split>,
    /// Device: cpu (or flex), wgpu, wgpu:N, cuda, cuda:N or auto.
    #[arg(long, default_value = "flex")]
    device: DeviceChoice,
}

/// How long a rank waits for the others in an exchange unless it is said otherwise. A batch takes seconds.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the command that this program was started with, and gives its exit code. Errors are printed.
pub fn main() -> ExitCode {
    main_with(|| Ok(()))
}

/// As [`main`], with parts of other crates, which `register` makes known. All commands then know them: training, resuming,
/// evaluation and prediction. A training starts the program again before `register` is called, with the allocator's settings.
pub fn main_with(register: impl FnOnce() -> Result<(), ConfigError>) -> ExitCode {
    allocator::begin_again();
    program::is_started();
    pipe::end_quietly_when_closed();
    if let Err(error) = register() {
        eprintln!("error: a part of this program cannot be registered: {error}");
        return ExitCode::FAILURE;
    }
    run_line(std::env::args_os())
}

/// Runs a command line whose first part is the program's name. Says what is wrong with it on stderr.
pub fn run_line(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(Cli::parse_from(line).command) {
        Ok(()) => ExitCode::SUCCESS,
        // Not an error: the training was asked to end and can be continued.
        Err(stopped @ (TrainError::Stopped { .. } | TrainError::SweepStopped { .. })) => {
            eprintln!("{stopped}");
            ExitCode::from(interrupt::EXIT_CODE)
        }
        Err(error) => {
            pipe::end_quietly_if_closed(&error);
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), TrainError> {
    match (launcher::found(), command) {
        (None, Command::Train(args)) if args.for_ranks().is_some() => {
            let option = args.for_ranks().unwrap_or_default();
            Err(TrainError::Ranks(format!(
                "{option} is for several processes, and there is one; start several by mpirun"
            )))
        }
        (None, command) => run_alone(command),
        (Some(launcher), Command::Train(args)) => {
            let patience = args.patience.map_or(PATIENCE, Duration::from_secs);
            in_ranks(launcher, patience, |world| train(args, world))
        }
        (Some(launcher), Command::Eval(args)) => in_ranks(launcher, PATIENCE, |world| {
            agree_on_arguments(&world)?;
            eval(args, world)
        }),
        (Some(launcher), Command::Predict(args)) => in_ranks(launcher, PATIENCE, |world| {
            agree_on_arguments(&world)?;
            predict::run_in(&args, world)
        }),
        (Some(launcher), Command::Embed(args)) => in_ranks(launcher, PATIENCE, |world| {
            agree_on_arguments(&world)?;
            embed::run_in(&args, &world)
        }),
        (Some(launcher), _) => {
            let command = std::env::args().nth(1).unwrap_or_default();
            Err(launcher.refuse(&command))
        }
    }
}

/// Does a command on the ranks that a launcher started.
fn in_ranks(
    launcher: launcher::Launcher,
    patience: Duration,
    work: impl FnOnce(World) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let session = Session::open(launcher, patience)?;
    let world = session.world.clone();
    session.end(work(world));
    Ok(())
}

/// Checks that all ranks were started by the same command line and are the same version.
fn agree_on_arguments(world: &World) -> Result<(), TrainError> {
    let args = std::env::args().skip(1).enumerate();
    let args = args.map(|(at, arg)| (format!("argument {}", at + 1), arg));
    let version = (
        "the version of unimo".to_owned(),
        env!("CARGO_PKG_VERSION").to_owned(),
    );
    ranks::agree(
        world,
        "the command",
        [version].into_iter().chain(args).collect(),
    )
}

/// Trains on the ranks of `world`.
fn train(args: Train, world: World) -> Result<(), TrainError> {
    let is_first = world.is_first();
    let mut options = training::Options {
        device: args.device,
        quiet: args.quiet,
        train_only: args.train_only,
        signals: true,
        share_moments: args.share_moments,
        no_overlap: args.no_overlap,
        bucket: args.bucket.map_or(sums::BUCKET, sums::bucket),
        order: if args.sum_once {
            Order::Ranks
        } else {
            Order::MicroBatches
        },
        world,
        ..training::Options::default()
    };
    let begun = args.out.as_ref().filter(|_| args.or_resume);
    let begun = begun.map(|folder| has_begun(folder, &options.world));
    let begun = begun.transpose()?.unwrap_or(false);
    let resume = args.resume.or_else(|| args.out.clone().filter(|_| begun));
    let run = match (resume, args.recipe) {
        (Some(run), recipe) => {
            let line = recipe.as_ref().filter(|_| begun);
            let line = line.map(|recipe| Given {
                recipe: recipe.clone(),
                data: args.data.as_deref().map(absolute),
                set: args.set.clone(),
            });
            options.asked = Asked {
                recipe,
                set: args.set,
                line,
            };
            training::resume(&run, &options)?
        }
        (None, Some(given)) => {
            let overrides = Overrides {
                data: args.data,
                set: args.set,
            };
            let (recipe, notes) = Recipe::load_quietly(&given, &overrides)?;
            for note in notes.iter().filter(|_| is_first) {
                eprintln!("{given}: {note}");
            }
            options.given = Some(Given {
                recipe: given.clone(),
                // Absolute, so that it is found from other folders as well.
                data: overrides.data.map(|path| absolute(&path)),
                set: overrides.set,
            });
            let place = match args.out {
                Some(folder) => NewRun::At(folder),
                None => NewRun::Free(own_folder(&given)),
            };
            training::start_in(&recipe, &place, &options)?
        }
        (None, None) => unreachable!("invariant: clap asks for one of the two"),
    };
    if is_first {
        println!("{}", run.display());
    }
    Ok(())
}

/// Whether a folder holds a run, as rank 0 sees it.
fn has_begun(folder: &Path, world: &World) -> Result<bool, TrainError> {
    let folder = folder.display().to_string();
    let given = vec![("--out with --or-resume".to_owned(), folder.clone())];
    ranks::agree(world, "the run", given)?;
    ranks::first(world, "whether the run has begun", || {
        Ok(Path::new(&folder).join("recipe.toml").exists())
    })
}

/// Evaluates on the ranks of `world`.
fn eval(args: Eval, world: World) -> Result<(), TrainError> {
    let is_first = world.is_first();
    let options = evaluation::Options {
        device: args.device,
        step: args.step,
        limit: args.limit,
        full_itm: args.full_itm,
        shortlist: args.shortlist,
        united_shortlists: args.united_shortlists,
        folds: args.folds,
        data: args.data,
        regions: args.regions,
        set: args.set,
        unlabelled: false,
        labels: args.labels,
        split: args.split,
        world,
    };
    let (run, records) = evaluation::run(&args.run, &options)?;
    if !is_first {
        return Ok(());
    }
    for record in &records {
        print!("{}", evaluation::table(record));
    }
    if let Some(run) = run {
        report::write(&run)?;
    }
    Ok(())
}

fn run_alone(command: Command) -> Result<(), TrainError> {
    match command {
        Command::Train(args) => train(args, World::ALONE),
        Command::Eval(args) => eval(args, World::ALONE),
        Command::Report { run } => {
            // The recipe of another version is shown as it is written.
            if let Ok((folder, recipe)) = RunFolder::open(&run) {
                resuming::say_edited(&folder, &recipe)?;
            }
            for line in unimo_report::damaged(&run)? {
                eprintln!("{line}");
            }
            println!("{}", report::write(&run)?.display());
            Ok(())
        }
        Command::Sweep(args) => sweep::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Recipes { command } => recipes::run(command.as_ref()),
        Command::Names(args) => names::run(&args),
        Command::Plan(args) => scaling::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Tasks => {
            print!("{}", predict::tasks());
            Ok(())
        }
        Command::Embed(args) => embed::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Search(args) => search::run(&args),
        Command::FillMask(args) => fill_mask::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Caption(args) => caption::run(&args),
        Command::ScoreCaptions(args) => captions::run(&args),
        Command::Export(args) => {
            println!("{}", export::run(&args)?.display());
            Ok(())
        }
        Command::Concepts(ConceptsCommand::Build(args)) => data::concepts::build(&args),
        Command::Data(Data::Verify(args)) => data::verify::run(&args),
        Command::Data(Data::Stats(args)) => data::stats::run(&args),
        Command::Data(Data::Codes(args)) => data::codes::run(&args),
        Command::Data(Data::Show(args)) => data::show::run(&args),
        Command::Data(Data::Pack(args)) => data::pack::run(&args),
        Command::Data(Data::Scenes(args)) => data::scenes::run(&args),
        Command::Data(Data::Houses(args)) => data::houses::run(&args),
        Command::Data(Data::Bench(args)) => data::bench::run(&args, &mut |line| println!("{line}")),
    }
}

/// An absolute path; a URL is unchanged.
fn absolute(path: &Path) -> PathBuf {
    let is_url = path.to_string_lossy().contains("://");
    let absolute = (!is_url).then(|| std::path::absolute(path).ok()).flatten();
    absolute.unwrap_or_else(|| path.to_owned())
}

/// `runs/NAME`.
fn own_folder(recipe: &str) -> PathBuf {
    let name = Path::new(recipe);
    Path::new("runs").join(name.file_stem().unwrap_or(name.as_os_str()))
}
