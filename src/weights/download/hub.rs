//! HTTP: requests to a hub that speaks Hugging Face's API, redirects, tokens, and when to try again.

use super::error::{DownloadError, shown};
use super::{Event, Events};
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::{HeaderMap, Uri};

/// JSON that a hub sends (a listing, an index, a configuration) is read up to this size.
const LARGEST_JSON: u64 = 16 << 20;
const MOST_REDIRECTS: usize = 10;
/// However long a server asks to wait, this is the longest.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Where to ask, as whom, and how patiently.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// `https://huggingface.co`, or a mirror.
    pub endpoint: String,
    /// Sent to the endpoint, never to another host.
    pub token: Option<Token>,
    /// How long a connection may stay silent.
    pub timeout: Duration,
    /// How often a request that failed for a passing reason is repeated.
    pub retries: u32,
}

/// A secret: it can't be printed.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubOptions {
    /// From the environment: `HF_ENDPOINT`, `HF_HUB_DOWNLOAD_TIMEOUT` (seconds), and a token from the first of
    /// `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the file `HF_TOKEN_PATH`, `$HF_HOME/token`, `~/.cache/huggingface/token`.
    pub fn from_environment() -> Result<HubOptions, DownloadError> {
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let endpoint = endpoint.trim_end_matches('/').to_string();
        if Origin::of(&endpoint).is_none() {
            let message = format!("{:?} is not a http:// or https:// address", shown(&endpoint));
            return Err(DownloadError::Environment { variable: "HF_ENDPOINT".into(), message });
        }
        let timeout = match variable("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => 30,
            Some(text) => text.parse().ok().filter(|s| (1..=3600).contains(s)).ok_or(DownloadError::Environment {
                variable: "HF_HUB_DOWNLOAD_TIMEOUT".into(),
                message: format!("{:?} is not a number of seconds from 1 to 3600", shown(&text)),
            })?,
        };
        Ok(HubOptions { endpoint, token: find_token()?, timeout: Duration::from_secs(timeout), retries: 5 })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|v| v.trim().to_string()).filter(|v| !v.is_empty())
}

fn find_token() -> Result<Option<Token>, DownloadError> {
    let in_variable = |name: &str| variable(name).map(|token| (name.to_string(), token));
    let in_file = || {
        let cache = || variable("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::home_dir().map(|home| home.join(".cache"));
        let path = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| {
            let hf = variable("HF_HOME").map(PathBuf::from);
            hf.or_else(|| cache().or_else(home).map(|cache| cache.join("huggingface"))).map(|dir| dir.join("token"))
        })?;
        let token = std::fs::read_to_string(&path).ok()?.trim().to_string();
        (!token.is_empty()).then(|| (path.display().to_string(), token))
    };
    let found = in_variable("HF_TOKEN").or_else(|| in_variable("HUGGING_FACE_HUB_TOKEN")).or_else(in_file);
    match found {
        Some((place, token)) if !token.bytes().all(|b| b.is_ascii_graphic()) => {
            Err(DownloadError::Environment { variable: place, message: "what it holds is not a token".into() })
        }
        found => Ok(found.map(|(_, token)| Token(token))),
    }
}

/// Scheme, host and port: what a token is given to.
#[derive(Clone, Debug, PartialEq)]
struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &str) -> Option<Origin> {
        let uri: Uri = url.parse().ok()?;
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Origin { https, host: uri.host()?.to_ascii_lowercase(), port })
    }
}

/// A successful answer: 200 or 206; or 416, when a range was asked for.
pub(super) struct Answer {
    /// Where it came from, after redirects.
    pub url: String,
    pub response: ureq::http::Response<ureq::Body>,
    /// What the hub says about the file before it redirects to a CDN: `X-Linked-Etag` (its sha256).
    pub linked_etag: Option<String>,
    /// `X-Linked-Size`.
    pub linked_size: Option<u64>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }

    /// `ETag` without quotes.
    pub fn etag(&self) -> Option<String> {
        self.header("etag").map(unquoted)
    }

    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn unquoted(etag: &str) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_string()
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Method {
    Get,
    Head,
}

