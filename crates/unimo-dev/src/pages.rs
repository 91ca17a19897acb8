//! `unimo-dev check pages`: opens the pages that `unimo` writes in Chromium, without a window.
//!
//! The pages are made first, by `unimo` itself: reports of short runs, of a run of 100,000 steps and of one of NaN alone, a comparison, an
//! explanation, a search, and the two pages about data. Each is opened light and dark, on a desk and on a telephone. A message of the
//! console, a request that leaves the page, and what the audit in `pages/audit.js` finds is a failure: text that is too faint, too small,
//! cut or on other text, and a page that is wider than its window. So is a chart that does not answer to pointer, touch and keys. Images of all pages
//! are kept, to be looked at: a program does not see what is ugly.

mod browser;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use unimo_train::error::TrainError;

use self::browser::{Browser, Window, find};

/// What is asked of every page.
const AUDIT: &str = include_str!("pages/audit.js");

/// Windows to look through.
const WINDOWS: [(&str, Window); 4] = [
    ("desk-light", window(1280, 900, false, false)),
    ("desk-dark", window(1280, 900, true, false)),
    ("phone-light", window(390, 844, false, true)),
    ("phone-dark", window(390, 844, true, true)),
];

const fn window(width: u32, height: u32, dark: bool, touch: bool) -> Window {
    Window {
        width,
        height,
        dark,
        touch,
    }
}

/// Height of an image of a part of a page, in pixels: what can be looked at in one piece.
const PICTURE: f64 = 1600.0;

/// Width and height of the README's image, in pixels, and its quality of 100.
const SHOWN: (u32, u32) = (1160, 1240);
const QUALITY: u32 = 80;

/// Steps of the long run, each with a line.
const MANY_STEPS: u64 = 100_000;

/// Steps of the run whose numbers are not finite.
const NAN_STEPS: u64 = 400;

/// Most charts of a page that are pointed at: they share their script.
const CHARTS: usize = 4;

/// Key codes of the arrow to the left and of Escape.
const LEFT: u32 = 37;
const ESCAPE: u32 = 27;

/// `unimo-dev check pages`.
#[derive(Debug, Clone, clap::Args)]
pub struct PagesArgs {
    /// The folder for the pages and the images of them.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Look at the pages that are in the folder instead of making them.
    #[arg(long)]
    pub only_look: bool,
    /// Instead, write OUT/report.webp: the upper part of this run's report, as the README shows one.
    #[arg(long, value_name = "RUN", conflicts_with = "only_look")]
    pub picture_of: Option<PathBuf>,
    /// Chromium or Chrome; default: the first in PATH.
    #[arg(long, value_name = "PROGRAM")]
    pub browser: Option<PathBuf>,
    /// `unimo`, which makes the pages; default: the one beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub unimo: Option<PathBuf>,
}

/// Runs the check; `say` gets every line of the report.
///
/// # Errors
///
/// A page is wrong, cannot be made, or Chromium fails. That it is not there is no error: the check says that it was skipped.
pub fn run(args: &PagesArgs, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let Some(program) = args.browser.clone().or_else(find) else {
        say(
            "SKIPPED: check pages: there is no Chromium in PATH; install it (Debian: apt-get install chromium) or name it with --browser",
        );
        return Ok(());
    };
    let out = std::path::absolute(&args.out).map_err(TrainError::file("find", &args.out))?;
    fs::create_dir_all(&out).map_err(TrainError::file("create", &out))?;
    if let Some(run) = &args.picture_of {
        return picture_of(&program, run, &out, say);
    }
    if !args.only_look {
        let unimo = match &args.unimo {
            Some(unimo) => std::path::absolute(unimo).map_err(TrainError::file("find", unimo))?,
            None => beside()?,
        };
        make(&unimo, &out, say)?;
    }
    let pages = pages(&out)?;
    let pictures = out.join("pictures");
    fs::create_dir_all(&pictures).map_err(TrainError::file("create", &pictures))?;
    let profile = profile(&out)?;
    let mut browser = Browser::start(&program, &profile)?;
    let mut wrong = 0;
    for (name, path) in &pages {
        for (kind, window) in WINDOWS {
            let found = look(&mut browser, path, window)?;
            for (at, png) in browser.pictures(PICTURE)?.iter().enumerate() {
                let picture = pictures.join(format!("{name}-{kind}-{}.png", at + 1));
                fs::write(&picture, png).map_err(TrainError::file("write", &picture))?;
            }
            for what in &found {
                say(&format!("{name}, {kind}: {what}"));
            }
            wrong += found.len();
        }
    }
    drop(browser);
    let _ = fs::remove_dir_all(&profile);
    let looked = format!(
        "{} pages, {} windows each; images in {}",
        pages.len(),
        WINDOWS.len(),
        pictures.display()
    );
    if wrong > 0 {
        return Err(TrainError::Check(format!("{wrong} faults in {looked}")));
    }
    say(&format!("no fault in {looked}"));
    Ok(())
}

