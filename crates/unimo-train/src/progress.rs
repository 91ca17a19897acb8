//! The progress line of a training run: a bar on a terminal, occasional plain lines in a log.
//!
//! Everything goes to standard error, so that standard output stays free for results.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use unimo_report::numbers::{duration, grouped, number};

/// Longest time without a line in a log: as long as someone who watches a job will wait.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Largest number of lines that a short run writes to a log, besides those by time.
const LOG_PARTS: u64 = 10;

/// Progress of one training run.
pub struct Progress {
    total: u64,
    start: u64,
    label: String,
    /// The unit that is counted if there is no loss, and the unit of the speed.
    units: [&'static str; 2],
    began: Instant,
    step: u64,
    output: Output,
    finished: bool,
}

enum Output {
    Bar(ProgressBar),
    Log {
        out: Box<dyn Write + Send>,
        last: Option<(Duration, u64)>,
        latest: Option<String>,
    },
}

impl Progress {
    /// Progress of steps `start` to `total` (`start` is above zero for a resumed run): a bar if standard error is a terminal,
    /// otherwise a line every ten seconds or tenth of the steps, whichever comes first.
    pub fn new(total: u64, start: u64, label: &str) -> Self {
        // A terminal that cannot move its cursor gets lines as well.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if io::stderr().is_terminal() && !dumb {
            Self::on(
                Output::Bar(bar(total, start, label, ProgressDrawTarget::stderr())),
                total,
                start,
                label,
            )
        } else {
            Self::to_log(total, start, label, Box::new(io::stderr()))
        }
    }

    /// No output at all, for runs inside tests and other programs; messages are dropped, too.
    pub fn silent() -> Self {
        Self::to_log(0, 0, "", Box::new(io::sink()))
    }

    fn to_log(total: u64, start: u64, label: &str, out: Box<dyn Write + Send>) -> Self {
        Self::on(
            Output::Log {
                out,
                last: None,
                latest: None,
            },
            total,
            start,
            label,
        )
    }

    fn on(output: Output, total: u64, start: u64, label: &str) -> Self {
        Self {
            total,
            start,
            label: label.to_owned(),
            units: ["pairs"; 2],
            began: Instant::now(),
            step: start,
            output,
            finished: false,
        }
    }

    /// Sets the unit that is counted, if not pairs: `samples`.
    pub fn counting(mut self, counted: &'static str) -> Self {
        self.units = [counted; 2];
        self
    }

    /// Sets the unit of the speed, if it differs from the counted unit.
    pub fn at_speed_of(mut self, units: &'static str) -> Self {
        self.units[1] = units;
        self
    }

    /// Shows that `step` is done, with its loss and the current speed. Without a loss, it counts pairs, or the unit that
    /// [`counting`](Self::counting) set.
    pub fn update(&mut self, step: u64, loss: Option<f64>, per_second: f64) {
        let elapsed = self.began.elapsed();
        self.update_at(elapsed, step, loss, per_second);
    }

    /// Shows that `more` are done, at the mean speed since the start.
    pub fn advance(&mut self, more: usize) {
        let done = self.step + more as u64;
        let elapsed = self.began.elapsed();
        let speed = (done - self.start) as f64 / elapsed.as_secs_f64();
        self.update_at(elapsed, done, None, speed);
    }

    fn update_at(&mut self, elapsed: Duration, step: u64, loss: Option<f64>, per_second: f64) {
        self.step = step;
        let left = remaining(elapsed, self.start, step, self.total)
            .map_or("–".to_owned(), |left| duration(left.as_secs_f64()));
        let [counted, speed_of] = self.units;
        let (unit, loss) = match loss {
            Some(loss) => ("steps", format!("loss {} · ", value(loss))),
            None => (counted, String::new()),
        };
        let state = format!("{loss}{} {speed_of}/s · {left} left", value(per_second));
        match &mut self.output {
            Output::Bar(bar) => {
                bar.set_position(step);
                bar.set_message(state);
            }
            Output::Log { out, last, latest } => {
                let line = format!(
                    "{}{}/{} {unit} · {state}",
                    prefix(&self.label),
                    grouped(step as f64),
                    grouped(self.total as f64)
                );
                if due(*last, elapsed, self.start, step, self.total) {
                    // A log that cannot be written (a closed pipe) is no reason to stop training.
                    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
                    *last = Some((elapsed, step));
                    *latest = None;
                } else {
                    *latest = Some(line);
                }
            }
        }
    }

