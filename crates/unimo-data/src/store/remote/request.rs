//! Requests with a bounded total time. They are retried while there is time; then the object counts as unavailable.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::fmt::rfc2822::DateTimeParser;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, ObjectMeta, ObjectStore};
use tokio::time::{Instant, sleep, timeout};

use crate::error::{ReadError, ReadKind};
use crate::store::RemoteConfig;

/// The first and the longest pause before a retry.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Seconds between two messages about waiting.
const QUIET: u64 = 10;

/// Time limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    first_byte: Duration,
    stall: Duration,
    attempt: Duration,
    total: Duration,
    retries: u32,
}

impl Limits {
    pub(super) fn of(config: &RemoteConfig) -> Self {
        Self {
            first_byte: Duration::from_secs_f64(config.first_byte_s),
            stall: Duration::from_secs_f64(config.stall_s),
            attempt: Duration::from_secs_f64(config.timeout_s),
            total: Duration::from_secs_f64(config.total_s),
            retries: config.retries,
        }
    }
}

/// What is known of an object since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    pub(super) size: u64,
    /// The server's mark or the time of change; empty if the server gives neither.
    pub(super) version: String,
}

impl About {
    fn of(meta: &ObjectMeta) -> Self {
        let changed = meta.last_modified.timestamp();
        let changed = (changed != 0).then(|| format!("changed {changed}"));
        let version = meta.e_tag.clone().or(changed);
        Self {
            size: meta.size,
            version: version.unwrap_or_default(),
        }
    }
}

/// An object at its location.
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) limits: Limits,
}

/// A failed attempt.
struct Failed {
    error: ReadError,
    /// Whether retrying would give the same.
    for_good: bool,
    /// Pause that the server asks for.
    after: Option<Duration>,
}

impl Failed {
    fn passing(reason: impl Into<String>) -> Self {
        Self {
            error: ReadError::unavailable(reason),
            for_good: false,
            after: None,
        }
    }
}

impl From<object_store::Error> for Failed {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error;
        let refused = refusal(&error);
        let kind = match &error {
            // To clients that may not list it, a store does not say what is missing.
            Error::NotFound { .. } | Error::PermissionDenied { .. } => ReadKind::Missing,
            _ => ReadKind::Unavailable,
        };
        let for_good = match &error {
            Error::NotFound { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::InvalidPath { .. }
            | Error::NotImplemented { .. }
            | Error::UnknownConfigurationKey { .. } => true,
            _ => refused.is_some_and(|refused| !refused.may_pass()),
        };
        Self {
            error: ReadError {
                kind,
                reason: match refused {
                    Some(refused) => refused.to_string(),
                    None => chain(&error),
                },
            },
            for_good,
            after: refused.and_then(|refused| refused.after),
        }
    }
}

impl Origin {
    pub(super) async fn about(&self) -> Result<About, ReadError> {
        let options = || GetOptions::new().with_head(true);
        self.again(false, || async {
            let found = self.store.get_opts(&self.path, options());
            let found = self.begins(found).await?;
            Ok(About::of(&found.meta))
        })
        .await
    }

    /// A range of the bytes of the opened object.
    pub(super) async fn bytes(&self, range: Range<u64>, about: &About) -> Result<Bytes, ReadError> {
        let length = range.end - range.start;
        let read = self.again(true, || async {
            let options = GetOptions::new().with_range(Some(range.clone()));
            let found = self.store.get_opts(&self.path, options);
            let found = self.begins(found).await?;
            let now = About::of(&found.meta);
            let marked = !now.version.is_empty() && !about.version.is_empty();
            if now.size != about.size || (marked && now.version != about.version) {
                return Err(Failed::passing(format!(
                    "the object changed: it has {} bytes ({}), it had {} ({})",
                    now.size, now.version, about.size, about.version
                )));
            }
            let mut pieces = found.into_stream();
            let mut bytes = Vec::with_capacity(length as usize);
            while let Some(piece) = self.goes_on(pieces.try_next()).await? {
                if (bytes.len() + piece.len()) as u64 > length {
                    let reason = "the body is longer than what was asked for";
                    return Err(Failed::passing(reason));
                }
                bytes.extend_from_slice(&piece);
            }
            if bytes.len() as u64 != length {
                let reason = format!("the body ends after {} of {length} bytes", bytes.len());
                return Err(Failed::passing(reason));
            }
            Ok(Bytes::from(bytes))
        });
        // It existed when it was opened.
        read.await.map_err(ReadError::of_opened)
    }

