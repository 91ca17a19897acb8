//! `unimo-dev bench houses`: times episodes in generated houses on one thread, parts of an episode apart.

use std::time::Instant;

use clap::builder::RangedU64ValueParser;
use serde_json::json;
use unimo_data::sources::houses::{Houses, HousesConfig, Simulator};
use unimo_data::walks::{WalkConfig, made};
use unimo_data::{Source, Split};
use unimo_train::error::TrainError;

/// `unimo-dev bench houses`.
#[derive(Debug, Clone, clap::Args)]
pub struct HousesArgs {
    /// Episodes that are timed; the median counts.
    #[arg(long, default_value = "7", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    episodes: usize,
    /// Cells on a side of the houses.
    #[arg(long, default_value = "80", value_parser = RangedU64ValueParser::<usize>::new().range(24..=160))]
    side: usize,
    /// Side of a view in pixels.
    #[arg(long, default_value = "64", value_parser = RangedU64ValueParser::<usize>::new().range(8..=512))]
    size: usize,
    /// Steps of a closed loop.
    #[arg(long, default_value = "200", value_parser = RangedU64ValueParser::<usize>::new().range(30..))]
    steps: usize,
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Runs the command; gives its line of JSON to `say`.
///
/// # Errors
///
/// An episode leaves its map.
pub fn run(args: &HousesArgs, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let config = HousesConfig {
        train: args.episodes,
        val: 0,
        paths: 1,
        sides: [args.side; 2],
        size: args.size,
        ..HousesConfig::default()
    };
    let houses = Houses::new(config);
    let walks = WalkConfig::default();
    let failed = |reason: String| TrainError::Check(reason);
    let (mut drawn, mut viewed, mut recorded, mut looped) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for index in 0..args.episodes {
        let began = Instant::now();
        let walk = houses.walk(Split::Train, index);
        let walk = walk.map_err(|error| failed(error.to_string()))?;
        drawn.push(began.elapsed().as_secs_f64());
        let Some(walk) = walk else { continue };
        let began = Instant::now();
        let steps = walk.poses().len();
        for step in 0..steps {
            let view = walk.view(step).map_err(|error| failed(error.to_string()))?;
            std::hint::black_box(view);
        }
        viewed.push(began.elapsed().as_secs_f64() / steps as f64);
        let began = Instant::now();
        let rows = made(&*walk, &walks).map_err(|error| failed(error.to_string()))?;
        std::hint::black_box(rows);
        recorded.push(began.elapsed().as_secs_f64() / steps as f64);
        let began = Instant::now();
        let mut simulator = Simulator::new(&houses, Split::Train, index, &walks).map_err(failed)?;
        // Waypoints to all sides, so that it goes on through the house.
        let mut turn = 0;
        while simulator.steps() < args.steps {
            turn += 1;
            let side = [-0.2, 0.0, 0.2][turn / 5 % 3];
            simulator.act([side, 0.4]).map_err(failed)?;
        }
        looped.push(began.elapsed().as_secs_f64() / simulator.steps() as f64);
    }
    let line = json!({
        "houses": {
            "side": args.side,
            "view": args.size,
            "map": walks.cells,
            "draw_ms": 1e3 * median(drawn),
            "view_ms": 1e3 * median(viewed),
            "recorded_ms_a_step": 1e3 * median(recorded),
            "closed_loop_s": args.steps as f64 * median(looped),
            "closed_loop_steps": args.steps,
        }
    });
    say(&line.to_string());
    Ok(())
}