/// A new folder for the browser's profile.
fn profile(out: &Path) -> Result<PathBuf, TrainError> {
    let profile = out.join("browser");
    let _ = fs::remove_dir_all(&profile);
    fs::create_dir_all(&profile).map_err(TrainError::file("create", &profile))?;
    Ok(profile)
}

/// Writes the upper part of a report as an image.
fn picture_of(
    program: &Path,
    run: &Path,
    out: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<(), TrainError> {
    let report = run.join("report.html");
    let report = fs::canonicalize(&report).map_err(TrainError::file("open", &report))?;
    let profile = profile(out)?;
    let mut browser = Browser::start(program, &profile)?;
    browser.open(
        &format!("file://{}", report.display()),
        window(SHOWN.0, SHOWN.1, false, false),
    )?;
    let webp = browser.shown(QUALITY)?;
    drop(browser);
    let _ = fs::remove_dir_all(&profile);
    let path = out.join("report.webp");
    fs::write(&path, &webp).map_err(TrainError::file("write", &path))?;
    say(&format!("{}: {} bytes", path.display(), webp.len()));
    Ok(())
}

/// `unimo`, which cargo puts next to this program.
fn beside() -> Result<PathBuf, TrainError> {
    let own = std::env::current_exe().map_err(TrainError::file("find", "this program"))?;
    let unimo = own.with_file_name(format!("unimo{}", std::env::consts::EXE_SUFFIX));
    if unimo.is_file() {
        return Ok(unimo);
    }
    Err(TrainError::Check(format!(
        "there is no {}, which makes the pages: `cargo xtask unimo-dev check pages` builds it, or name it with --unimo",
        unimo.display()
    )))
}

/// The pages of a folder: its `.html` files and the reports of its runs.
fn pages(out: &Path) -> Result<Vec<(String, PathBuf)>, TrainError> {
    let mut found = Vec::new();
    for folder in [out.to_owned(), out.join("runs")] {
        let Ok(listed) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in listed {
            let path = entry.map_err(TrainError::file("list", &folder))?.path();
            let stem = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let report = path.join("report.html");
            if report.is_file() {
                found.push((format!("report-{stem}"), report));
            } else if path.extension().is_some_and(|end| end == "html") {
                found.push((stem, path));
            }
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(TrainError::Check(format!("no page in {}", out.display())));
    }
    Ok(found)
}

/// Opens a page and says what is wrong with it.
fn look(browser: &mut Browser, page: &Path, window: Window) -> Result<Vec<String>, TrainError> {
    browser.events();
    let address = format!("file://{}", page.display());
    browser.open(&address, window)?;
    // Parts that are closed are looked at, too.
    browser.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")?;
    // Images that are only loaded where one looks.
    browser.evaluate("Promise.all([...document.images].map((i) => { i.loading = 'eager'; return i.decode().catch(() => 0); })).then(() => 0)")?;
    let mut wrong: Vec<String> = Vec::new();
    let audit = browser.evaluate(AUDIT)?;
    let said = audit.as_array().into_iter().flatten();
    wrong.extend(said.filter_map(Value::as_str).map(str::to_owned));
    wrong.extend(read_outs(browser, window)?);
    // Ended with a call that needs the page, so that its messages have come.
    browser.evaluate("new Promise((done) => setTimeout(done, 50))")?;
    for event in browser.events() {
        wrong.extend(fault(&event, &address));
    }
    browser.evaluate(
        "document.querySelectorAll('details').forEach((d) => d.open = false), scrollTo(0, 0)",
    )?;
    Ok(wrong)
}

/// What an event of the browser says against the page.
fn fault(event: &Value, address: &str) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.consoleAPICalled" => Some(format!("console: {}", params["args"])),
        "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
        "Log.entryAdded" => Some(format!(
            "log: {} {}",
            params["entry"]["text"], params["entry"]["url"]
        )),
        "Network.requestWillBeSent" => {
            let asked = params["request"]["url"].as_str().unwrap_or_default();
            let own = asked.starts_with(address) || asked.starts_with("data:");
            (!own).then(|| format!("asks for {asked}"))
        }
        _ => None,
    }
}

/// Charts that do not answer.
fn read_outs(browser: &mut Browser, window: Window) -> Result<Vec<String>, TrainError> {
    let mut wrong = Vec::new();
    let lines = "[...document.querySelectorAll('svg[data-plot]')].filter((s) => s.getBoundingClientRect().width > 0 && \
                 JSON.parse(s.dataset.plot).series.some((x) => x.x.length > 0))";
    // Bars and cells of heat maps.
    let cells = "[...document.querySelectorAll('svg[data-cells]')].filter((s) => s.getBoundingClientRect().width > 0 && \
                 s.querySelector('g > title + rect'))";
    read_outs_of(browser, window, lines, &mut wrong)?;
    read_outs_of(browser, window, cells, &mut wrong)?;
    Ok(wrong)
}

