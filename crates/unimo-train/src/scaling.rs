//! `unimo plan`: what fits the memory of a card (`memory.rs`), and what several ranks would give, by a model of what they exchange.
//!
//! With `R` ranks, `k` micro-batches and `n` bytes of gradients, a rank sends `n (R - 1) / R` bytes after each of its `k / R`
//! micro-batches, and as many once more when the parts of the sum are gathered. So a step exchanges for
//!
//! ```text
//! T = (k / R + 1) x,  x = (R - 1) (n / (R eta B) + alpha c)
//! ```
//!
//! with 2 in the place of `k / R + 1` where a rank adds up its micro-batches first, with `B` the bandwidth of a rank's link, `eta` the share
//! of it that MPI reaches, `alpha` the seconds until a message begins to arrive and `c` the number of buckets (Thakur, Rabenseifner and Gropp
//! 2005, with all-to-all in the place of the reduce-scatter). Ranks of one machine that share a link have their share of it.
//!
//! Another thread does this while the next micro-batches of `t` seconds are computed. Where a share `e` of the gradients is sent while the
//! backward pass goes on, which is the last two thirds of `t`, the gradients of micro-batch `i` have arrived at
//!
//! ```text
//! a(i) = max(max(a(i - 1), i t - 2/3 t) + x,  i t + (1 - e) x)
//! ```
//!
//! and else at `max(a(i - 1), i t) + x`, with `2 x` in the place of `x` for the last one. What is after `k / R` times `t` is exposed.

use std::str::FromStr;

use clap::{ArgGroup, Args};
use unimo_report::numbers::grouped;

use crate::error::TrainError;
use crate::names::{self, Learns};
use crate::ranks::sums;
use crate::recipe::Recipe;
use crate::recipe::train::WireDtype;
use crate::recipes::OneRecipe;

mod memory;

/// Bytes of a value in memory.
const VALUE: f64 = size_of::<f32>() as f64;

/// Bytes of a value on a narrow wire.
const HALF: f64 = VALUE / 2.0;

/// The share of a micro-batch that is its backward pass.
const BACKWARD: f64 = 2.0 / 3.0;

/// Bits in a byte, since links are rated in bits.
const BITS: f64 = 8.0;

/// Links by their bandwidth from this on, in bits per second: the share that MPI reaches, and the seconds of a message. Measured on
/// TCP and shared memory at the low end, published figures of InfiniBand at the high end.
const LINKS: [(f64, f64, f64); 3] = [(400e9, 0.85, 5e-6), (100e9, 0.8, 10e-6), (0.0, 0.6, 50e-6)];

/// Estimates the memory of a step, or the steps of several ranks.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["memory", "ranks"]))]
pub struct PlanArgs {
    /// The recipe.
    #[command(flatten)]
    pub recipe: OneRecipe,
    /// Memory of a card in GB, or several, such as 24,40,80: says which micro-batch fits, and proposes values that keep the samples of a
    /// step. Trains a few steps on the CPU to measure it, so it needs the data, and the memory of a few samples.
    #[arg(long, value_name = "GB", value_delimiter = ',', value_parser = positive)]
    pub memory: Vec<f64>,
    /// The largest number of ranks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub ranks: Option<u64>,
    /// Bandwidth of each rank's link in bits per second: 10G, 100G, 400G, or 1600G for NVLink.
    #[arg(long, value_name = "BITS", default_value = "100G", requires = "ranks")]
    pub bandwidth: Bandwidth,
    /// Seconds of one micro-batch on one rank, forward and backward; `step_seconds` in a run's metrics.jsonl, divided by
    /// train.accumulation. Without it, only what is exchanged is estimated.
    #[arg(long, value_name = "SECONDS", value_parser = positive, requires = "ranks")]
    pub seconds: Option<f64>,
    /// With gradients exchanged once a step, as by `unimo train --sum-once`.
    #[arg(long, requires = "ranks")]
    pub sum_once: bool,
    /// Share of the gradients that are sent while the backward pass goes on: none on GPUs; on CPUs those of linear layers and norms.
    #[arg(long, value_name = "SHARE", value_parser = share, requires = "seconds")]
    pub early: Option<f64>,
    /// Size in MB of the buckets in which gradients travel, as for `unimo train` [default: 25].
    #[arg(long, value_name = "MB", value_parser = positive, requires = "ranks")]
    pub bucket: Option<f64>,
    /// Share of the bandwidth that is reached [default: 0.6 below 100G, 0.8 below 400G, then 0.85].
    #[arg(long, value_name = "SHARE", value_parser = share, requires = "ranks")]
    pub reached: Option<f64>,
    /// Microseconds until a message begins to arrive [default: 50 below 100G, 10 below 400G, then 5].
    #[arg(long, value_name = "MICROSECONDS", value_parser = positive, requires = "ranks")]
    pub latency: Option<f64>,
}

