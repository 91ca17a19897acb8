//! `unimo plan --memory`: the micro-batch that fits a card.
//!
//! What a step keeps for its backward pass depends on every part of a recipe: encoders, passes, heads, data type, recomputed blocks. So it is
//! measured, not guessed: two steps of each stage with micro-batches of `n` and `2n` samples on the CPU, in a folder that is removed
//! afterwards. The difference of the two peaks is that of `n` samples. What a card holds is arithmetic on these two numbers.

use crate::error::TrainError;
use crate::memory::host_peak;
use crate::recipe::Recipe;
use crate::starting::own::OwnRun;
use crate::training::{self, Options};

/// Bytes of a gigabyte, as sizes of cards are given.
const GIGA: f64 = 1e9;

/// What a card keeps for itself: the context of its driver and the programs of its kernels, in bytes. CUDA's is 0.3 to 0.6 GB.
const OF_THE_DRIVER: f64 = 0.6e9;

/// The share of a card's memory that tensors can have: an allocator's pages are never all in use.
const USABLE: f64 = 0.92;

/// The steps of a stage. The optimiser's moments are there from the second step on.
const STEPS: u64 = 2;

/// Samples of the first and smaller micro-batch: a contrast needs two.
const LEAST: usize = 2;

/// The difference of two peaks that is worth dividing, in bytes. Below it, what the allocator rounds up is a large part.
const WORTH: u64 = 128 << 20;

/// Samples of the largest micro-batch that is tried.
const MOST: usize = 64;

/// Memory of a step by its samples, as measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// Bytes that do not depend on the micro-batch: weights, gradients, moments, the program.
    fixed: f64,
    /// Bytes of each sample of a micro-batch.
    sample: f64,
    /// Seconds of a sample in a step.
    seconds: f64,
    /// Samples of the larger micro-batch that was measured.
    samples: usize,
}

/// What is proposed for a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proposal {
    /// The largest micro-batch.
    most: usize,
    /// Values of `train.batch_size` and `train.accumulation` that keep the samples of a step.
    micro: usize,
    accumulation: usize,
}

impl Measured {
    /// Trains a few steps to measure them.
    ///
    /// # Errors
    ///
    /// The recipe cannot be trained here, or the system does not tell how much memory a process has had.
    fn of(recipe: &Recipe, together: usize) -> Result<Self, TrainError> {
        let most = together.clamp(2 * LEAST, MOST);
        let folder = tempfile::Builder::new().prefix("unimo-plan-").tempdir();
        let temporary = std::env::temp_dir();
        let folder = folder.map_err(TrainError::file("write", &temporary))?;
        let step = |samples: usize| -> Result<(f64, f64), TrainError> {
            let mut recipe = recipe.clone();
            recipe.train.batch_size = samples;
            recipe.train.accumulation = 1;
            let run = folder.path().join(samples.to_string());
            let options = Options {
                quiet: true,
                train_only: true,
                ..Options::default()
            };
            let tried = training::try_out(&recipe, &run, STEPS, &options)?;
            let seconds = tried.iter().flat_map(|stage| &stage.seconds);
            let seconds = seconds.fold(0f64, |slowest, seconds| slowest.max(*seconds));
            let peak = host_peak().ok_or_else(|| {
                TrainError::Check(
                    "--memory needs the largest size that this process had, which this system does not tell; Linux does".to_owned(),
                )
            })?;
            eprintln!(
                "{samples} samples: {:.2} GB, {seconds:.2} s a step",
                peak as f64 / GIGA
            );
            Ok((peak as f64, seconds))
        };
        let mut samples = LEAST;
        let (mut before, _) = step(samples)?;
        loop {
            let (peak, seconds) = step(2 * samples)?;
            let grown = peak - before;
            if grown >= WORTH as f64 || 4 * samples > most {
                let sample = grown / samples as f64;
                return Ok(Self {
                    fixed: (before - sample * samples as f64).max(0.0),
                    sample,
                    seconds: seconds / (2 * samples) as f64,
                    samples: 2 * samples,
                });
            }
            samples *= 2;
            before = peak;
        }
    }