/// As [`read_outs`], for the elements that the expression `charts` gives.
fn read_outs_of(
    browser: &mut Browser,
    window: Window,
    charts: &str,
    wrong: &mut Vec<String>,
) -> Result<(), TrainError> {
    let count = browser.evaluate(&format!("{charts}.length"))?;
    let count = count.as_u64().unwrap_or(0) as usize;
    for at in 0..count.min(CHARTS) {
        let chart = format!("{charts}[{at}]");
        let place = browser.evaluate(&format!(
            "(() => {{ const s = {chart}; s.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const b = (s.querySelector('g > title + rect') ?? s).getBoundingClientRect(); \
             return [b.left + b.width / 2, b.top + b.height / 2, s.getAttribute('aria-label').slice(0, 40)]; }})()"
        ))?;
        let (x, y) = (
            place[0].as_f64().unwrap_or(0.0),
            place[1].as_f64().unwrap_or(0.0),
        );
        let name = place[2].as_str().unwrap_or_default().to_owned();
        let mut expect = |browser: &mut Browser,
                          there: bool,
                          how: &str|
         -> Result<(), TrainError> {
            let tip = browser.evaluate(&format!(
                "(() => {{ const t = {chart}.closest('figure').querySelector('.plot-tip'); if (!t) return null; \
                 const b = t.getBoundingClientRect(); return [t.textContent, b.left, b.right, document.documentElement.clientWidth]; }})()"
            ))?;
            if tip.is_null() == there {
                let not = if there {
                    "shows no values"
                } else {
                    "goes on showing values"
                };
                wrong.push(format!("\"{name}\" {not} {how}"));
            }
            if there && !tip.is_null() {
                let (left, right) = (
                    tip[1].as_f64().unwrap_or(0.0),
                    tip[2].as_f64().unwrap_or(0.0),
                );
                if left < -1.0 || right > tip[3].as_f64().unwrap_or(0.0) + 1.0 {
                    wrong.push(format!("the values of \"{name}\" leave the window {how}"));
                }
                if tip[0]
                    .as_str()
                    .is_none_or(|text| !text.contains(|c: char| c.is_ascii_digit() || c == '–'))
                {
                    wrong.push(format!("\"{name}\" shows no number {how}"));
                }
            }
            Ok(())
        };
        if window.touch {
            browser.tap(x, y)?;
            expect(browser, true, "after a tap")?;
            // Beside every chart.
            browser.evaluate("document.dispatchEvent(new Event('none'))")?;
            browser.tap(2.0, 2.0)?;
            expect(browser, false, "after a tap elsewhere")?;
            continue;
        }
        browser.point_at(x, y)?;
        expect(browser, true, "under the pointer")?;
        browser.point_at(1.0, 1.0)?;
        expect(browser, false, "after the pointer has left")?;
        browser.evaluate(&format!("{chart}.focus()"))?;
        browser.press("ArrowLeft", LEFT)?;
        expect(browser, true, "at the arrow key")?;
        let first = browser.evaluate(&format!(
            "{chart}.closest('figure').querySelector('.plot-tip')?.textContent"
        ))?;
        browser.press("ArrowLeft", LEFT)?;
        browser.press("ArrowLeft", LEFT)?;
        let third = browser.evaluate(&format!(
            "[{chart}.closest('figure').querySelector('.plot-tip')?.textContent, {chart}.dataset.plot ? \
             JSON.parse({chart}.dataset.plot).series.some((s) => s.x.length > 3) : {chart}.querySelectorAll('g > title + rect').length > 3]"
        ))?;
        if third[1] == json!(true) && third[0] == first {
            wrong.push(format!("\"{name}\" stays where it is at the arrow key"));
        }
        browser.press("Escape", ESCAPE)?;
        expect_gone(browser, &chart, &name, wrong)?;
    }
    Ok(())
}

fn expect_gone(
    browser: &mut Browser,
    chart: &str,
    name: &str,
    wrong: &mut Vec<String>,
) -> Result<(), TrainError> {
    let gone = format!("!{chart}.closest('figure').querySelector('.plot-tip')");
    if browser.evaluate(&gone)? != json!(true) {
        wrong.push(format!("\"{name}\" goes on showing values after Escape"));
    }
    Ok(())
}