/// Bits per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bandwidth(f64);

impl FromStr for Bandwidth {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let wrong = || "allowed: a number above 0 with M, G or T, such as 100G".to_owned();
        let (number, unit) = match given.trim().char_indices().next_back() {
            Some((at, 'M' | 'm')) => (&given[..at], 1e6),
            Some((at, 'G' | 'g')) => (&given[..at], 1e9),
            Some((at, 'T' | 't')) => (&given[..at], 1e12),
            _ => return Err(wrong()),
        };
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        if number > 0.0 && number.is_finite() {
            Ok(Self(number * unit))
        } else {
            Err(wrong())
        }
    }
}

/// A number above 0.
pub(crate) fn positive(given: &str) -> Result<f64, String> {
    let number = given
        .parse()
        .ok()
        .filter(|n: &f64| *n > 0.0 && n.is_finite());
    number.ok_or_else(|| "allowed: a number above 0".to_owned())
}

fn share(given: &str) -> Result<f64, String> {
    let share = positive(given)?;
    if share <= 1.0 {
        Ok(share)
    } else {
        Err("allowed: a number above 0, up to 1".to_owned())
    }
}

/// A link between ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Link {
    /// Bytes per second that are reached.
    rate: f64,
    /// Seconds of a message.
    latency: f64,
}

impl Link {
    fn of(args: &PlanArgs) -> Self {
        let Bandwidth(bits) = args.bandwidth;
        let known = LINKS.into_iter().find(|(from, ..)| bits >= *from);
        let (_, reached, latency) = known.unwrap_or(LINKS[LINKS.len() - 1]);
        Self {
            rate: bits / BITS * args.reached.unwrap_or(reached),
            latency: args.latency.map_or(latency, |micro| micro * 1e-6),
        }
    }
}

/// What a step moves and computes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Load {
    /// Values that have a gradient.
    learning: usize,
    /// Micro-batches of a step.
    micro: usize,
    /// Samples of a step.
    samples: usize,
    /// Whether gradients are exchanged once a step.
    once: bool,
    /// Bytes of a value on the wire.
    value: f64,
    /// Share of the gradients that are sent while the backward pass goes on.
    early: f64,
    /// Values in a bucket.
    bucket: usize,
}

impl Load {
    /// How often a rank sends gradients in a step.
    fn exchanges(self, ranks: usize) -> usize {
        if self.once { 1 } else { self.micro / ranks }
    }

    /// Seconds that one exchange of all gradients takes.
    fn one(self, ranks: usize, link: Link) -> f64 {
        let others = (ranks - 1) as f64;
        let bytes = self.learning as f64 * self.value;
        others * (bytes / (ranks as f64 * link.rate) + link.latency * self.buckets())
    }

    fn buckets(self) -> f64 {
        self.learning.div_ceil(self.bucket) as f64
    }

    /// Seconds that a step of `ranks` ranks exchanges gradients.
    fn exchange(self, ranks: usize, link: Link) -> f64 {
        // Once more when the parts of the sum are gathered.
        (self.exchanges(ranks) + 1) as f64 * self.one(ranks, link)
    }

    /// Seconds of a step in which nothing is left to compute, with `seconds` for a micro-batch.
    fn exposed(self, ranks: usize, link: Link, seconds: f64) -> f64 {
        if ranks == 1 {
            return 0.0;
        }
        let count = self.exchanges(ranks);
        let compute = (self.micro / ranks) as f64 * seconds;
        let each = compute / count as f64;
        // At least one bucket is sent when the backward pass has ended.
        let late = (1.0 - self.early).max(1.0 / self.buckets()).min(1.0);
        // The first bucket leaves when the backward pass has filled it.
        let before = if self.early > 0.0 {
            BACKWARD * seconds * (1.0 - 1.0 / self.buckets())
        } else {
            0.0
        };
        let one = self.one(ranks, link);
        let arrived = (1..=count).fold(0f64, |arrived, at| {
            let work = if at == count { 2.0 * one } else { one };
            let end = at as f64 * each;
            (arrived.max(end - before) + work).max(end + late * work)
        });
        arrived - compute
    }
}

