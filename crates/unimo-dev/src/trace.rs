//! `unimo-dev trace`: where the time of a command goes, as a file for Perfetto or chrome://tracing.
//!
//! The parts of a step ([`unimo_core::spans`]) are recorded with their names: waiting for the loader, encoders and their blocks, the
//! cross-modal encoder, each loss, the backward pass, the optimiser. A GPU is waited for at the end of every part, so that its work is
//! counted where it belongs; a traced step on a GPU is slower than one that is not.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use serde_json::json;
use unimo_core::spans::{self, Listening, Span};
use unimo_data::atomic::AtomicFile;
use unimo_train::cli;
use unimo_train::error::TrainError;

/// `unimo-dev trace`.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceArgs {
    /// The file of the trace, which <https://ui.perfetto.dev> and chrome://tracing open. Replaced if it is there.
    #[arg(long, value_name = "FILE", default_value = "trace.json")]
    out: PathBuf,
    /// A command of `unimo`, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs a command of `unimo` and records it. The trace is kept, too, if the command fails.
///
/// # Errors
///
/// The trace cannot be written.
pub fn run(args: &TraceArgs) -> Result<ExitCode, TrainError> {
    let recording = Recording::begin(&args.out)?;
    let program = OsString::from("unimo");
    let code = cli::run_line([program].into_iter().chain(args.command.iter().cloned()));
    let parts = recording.end()?;
    eprintln!(
        "{parts} parts are in {}; https://ui.perfetto.dev and chrome://tracing open it",
        args.out.display()
    );
    Ok(code)
}

/// What this process does, recorded until [`end`](Self::end).
pub(crate) struct Recording {
    path: PathBuf,
    file: Arc<Mutex<TraceFile>>,
    listening: Listening,
}

impl Recording {
    /// # Errors
    ///
    /// The file cannot be created.
    pub(crate) fn begin(path: &Path) -> Result<Self, TrainError> {
        let out = AtomicFile::create(path).map_err(TrainError::file("create", path))?;
        let file = Arc::new(Mutex::new(TraceFile {
            out,
            parts: 0,
            threads: HashMap::new(),
            failed: None,
        }));
        let heard = Arc::clone(&file);
        let listening = spans::listen(Box::new(move |span| {
            let mut file = heard.lock().unwrap_or_else(PoisonError::into_inner);
            file.add(&span);
        }));
        let listening = listening
            .ok_or_else(|| TrainError::Check("this process records a trace already".to_owned()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            listening,
        })
    }

    /// Writes the file and gives the number of its parts.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(crate) fn end(self) -> Result<u64, TrainError> {
        drop(self.listening);
        let file = Arc::into_inner(self.file).expect("invariant: nobody listens any more");
        let file = file.into_inner().unwrap_or_else(PoisonError::into_inner);
        file.end().map_err(TrainError::file("write", &self.path))
    }
}

/// Events of the Trace Event Format: complete ones, times in microseconds.
struct TraceFile {
    out: AtomicFile,
    parts: u64,
    /// Threads by a number.
    threads: HashMap<ThreadId, usize>,
    /// The first error; nothing is written after it.
    failed: Option<io::Error>,
}

impl TraceFile {
    fn add(&mut self, span: &Span) {
        if self.failed.is_none() {
            self.failed = self.write(span).err();
        }
    }

    fn write(&mut self, span: &Span) -> io::Result<()> {
        let known = self.threads.len();
        let thread = self.threads.entry(thread::current().id()).or_insert(known);
        let fields = span.fields.iter();
        let fields = fields.map(|(name, value)| ((*name).to_owned(), json!(value)));
        let event = json!({
            "name": span.name,
            "ph": "X",
            "ts": span.began.as_secs_f64() * 1e6,
            "dur": span.took.as_secs_f64() * 1e6,
            "pid": 0,
            "tid": *thread,
            "args": fields.collect::<serde_json::Map<_, _>>(),
        });
        let before = if self.parts == 0 { "[\n" } else { ",\n" };
        self.parts += 1;
        write!(self.out, "{before}{event}")
    }

    fn end(mut self) -> io::Result<u64> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let end = if self.parts == 0 { "[]\n" } else { "\n]\n" };
        self.out.write_all(end.as_bytes())?;
        self.out.commit()?;
        Ok(self.parts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use unimo_core::part;

    use super::*;

    /// Parts lie within the one around them and say what they are of. One recording at a time; afterwards nothing is heard.
    #[test]
    fn parts_are_written_as_they_lie_within_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        let recording = Recording::begin(&path).unwrap();
        assert!(Recording::begin(&folder.path().join("other.json")).is_err());
        let step = part!(None, "a step of this test", step = 7);
        for at in 0..2 {
            let _part = part!(None, "a block of this test", at = at);
        }
        drop(step);
        recording.end().unwrap();
        drop(part!(None, "after it"));

        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Value> = serde_json::from_str(&text).unwrap();
        // Other tests of this process may be heard, too.
        let of = |name: &str| -> Vec<&Value> {
            let all = events.iter().filter(|event| event["name"] == name);
            all.collect()
        };
        let range = |event: &Value| {
            let [ts, dur] = ["ts", "dur"].map(|key| event[key].as_f64().unwrap());
            (ts, ts + dur)
        };
        let [step] = of("a step of this test")[..] else {
            panic!("{text}");
        };
        assert_eq!(step["args"]["step"], "7");
        let blocks = of("a block of this test");
        let places: Vec<&Value> = blocks.iter().map(|block| &block["args"]["at"]).collect();
        assert_eq!(places, ["0", "1"]);
        for block in blocks {
            assert_eq!((&block["tid"], &block["ph"]), (&step["tid"], &step["ph"]));
            assert!(range(step).0 <= range(block).0 && range(block).1 <= range(step).1);
        }
        assert!(of("after it").is_empty());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Recording::begin(folder.path()).err().unwrap().to_string();
        assert!(
            error.contains(&folder.path().display().to_string()),
            "{error}"
        );
    }
}