    /// Writes a separate line: above the bar, or into the log.
    pub fn message(&mut self, text: impl fmt::Display) {
        match &mut self.output {
            Output::Bar(bar) => bar.println(text.to_string()),
            Output::Log { out, .. } => {
                let _ = writeln!(out, "{text}").and_then(|()| out.flush());
            }
        }
    }

    /// Ends the progress and leaves its last state on the screen or in the log. Dropping does the same.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        match &mut self.output {
            Output::Bar(bar) => bar.abandon(),
            Output::Log { out, latest, .. } => {
                if let Some(line) = latest.take() {
                    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Progress")
            .field("label", &self.label)
            .field("step", &self.step)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

fn bar(total: u64, start: u64, label: &str, target: ProgressDrawTarget) -> ProgressBar {
    // Only the fixed template could be wrong; a bar in the default style would do.
    let style = ProgressStyle::with_template(
        "{prefix}{wide_bar:.cyan/black.dim} {human_pos}/{human_len} · {msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar())
    .progress_chars("━╸─");
    ProgressBar::with_draw_target(Some(total), target)
        .with_style(style)
        .with_prefix(prefix(label))
        .with_position(start)
        .with_finish(ProgressFinish::Abandon)
}

fn prefix(label: &str) -> String {
    if label.is_empty() {
        String::new()
    } else {
        format!("{label} ")
    }
}

fn value(value: f64) -> String {
    if value.is_finite() {
        number(value)
    } else {
        value.to_string()
    }
}

/// Time to the end at the mean speed since the start, including evaluations.
fn remaining(elapsed: Duration, start: u64, step: u64, total: u64) -> Option<Duration> {
    let done = step.checked_sub(start).filter(|done| *done > 0)?;
    Duration::try_from_secs_f64(
        elapsed.as_secs_f64() / done as f64 * total.saturating_sub(step) as f64,
    )
    .ok()
}

/// Whether a line is due: for the first and the last step, after [`LOG_INTERVAL`], and after each tenth of the steps.
fn due(
    last: Option<(Duration, u64)>,
    elapsed: Duration,
    start: u64,
    step: u64,
    total: u64,
) -> bool {
    let Some((time, before)) = last else {
        return true;
    };
    let part = |step: u64| {
        u128::from(step.saturating_sub(start)) * u128::from(LOG_PARTS)
            / u128::from(total.saturating_sub(start).max(1))
    };
    elapsed.saturating_sub(time) >= LOG_INTERVAL
        || (step >= total && before < total)
        || (step > before && part(step) > part(before))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone())
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect()
        }
    }

    #[test]
    fn a_fast_run_logs_its_tenths() {
        let out = Shared::default();
        let mut progress = Progress::to_log(1000, 0, "train", Box::new(out.clone()));
        for step in 1..=1000 {
            progress.update_at(Duration::from_millis(step), step, Some(2.5), 31.0);
        }
        progress.finish();
        let lines = out.lines();
        assert_eq!(lines.len(), 11, "{lines:?}");
        assert_eq!(
            lines[0],
            "train 1/1,000 steps · loss 2.50 · 31 pairs/s · 1 s left"
        );
        assert_eq!(
            lines[10],
            "train 1,000/1,000 steps · loss 2.50 · 31 pairs/s · 0 s left"
        );
    }

    #[test]
    fn a_slow_run_logs_every_ten_seconds() {
        let out = Shared::default();
        let mut progress = Progress::to_log(100_000, 500, "", Box::new(out.clone()));
        for step in 501..=560 {
            progress.update_at(Duration::from_secs(step - 500), step, Some(f64::NAN), 31.0);
        }
        drop(progress);
        let lines = out.lines();
        // At 1, 11, 21, 31, 41 and 51 seconds, and the last one when dropped.
        assert_eq!(lines.len(), 7, "{lines:?}");
        assert_eq!(
            lines[1],
            "511/100,000 steps · loss NaN · 31 pairs/s · 27:38:09 h left"
        );
        assert!(lines[6].starts_with("560/100,000"));
    }

    #[test]
    fn what_is_counted_is_named() {
        let out = Shared::default();
        let mut progress = Progress::to_log(480, 0, "tar", Box::new(out.clone()));
        progress.update_at(Duration::from_secs(1), 1, None, 31.0);
        let mut progress = progress.counting("seconds").at_speed_of("files");
        progress.update_at(Duration::from_secs(20), 20, None, 31.0);
        progress.finish();
        assert_eq!(
            out.lines(),
            [
                "tar 1/480 pairs · 31 pairs/s · 7:59 min left",
                "tar 20/480 seconds · 31 files/s · 7:40 min left"
            ]
        );
    }

    #[test]
    fn messages_have_their_own_lines() {
        let out = Shared::default();
        let mut progress = Progress::to_log(10, 0, "train", Box::new(out.clone()));
        progress.message("evaluating");
        progress.update_at(Duration::from_secs(1), 1, Some(1.0), 1.0);
        progress.message(format_args!("saved {}", 1));
        progress.finish();
        assert_eq!(
            out.lines()
                .iter()
                .map(|line| line.split(' ').next().unwrap_or(""))
                .collect::<Vec<_>>(),
            ["evaluating", "train", "saved"]
        );
    }

    #[test]
    fn a_closed_log_does_not_end_the_run() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut progress = Progress::to_log(10, 0, "train", Box::new(Closed));
        progress.message("a");
        progress.update(1, Some(1.0), 1.0);
        assert_eq!(progress.step, 1);
        progress.finish();
    }