/// Prints the estimate.
///
/// # Errors
///
/// The recipe is wrong.
pub fn run(args: &PlanArgs) -> Result<(), TrainError> {
    let recipe = args.recipe.load()?;
    if !args.memory.is_empty() {
        memory::run(&recipe, &args.memory)?;
    }
    match args.ranks {
        Some(ranks) => of_ranks(args, ranks, &recipe),
        None => Ok(()),
    }
}

fn of_ranks(args: &PlanArgs, ranks: u64, recipe: &Recipe) -> Result<(), TrainError> {
    let (mut learning, mut all) = (0, 0);
    for parameter in names::of(recipe)? {
        // A size that follows from the data is small beside the encoders.
        let count: usize = parameter
            .shape
            .iter()
            .map(|size| size.unwrap_or(1))
            .product();
        all += count;
        if matches!(parameter.learns, Learns::Always | Learns::In(_)) {
            learning += count;
        }
    }
    let train = &recipe.train;
    let load = Load {
        learning,
        micro: train.accumulation,
        samples: train.accumulation * train.batch_size,
        once: args.sum_once,
        value: match train.wire.unwrap_or_default() {
            WireDtype::F32 => VALUE,
            WireDtype::Bf16 => HALF,
        },
        early: args.early.unwrap_or(0.0),
        bucket: args.bucket.map_or(sums::BUCKET, sums::bucket),
    };
    let link = Link::of(args);
    println!(
        "{} values learn, {:.0} MB of gradients; {} micro-batches of {} samples in a step",
        grouped(learning as f64),
        learning as f64 * VALUE / 1e6,
        train.accumulation,
        train.batch_size
    );
    println!(
        "each rank keeps {:.0} MB: weights and state {:.0}, moments {:.0}, gradients {:.0}{}; activations come on top",
        (all + 3 * learning + train.ema.map_or(0, |_| all)) as f64 * VALUE / 1e6,
        all as f64 * VALUE / 1e6,
        2.0 * learning as f64 * VALUE / 1e6,
        learning as f64 * VALUE / 1e6,
        match train.ema {
            Some(_) => format!(", their average {:.0}", all as f64 * VALUE / 1e6),
            None => String::new(),
        }
    );
    println!(
        "assumed: {:.2} GB/s reached on each rank's link, {:.0} microseconds a message; gradients are exchanged while later micro-batches are \
         computed{}",
        link.rate / 1e9,
        link.latency * 1e6,
        match args.early {
            Some(share) => format!(", and {:.0}% of them in the backward pass", 100.0 * share),
            None => String::new(),
        }
    );
    if args.early.is_some_and(|share| share > 0.0) && load.buckets() <= 1.0 {
        println!(
            "all gradients fit one bucket, which leaves after the backward pass: --early changes nothing, with a smaller --bucket it does"
        );
    }
    print!("{}", table(args, ranks, load, link));
    Ok(())
}