/// A connection to one endpoint.
pub(super) struct Hub {
    agent: ureq::Agent,
    options: HubOptions,
    origin: Origin,
}

impl Hub {
    pub fn new(options: &HubOptions) -> Result<Hub, DownloadError> {
        let origin = Origin::of(&options.endpoint)
            .ok_or_else(|| DownloadError::answer(&options.endpoint, "not a http:// or https:// address"))?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here: a CDN must not see the token, and the hub's own headers count.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A compressed body would have another length than the file.
            .accept_encoding("identity")
            .user_agent(concat!("failed-star/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(options.timeout))
            .timeout_connect(Some(options.timeout))
            .timeout_recv_response(Some(options.timeout))
            .timeout_per_read(Some(options.timeout))
            .build()
            .new_agent();
        Ok(Hub { agent, options: options.clone(), origin })
    }

    /// The listing of a repository at a revision, with sizes and checksums.
    pub fn listing_url(&self, repo: &str, revision: &str) -> String {
        format!("{}/api/models/{repo}/revision/{}?blobs=true", self.options.endpoint, encoded(revision))
    }

    /// The repository itself: tells whether it is the repository or the revision that does not exist.
    pub fn repo_url(&self, repo: &str) -> String {
        format!("{}/api/models/{repo}", self.options.endpoint)
    }

    pub fn file_url(&self, repo: &str, revision: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{}/{}", self.options.endpoint, encoded(revision), encoded(file))
    }

    pub fn retries(&self) -> Retries {
        Retries { failures: 0, allowed: self.options.retries }
    }

    /// One request, redirects followed; a body from byte `from` on, if the server can. No second try.
    pub fn request(&self, method: Method, url: &str, from: u64) -> Result<Answer, DownloadError> {
        let (mut url, mut linked_etag, mut linked_size) = (url.to_string(), None, None);
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send(method, &url, from)?;
            let headers = response.headers();
            linked_etag = linked_etag.or_else(|| header(headers, "x-linked-etag").map(unquoted));
            linked_size = linked_size.or_else(|| header(headers, "x-linked-size")?.parse().ok());
            let status = response.status().as_u16();
            let known = method == Method::Head && linked_etag.is_some() && linked_size.is_some();
            if matches!(status, 301 | 302 | 303 | 307 | 308) && !known {
                let location = header(headers, "location").unwrap_or_default();
                url = redirected(&url, location)?;
                continue;
            }
            // 416, no such range: whoever asked for one starts again.
            if status == 200 || status == 206 || known || (status == 416 && from > 0) {
                return Ok(Answer { url, response, linked_etag, linked_size });
            }
            return Err(self.refusal(&url, status, headers));
        }
        Err(DownloadError::answer(&url, format!("more than {MOST_REDIRECTS} redirects")))
    }

    fn send(&self, method: Method, url: &str, from: u64) -> Result<ureq::http::Response<ureq::Body>, DownloadError> {
        let mut request = match method {
            Method::Get => self.agent.get(url),
            Method::Head => self.agent.head(url),
        };
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        if let Some(token) = &self.options.token
            && Origin::of(url).as_ref() == Some(&self.origin)
        {
            request = request.header("Authorization", format!("Bearer {}", token.0));
        }
        request.call().map_err(|error| match error {
            ureq::Error::Timeout(_) => DownloadError::connection(
                url,
                format!("no answer within {} s (HF_HUB_DOWNLOAD_TIMEOUT sets it)", self.options.timeout.as_secs()),
            ),
            ureq::Error::Io(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_) => DownloadError::connection(url, error),
            error => DownloadError::answer(url, shown(&error.to_string())),
        })
    }

    /// The error that a status means. `X-Error-Code` and `X-Error-Message` are the hub's own account of it.
    fn refusal(&self, url: &str, status: u16, headers: &HeaderMap) -> DownloadError {
        let code = header(headers, "x-error-code").unwrap_or_default();
        let said = header(headers, "x-error-message").map(shown);
        let url = shown(url);
        match status {
            401 | 403 if code == "RepoNotFound" && self.options.token.is_some() => DownloadError::NotFound(format!(
                "{url}: the hub says that this repository does not exist for this token"
            )),
            401 | 403 => {
                let hint = match (&self.options.token, code) {
                    (Some(_), _) => {
                        "The token that was sent is not accepted: is it valid, and have its owner accepted \
                                     the model's terms on the repository's page?"
                    }
                    (None, _) => {
                        "The repository is gated or private (or its name is misspelt). Accept its terms on its page, \
                                  make a read token at https://huggingface.co/settings/tokens, and put it into HF_TOKEN or \
                                  into ~/.cache/huggingface/token"
                    }
                };
                let message = said.map(|said| format!(" ({said})")).unwrap_or_default();
                DownloadError::Refused { url, status, message, hint: hint.into() }
            }
            404 => DownloadError::NotFound(match code {
                "RepoNotFound" => format!("{url}: no such repository (404)"),
                "RevisionNotFound" => format!("{url}: no such revision (404)"),
                _ => format!("{url}: not found (404)"),
            }),
            408 | 429 | 500..=599 => {
                let retry_after = header(headers, "retry-after").and_then(|s| s.trim().parse().ok());
                DownloadError::Busy { url, status, retry_after: retry_after.map(Duration::from_secs) }
            }
            _ => DownloadError::answer(&url, format!("the server answers with status {status}")),
        }
    }

    /// A small file, whole, with as many tries as it takes.
    pub fn json(&self, url: &str, events: Events) -> Result<Vec<u8>, DownloadError> {
        use std::io::Read;
        let mut retries = self.retries();
        loop {
            let result = self.request(Method::Get, url, 0).and_then(|mut answer| {
                let mut body = Vec::new();
                let mut reader = answer.response.body_mut().as_reader().take(LARGEST_JSON + 1);
                reader.read_to_end(&mut body).map_err(|error| DownloadError::connection(url, error))?;
                match body.len() as u64 > LARGEST_JSON {
                    true => Err(DownloadError::answer(url, format!("JSON of more than {LARGEST_JSON} bytes"))),
                    false => Ok(body),
                }
            });
            match result {
                Ok(body) => return Ok(body),
                Err(error) => retries.wait(error, events)?,
            }
        }
    }
}

/// Where a `Location` points, seen from `url`.
fn redirected(url: &str, location: &str) -> Result<String, DownloadError> {
    let bad = || DownloadError::answer(url, format!("redirect to {:?}, which is not followed", shown(location)));
    let from = Origin::of(url).ok_or_else(bad)?;
    let scheme = if from.https { "https" } else { "http" };
    let target = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}:{}{location}", from.host, from.port)
    } else {
        location.to_string()
    };
    match Origin::of(&target) {
        // From https to http, anyone on the way could change the file, and see who loads it.
        Some(to) if to.https || !from.https => Ok(target),
        _ => Err(bad()),
    }
}