    #[test]
    fn odd_step_numbers_are_taken() {
        assert_eq!(remaining(Duration::from_secs(5), 10, 10, 20), None);
        assert_eq!(remaining(Duration::from_secs(5), 10, 5, 20), None);
        assert_eq!(
            remaining(Duration::from_secs(5), 10, 15, 20),
            Some(Duration::from_secs(5))
        );
        assert_eq!(
            remaining(Duration::from_secs(5), 0, 30, 20),
            Some(Duration::ZERO)
        );
        assert!(
            due(Some((Duration::ZERO, 0)), Duration::ZERO, 0, 0, 0)
                || !due(Some((Duration::ZERO, 0)), LOG_INTERVAL / 2, 0, 0, 0)
        );
        assert!(!due(Some((Duration::ZERO, 7)), LOG_INTERVAL / 2, 0, 7, 100));
        let mut silent = Progress::silent();
        silent.update(u64::MAX, Some(0.0), 0.0);
        assert_eq!(silent.step, u64::MAX);
    }

    #[test]
    fn the_bar_keeps_its_place() {
        let mut progress = Progress::on(
            Output::Bar(bar(100, 40, "train", ProgressDrawTarget::hidden())),
            100,
            40,
            "train",
        );
        progress.update_at(Duration::from_secs(10), 50, Some(2.5), 31.0);
        let Output::Bar(bar) = &progress.output else {
            panic!("no bar")
        };
        assert_eq!((bar.position(), bar.length()), (50, Some(100)));
        assert_eq!(bar.message(), "loss 2.50 · 31 pairs/s · 50 s left");
        assert_eq!(bar.prefix(), "train ");
    }
}