fn table(args: &PlanArgs, ranks: u64, load: Load, link: Link) -> String {
    let most = usize::try_from(ranks).unwrap_or(usize::MAX);
    let possible = (1..=most.min(load.micro)).filter(|ranks| load.micro.is_multiple_of(*ranks));
    let doubled = |ranks: &usize| ranks.is_power_of_two() || *ranks == most;
    let mut lines = "   ranks  micro-batches each  exchange, s".to_owned();
    if args.seconds.is_some() {
        lines += "  exposed, s   step, s  efficiency   samples/s";
    }
    lines.push('\n');
    for ranks in possible.filter(doubled) {
        let each = load.micro / ranks;
        let exchange = load.exchange(ranks, link);
        lines += &format!("{ranks:>8}  {each:>18}  {exchange:>11.4}");
        if let Some(seconds) = args.seconds {
            let compute = each as f64 * seconds;
            let exposed = load.exposed(ranks, link, seconds);
            let step = compute + exposed;
            lines += &format!(
                "  {exposed:>10.4}  {step:>8.3}  {:>9.0}%  {:>10.1}",
                100.0 * compute / step,
                load.samples as f64 / step
            );
        }
        lines.push('\n');
    }
    if !load.micro.is_multiple_of(most) {
        lines += &format!(
            "{most} ranks cannot share {} micro-batches: train.accumulation must be a multiple of their number\n",
            load.micro
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link {
        rate: 1e10,
        latency: 1e-5,
    };

    const LOAD: Load = Load {
        learning: 1_000_000,
        micro: 1,
        samples: 1,
        once: false,
        value: VALUE,
        early: 0.0,
        bucket: sums::BUCKET,
    };

    /// With one micro-batch for each rank it is the volume of a ring: 2 (R - 1) / R of the gradients. That is the table of the literature:
    /// 330 M parameters over 100 Gbit/s in 0.23 s for 8 ranks and 0.26 s for 64.
    #[test]
    fn one_micro_batch_each_costs_what_a_ring_does() {
        for (ranks, expected) in [(8, 0.231), (64, 0.261)] {
            let load = Load {
                learning: 330_000_000,
                micro: ranks,
                samples: ranks,
                ..LOAD
            };
            let link = Link {
                latency: 0.0,
                ..LINK
            };
            let found = load.exchange(ranks, link);
            assert!((found - expected).abs() < 2e-3, "{ranks}: {found}");
        }
    }

    #[test]
    fn more_micro_batches_each_exchange_more_often() {
        let load = |micro| Load {
            learning: 1_000_000,
            micro,
            samples: micro,
            ..LOAD
        };
        assert_eq!(load(8).exchange(1, LINK), 0.0);
        let (one, four) = (load(2).exchange(2, LINK), load(8).exchange(2, LINK));
        assert!((four / one - 2.5).abs() < 1e-9);
        let once = Load {
            once: true,
            ..load(8)
        };
        assert_eq!(once.exchange(2, LINK), one);
    }

    /// Ten buckets in 0.1 s one way, two ranks with four micro-batches each.
    #[test]
    fn what_is_hidden_is_what_there_is_time_for() {
        let load = Load {
            learning: 10 * sums::BUCKET,
            micro: 8,
            ..LOAD
        };
        let link = Link {
            rate: 10.0 * sums::BUCKET as f64 * VALUE / 0.2,
            latency: 0.0,
        };
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        };
        near(load.exchange(2, link), 0.5);
        // All but the last one and the gathering is hidden behind the micro-batches that follow.
        near(load.exposed(2, link, 1.0), 0.2);
        // Nothing is: it takes longer than to compute.
        near(load.exposed(2, link, 0.001), 0.5 - 0.003);
        let once = Load { once: true, ..load };
        near(once.exposed(2, link, 1.0), 0.2);
        // In the backward pass all but the last bucket.
        let early = Load { early: 1.0, ..load };
        near(early.exposed(2, link, 1.0), 0.02);
        let most = Load { early: 0.7, ..load };
        near(most.exposed(2, link, 1.0), 0.06);
        let narrow = Load {
            value: HALF,
            ..most
        };
        near(narrow.exposed(2, link, 1.0), 0.03);
        // A backward pass that is shorter than the exchange hides nine tenths of itself: the first of ten buckets has to be filled.
        near(early.exposed(2, link, 0.15), 0.2 - 0.09);
        // One bucket leaves when all is computed, whatever share could be sent early.
        let whole = Load {
            bucket: load.learning,
            ..early
        };
        near(whole.exposed(2, link, 1.0), 0.2);
        near(load.exposed(1, link, 1.0), 0.0);
    }

    #[test]
    fn bandwidths_are_read_with_their_units() {
        for (given, bits) in [
            ("100G", 1e11),
            ("2.5g", 2.5e9),
            ("400M", 4e8),
            ("1.6T", 1.6e12),
        ] {
            assert_eq!(given.parse(), Ok(Bandwidth(bits)));
        }
        for wrong in ["", "G", "100", "-1G", "0G", "xG", "infG"] {
            assert!(wrong.parse::<Bandwidth>().is_err(), "{wrong}");
        }
    }
}