/// Percent-encodes all but unreserved characters: a revision such as `refs/pr/1` is one path segment.
fn encoded(segment: &str) -> String {
    segment.bytes().fold(String::new(), |text, b| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text + &(b as char).to_string(),
        _ => text + &format!("%{b:02X}"),
    })
}

/// Counts failures in a row.
pub(super) struct Retries {
    failures: u32,
    allowed: u32,
}

impl Retries {
    /// After a failure: waits and returns, or gives the error back if another try would not help or was the last.
    pub fn wait(&mut self, error: DownloadError, events: Events) -> Result<(), DownloadError> {
        if !error.is_transient() {
            return Err(error);
        }
        if self.failures == self.allowed {
            return Err(DownloadError::GaveUp { tries: self.failures + 1, last: Box::new(error) });
        }
        let backoff = Duration::from_millis(500 << self.failures.min(6));
        self.failures += 1;
        let wait = match &error {
            DownloadError::Busy { retry_after: Some(asked), .. } => (*asked).min(LONGEST_WAIT),
            _ => backoff,
        };
        events(Event::Retry { error: &error, wait });
        std::thread::sleep(wait);
        Ok(())
    }

    /// A connection that brought something new was no failure.
    pub fn progress(&mut self) {
        self.failures = 0;
    }
}