    /// Waits for the first byte of an answer.
    async fn begins<T>(
        &self,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failed> {
        let wait = self.limits.first_byte;
        match timeout(wait, answer).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failed::passing(format!("no answer within {wait:?}"))),
        }
    }

    /// Waits for more of an answer.
    async fn goes_on<T>(
        &self,
        more: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failed> {
        let wait = self.limits.stall;
        match timeout(wait, more).await {
            Ok(more) => Ok(more?),
            Err(_) => Err(Failed::passing(format!("the answer stopped for {wait:?}"))),
        }
    }

    /// Retries while there is time. An object that was opened before is requested again even if it is said not to exist.
    async fn again<T, F: Future<Output = Result<T, Failed>>>(
        &self,
        opened: bool,
        work: impl Fn() -> F,
    ) -> Result<T, ReadError> {
        let began = Instant::now();
        let deadline = began + self.limits.total;
        let (mut pause, longest) = PAUSES;
        let mut tried = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let most = self.limits.attempt.min(left);
            let failed = match timeout(most, work()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failed)) => failed,
                Err(_) => Failed::passing(format!("no whole answer within {most:?}")),
            };
            tried += 1;
            let wait = pause.max(failed.after.unwrap_or_default());
            let for_good = failed.for_good && !(opened && failed.error.kind == ReadKind::Missing);
            let too_late = Instant::now() + wait >= deadline;
            if for_good || tried > self.limits.retries || too_late {
                return Err(failed.error.told(|reason| {
                    let mut text = reason.to_owned();
                    if let Some(after) = failed.after.filter(|_| too_late) {
                        text += &format!(", and asks to come back in {after:?}");
                    }
                    if tried > 1 {
                        let all = began.elapsed().as_secs_f64();
                        text += &format!(" (tried {tried} times in {all:.1} s)");
                    }
                    text
                }));
            }
            self.say(&failed.error.reason, deadline);
            sleep(wait).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Reports the wait, now and then.
    fn say(&self, reason: &str, deadline: Instant) {
        static SAID: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let said = SAID.load(Ordering::Relaxed);
        if now.abs_diff(said) < QUIET {
            return;
        }
        SAID.store(now, Ordering::Relaxed);
        let left = deadline.saturating_duration_since(Instant::now());
        eprintln!(
            "unimo: {}: {reason}; trying again for up to {:.0} s",
            self.name,
            left.as_secs_f64()
        );
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = next.source();
    }
    text
}

/// An error answer, with what `object_store` does not pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    status: u16,
    after: Option<Duration>,
}

impl Refusal {
    /// Whether a later answer may differ.
    fn may_pass(self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500..)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answers with status {}", self.status)
    }
}

impl std::error::Error for Refusal {}

/// The refusal that caused an error.
fn refusal(error: &object_store::Error) -> Option<Refusal> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(*refusal);
        }
        cause = error.source();
    }
    None
}

/// Connects as usual, and records when answers ask for a retry.
#[derive(Debug)]
pub(super) struct Noticing;

impl HttpConnector for Noticing {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(NoticingClient(inner)))
    }
}

#[derive(Debug)]
struct NoticingClient(HttpClient);

type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for NoticingClient {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Answer<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answer = self.0.execute(request).await?;
            let status = answer.status().as_u16();
            // `object_store` distinguishes those that have a meaning of their own.
            if status < 400 || [401, 403, 404, 409, 412].contains(&status) {
                return Ok(answer);
            }
            let after = answer.headers().get("retry-after");
            let after = after.and_then(|after| after.to_str().ok());
            let after = after.and_then(|after| come_back(after, SystemTime::now()));
            let refusal = Refusal { status, after };
            Err(HttpError::new(HttpErrorKind::Unknown, refusal))
        })
    }
}

/// Duration of a `Retry-After` from now (RFC 9110, 10.2.3): seconds, or a date.
fn come_back(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    // A wrong day of the week is accepted if the date is right.
    let dates = DateTimeParser::new().relaxed_weekday(true);
    let at = SystemTime::try_from(dates.parse_timestamp(text).ok()?).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_back() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let of = |text| come_back(text, now).map(|wait| wait.as_secs());
        assert_eq!(of("120"), Some(120));
        assert_eq!(of(" 0 "), Some(0));
        // The date in RFC 9110 is second 784111777.
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(of("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(of("Mon, 06 Feb 1995 08:49:37 GMT"), Some(92 * 86_400));
        assert_eq!(of("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        for text in ["", "soon", "-1", "Sun, 06 Foo 1994 08:49:37 GMT", "1 2 3"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