    /// What fits a card of so many bytes, for steps of `together` samples. `None`: not a single sample.
    fn proposal(self, bytes: f64, together: usize) -> Option<Proposal> {
        let free = bytes * USABLE - OF_THE_DRIVER - self.fixed;
        let most = if self.sample > 0.0 {
            free / self.sample
        } else {
            free.signum() * together as f64
        };
        if most < 1.0 {
            return None;
        }
        let most = (most as usize).min(together);
        let micro = (1..=most).rev().find(|n| together.is_multiple_of(*n))?;
        Some(Proposal {
            most,
            micro,
            accumulation: together / micro,
        })
    }
}

/// The recipe without public weights to start from, which need not be fetched to know how large they are. A run of this project brings its
/// vocabulary along, so it stays.
fn without_weights(recipe: &Recipe) -> Result<Recipe, TrainError> {
    let mut recipe = recipe.clone();
    if recipe.init.is_some() && OwnRun::of(&recipe)?.is_none() {
        eprintln!("with random weights in place of those of `init`: a step takes the same memory");
        recipe.init = None;
    }
    Ok(recipe)
}

/// Measures the recipe and prints what fits cards of these sizes, in GB.
///
/// # Errors
///
/// As [`Measured::of`].
pub(super) fn run(recipe: &Recipe, cards: &[f64]) -> Result<(), TrainError> {
    let train = &recipe.train;
    let together = train.batch_size * train.accumulation;
    eprintln!(
        "measuring: {STEPS} steps of each stage on this CPU, with micro-batches of {LEAST} samples and more"
    );
    let measured = Measured::of(&without_weights(recipe)?, together)?;
    print!("{}", table(measured, together, cards));
    Ok(())
}

fn table(measured: Measured, together: usize, cards: &[f64]) -> String {
    let mut lines = format!(
        "measured on this CPU, up to {} samples: {:.2} GB, and {:.4} GB and {:.3} seconds for each sample of a micro-batch\n\
         assumed of a card: {:.0}% of it for tensors, without {:.1} GB of its driver; attention that keeps no weights of all queries, as here\n",
        measured.samples,
        measured.fixed / GIGA,
        measured.sample / GIGA,
        measured.seconds,
        100.0 * USABLE,
        OF_THE_DRIVER / GIGA,
    );
    lines += "    GB  largest micro-batch  train.batch_size  train.accumulation\n";
    for card in cards {
        let bytes = card * GIGA;
        lines += &match measured.proposal(bytes, together) {
            Some(Proposal {
                most,
                micro,
                accumulation,
            }) => {
                let whole = if most == together {
                    " (a whole step)"
                } else {
                    ""
                };
                format!("{card:>6}  {most:>19}  {micro:>16}  {accumulation:>18}{whole}\n")
            }
            None => format!(
                "{card:>6}  not one sample fits; train.gradient_checkpointing = true and train.dtype = \"bf16\" need less, and \
                 `--share-moments` of several ranks\n"
            ),
        };
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Overrides;

    const MEASURED: Measured = Measured {
        fixed: 2e9,
        sample: 0.5e9,
        seconds: 1.0,
        samples: 4,
    };

    #[test]
    fn public_weights_are_not_fetched_to_be_measured() {
        let recipe = |given: &str| Recipe::load(given, &Overrides::default()).unwrap();
        let base = recipe("unimo3-base");
        assert!(base.init.is_some());
        let measured = without_weights(&base).unwrap();
        assert!(measured.init.is_none());
        assert_eq!(measured.model, base.model);
        let tiny = recipe("unimo3-tiny");
        assert_eq!(without_weights(&tiny).unwrap(), tiny);
    }

    /// 24 GB: 22.08 are usable, of which 0.6 and 2 are taken, so 38 samples fit; 32 is the largest number that divides 256.
    #[test]
    fn the_largest_micro_batch_that_divides_a_step() {
        let proposal = MEASURED.proposal(24e9, 256);
        let expected = Proposal {
            most: 38,
            micro: 32,
            accumulation: 8,
        };
        assert_eq!(proposal, Some(expected));
    }

    #[test]
    fn a_step_that_fits_is_not_split() {
        let whole = MEASURED.proposal(80e9, 96).unwrap();
        assert_eq!((whole.most, whole.micro, whole.accumulation), (96, 96, 1));
    }

    #[test]
    fn a_card_without_room_is_said() {
        assert_eq!(MEASURED.proposal(3e9, 256), None);
        assert!(table(MEASURED, 256, &[3.0]).contains("not one sample fits"));
    }
}
