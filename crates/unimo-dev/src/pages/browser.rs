//! Chromium without a window, spoken to over two pipes in its DevTools protocol. Messages are JSON, each ended by a zero byte.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use unimo_train::error::TrainError;

/// The programs that are looked for, in this order.
const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// Longest time to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The part of a page that is in images, in pixels.
const TALLEST: f64 = 24_000.0;

/// Finds Chromium in the folders of `PATH`.
pub fn find() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    let mut all = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    all.find(|path| path.is_file())
}

/// A running Chromium with one page.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: Option<String>,
    number: u64,
    events: VecDeque<Value>,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Width in CSS pixels.
    pub width: u32,
    /// Height in CSS pixels.
    pub height: u32,
    /// Whether the reader prefers dark pages.
    pub dark: bool,
    /// Whether it is a telephone: touch, and no pointer that hovers.
    pub touch: bool,
}

fn wrong(what: impl std::fmt::Display) -> TrainError {
    TrainError::Check(format!("Chromium: {what}"))
}

impl Browser {
    /// Starts Chromium with a profile of its own in `folder`.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn start(program: &Path, folder: &Path) -> Result<Self, TrainError> {
        let (input, output) = (folder.join("to-browser"), folder.join("from-browser"));
        let made = Command::new("mkfifo").args([&input, &output]).status();
        if !made.is_ok_and(|status| status.success()) {
            return Err(wrong("mkfifo failed: pipes with names are needed"));
        }
        // The protocol's pipes are the file descriptors 3 and 4, which a shell opens.
        let mut line = "exec \"$0\" \"$@\" 3<\"$TO_BROWSER\" 4>\"$FROM_BROWSER\"".to_owned();
        if is_root() {
            // Its sandbox does not work for root. The pages are our own.
            line = line.replace("\"$@\"", "--no-sandbox \"$@\"");
        }
        let log = File::create(folder.join("browser.log"))
            .map_err(TrainError::file("create", folder.join("browser.log")))?;
        let profile = format!("--user-data-dir={}", folder.join("profile").display());
        let child = Command::new("sh")
            .arg("-c")
            .arg(line)
            .arg(program)
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-first-run",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--hide-scrollbars",
                "--force-color-profile=srgb",
                &profile,
                "about:blank",
            ])
            .env("TO_BROWSER", &input)
            .env("FROM_BROWSER", &output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(TrainError::file("run", program))?;
        // Each waits for the other end, in the shell's order.
        let to = OpenOptions::new().write(true).open(&input);
        let to = to.map_err(TrainError::file("open", &input))?;
        let from = File::open(&output).map_err(TrainError::file("open", &output))?;
        let mut browser = Self {
            child,
            to,
            from: receive(from),
            session: None,
            number: 0,
            events: VecDeque::new(),
        };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach)?;
        let session = attached["sessionId"].as_str();
        browser.session = Some(session.ok_or_else(|| wrong("gives no session"))?.to_owned());
        for domain in ["Page", "Runtime", "Log", "Network", "DOM"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(browser)
    }

    /// Calls a method of the protocol and returns its result.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, TrainError> {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).map_err(wrong)?;
        let began = Instant::now();
        loop {
            let message = self.next(PATIENCE.saturating_sub(began.elapsed()), method)?;
            if message["id"] != json!(self.number) {
                self.events.push_back(message);
                continue;
            }
            if let Some(error) = message.get("error") {
                return Err(wrong(format_args!("{method}: {error}")));
            }
            return Ok(message["result"].clone());
        }
    }

    fn next(&mut self, patience: Duration, what: &str) -> Result<Value, TrainError> {
        self.from
            .recv_timeout(patience)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => {
                    wrong(format_args!("no answer to {what} in {PATIENCE:?}"))
                }
                RecvTimeoutError::Disconnected => wrong(format_args!("has ended, after {what}")),
            })
    }

    /// What happened since this was last asked: messages of the protocol without a number.
    pub fn events(&mut self) -> Vec<Value> {
        while let Ok(message) = self.from.try_recv() {
            self.events.push_back(message);
        }
        self.events.drain(..).collect()
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&mut self, address: &str, window: Window) -> Result<(), TrainError> {
        let scheme = if window.dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )?;
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({
                "width": window.width, "height": window.height, "deviceScaleFactor": 1, "mobile": window.touch,
            }),
        )?;
        self.call(
            "Emulation.setTouchEmulationEnabled",
            json!({ "enabled": window.touch }),
        )?;
        self.call("Page.navigate", json!({ "url": address }))?;
        let loaded = |event: &Value| event["method"] == "Page.loadEventFired";
        while !self.events.iter().any(loaded) {
            let message = self.next(PATIENCE, address)?;
            self.events.push_back(message);
        }
        Ok(())
    }

    /// The value of a JavaScript expression, which may be a promise.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value, TrainError> {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params)?;
        match result.get("exceptionDetails") {
            None => Ok(result["result"]["value"].clone()),
            Some(details) => Err(wrong(format_args!("{expression}: {details}"))),
        }
    }

    /// Moves the mouse to a point of the window.
    pub fn point_at(&mut self, x: f64, y: f64) -> Result<(), TrainError> {
        let params = json!({ "type": "mouseMoved", "x": x, "y": y });
        self.call("Input.dispatchMouseEvent", params).map(drop)
    }

    /// Taps a point of the window.
    pub fn tap(&mut self, x: f64, y: f64) -> Result<(), TrainError> {
        let points = json!([{ "x": x, "y": y }]);
        let touch = json!({ "type": "touchStart", "touchPoints": points });
        self.call("Input.dispatchTouchEvent", touch)?;
        let lift = json!({ "type": "touchEnd", "touchPoints": [] });
        self.call("Input.dispatchTouchEvent", lift).map(drop)
    }

    /// Presses a key and lets it go.
    pub fn press(&mut self, key: &str, code: u32) -> Result<(), TrainError> {
        for kind in ["keyDown", "keyUp"] {
            let params =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", params)?;
        }
        Ok(())
    }

    /// What the window shows, as WebP of this quality of 100.
    pub fn shown(&mut self, quality: u32) -> Result<Vec<u8>, TrainError> {
        let params = json!({ "format": "webp", "quality": quality });
        let data = self.call("Page.captureScreenshot", params)?;
        let code = data["data"].as_str().unwrap_or_default();
        BASE64_STANDARD.decode(code).map_err(wrong)
    }

    /// The page as PNGs, from its top on, each of this height at most.
    pub fn pictures(&mut self, height: f64) -> Result<Vec<Vec<u8>>, TrainError> {
        let size = self.call("Page.getLayoutMetrics", json!({}))?["cssContentSize"].clone();
        let side = |name: &str| size[name].as_f64().unwrap_or(1.0);
        let (width, whole) = (side("width"), side("height").min(TALLEST));
        let mut all = Vec::new();
        let mut top = 0.0;
        while top < whole {
            let clip = json!({
                "x": 0, "y": top, "width": width, "height": height.min(whole - top), "scale": 1,
            });
            let params = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
            let data = self.call("Page.captureScreenshot", params)?;
            let code = data["data"].as_str().unwrap_or_default();
            all.push(BASE64_STANDARD.decode(code).map_err(wrong)?);
            top += height;
        }
        Ok(all)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session = None;
        let _ = self
            .to
            .write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads messages on a thread of its own, so that one can wait for them for a limited time.
fn receive(from: File) -> Receiver<Value> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        loop {
            let mut bytes = Vec::new();
            match from.read_until(0, &mut bytes) {
                Ok(count) if count > 0 => {}
                _ => return,
            }
            bytes.pop();
            let Ok(message) = serde_json::from_slice(&bytes) else {
                return;
            };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}