/// Makes the pages with `unimo`.
fn make(unimo: &Path, out: &Path, say: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
    let short = [
        "train.steps=120",
        "train.eval_every=40",
        "train.log_every=2",
        "eval.limit=100",
        "data.scenes.val=100",
        "eval.losses={}",
    ];
    let mut commands: Vec<Vec<String>> = Vec::new();
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for (recipe, name, more) in [
        ("unimo3-tiny", "unimo3", vec!["seed=0"]),
        ("unimo3-tiny", "unimo3-seed1", vec!["seed=1"]),
        ("meter-tiny", "meter", vec!["seed=0"]),
        ("unimo2-tiny", "unimo2", vec!["train.steps=30"]),
        ("mvp-tiny", "mvp", vec!["train.steps=30"]),
        (
            "unimo3-vqa-tiny",
            "vqa",
            vec!["train.steps=60", "eval.limit=40"],
        ),
        (
            "unimo3-grounding-tiny",
            "grounding",
            vec!["train.steps=30", "eval.limit=40"],
        ),
        (
            "unimo3-caption-tiny",
            "caption",
            vec!["train.steps=30", "eval.limit=20"],
        ),
    ] {
        let mut line = words(&format!("train {recipe} --quiet --out runs/{name}"));
        for set in short.iter().chain(&more) {
            line.extend(["--set".to_owned(), (*set).to_owned()]);
        }
        commands.push(line);
    }
    commands.extend([
        words("data scenes --out scenes --train 60 --val 20"),
        words("data stats --data scenes/pairs.jsonl --html stats.html"),
        words("data show --data scenes/pairs.jsonl --html show.html"),
        words("compare runs/unimo3 runs/unimo3-seed1 runs/meter --html compare.html"),
        words("search runs/unimo3 --images scenes --text circle --html search.html"),
    ]);
    let explain =
        words("explain runs/unimo3 --image scenes/val-000000.png --html explain.html --text");
    let text = "two red squares above a small blue circle".to_owned();
    commands.push([explain, vec![text]].concat());
    let _ = fs::remove_dir_all(out.join("runs"));
    let _ = fs::remove_dir_all(out.join("scenes"));
    for line in &commands {
        say(&format!("unimo {}", line.join(" ")));
        call(unimo, out, line)?;
    }
    let of = |name: &str| out.join("runs").join(name);
    rewrite(&of("unimo3"), &of("long"), MANY_STEPS, long)?;
    rewrite(&of("unimo3"), &of("nan"), NAN_STEPS, |_| None)?;
    for name in ["long", "nan"] {
        call(unimo, out, &words(&format!("report runs/{name}")))?;
    }
    Ok(())
}

fn call(unimo: &Path, folder: &Path, line: &[String]) -> Result<(), TrainError> {
    let output = Command::new(unimo)
        .args(line)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(TrainError::file("run", unimo))?;
    if output.status.success() {
        return Ok(());
    }
    Err(TrainError::Check(format!(
        "unimo {}: {}",
        line.join(" "),
        String::from_utf8_lossy(&output.stderr)
    )))
}

/// A loss that falls from 8 to about 2 with a ripple, and some steps without a number.
fn long(step: u64) -> Option<f64> {
    let at = step as f64;
    let falls = 2.0 + 6.0 * (-at / 15_000.0).exp();
    let ripple = 0.3 * (at * 0.7).sin() + 0.2 * (at * 0.013).cos();
    (!step.is_multiple_of(9_973)).then_some(falls + ripple)
}

/// Copies a run's folder with another course of its losses: `value` of each step.
fn rewrite(
    run: &Path,
    to: &Path,
    steps: u64,
    value: fn(u64) -> Option<f64>,
) -> Result<(), TrainError> {
    fs::create_dir_all(to).map_err(TrainError::file("create", to))?;
    for name in [
        "recipe.toml",
        "run.json",
        "sessions.jsonl",
        "fingerprint.json",
    ] {
        let from = run.join(name);
        fs::copy(&from, to.join(name)).map_err(TrainError::file("copy", &from))?;
    }
    let mut lines = String::new();
    for step in 1..=steps {
        let loss = value(step);
        let record = json!({
            "step": step, "epoch": step as f64 / 1000.0, "loss": loss, "lr": 1e-3 * (1.0 - step as f64 / steps as f64),
            "grad_norm": loss, "pairs_per_second": 60.0, "step_seconds": 0.5, "wait_seconds": 0.01,
            "elapsed_seconds": step as f64 * 0.5,
            "losses": { "mlm": { "loss": loss, "accuracy": loss.map(|x| 1.0 / x), "count": 30 }, "itc": { "loss": loss, "accuracy": loss.map(|x| 1.0 / x), "count": 32 } },
        });
        lines += &record.to_string();
        lines.push('\n');
    }
    let path = to.join("metrics.jsonl");
    fs::write(&path, lines).map_err(TrainError::file("write", &path))
}
