//! A small HTTP server on loopback that speaks Hugging Face's API: it lists and serves a model, keeps a log of every
//! request, and misbehaves on demand.

use serde_json::{Value, json};
use sha1::Digest;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A file of the served model.
#[derive(Clone)]
pub struct File {
    pub name: String,
    pub content: Vec<u8>,
}

/// How one answer deviates.
#[derive(Clone)]
pub enum Fault {
    /// This status, with these headers and no file.
    Status(u16, &'static str),
    /// The connection is closed after this many bytes of the body.
    DropAfter(usize),
    /// After this many bytes of the body, silence.
    StallAfter(usize),
    /// Silence instead of an answer.
    Stall,
    /// The whole file with status 200, whatever range was asked for.
    IgnoreRange,
    /// A part, but from 1 byte further on than was asked for.
    WrongRange,
    /// `Content-Length` is this much larger (smaller if negative) than the file.
    Announce(i64),
    /// No `Content-Length`, and this many bytes after the end.
    Append(usize),
    /// This byte of the body has a bit flipped.
    Corrupt(usize),
    /// A redirect: `Location` is this text and the path.
    Redirect(String),
    /// The body, with headers that match it.
    Body(Vec<u8>),
    /// This `ETag`.
    Etag(&'static str),
}

/// One request as it was received.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// First byte of the range, 0 without one.
    pub from: usize,
    pub authorization: Option<String>,
    /// Bytes of the body that were sent.
    pub sent: usize,
}

type Edit = dyn Fn(&mut Value) + Send + Sync;

struct State {
    files: Mutex<Vec<File>>,
    commit: Mutex<String>,
    /// Changes the listing before it is sent.
    edit: Mutex<Option<Box<Edit>>>,
    /// End of the path, fault, how many times.
    faults: Mutex<Vec<(String, Fault, usize)>>,
    log: Mutex<Vec<Request>>,
}

/// The server; it ends with the test process.
#[derive(Clone)]
pub struct Hub {
    state: Arc<State>,
    pub url: String,
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const REPO: &str = "Qwen/Qwen3-0.6B";

impl Hub {
    pub fn serving(files: Vec<File>) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            files: Mutex::new(files),
            commit: Mutex::new(COMMIT.to_string()),
            edit: Mutex::new(None),
            faults: Mutex::default(),
            log: Mutex::default(),
        });
        let hub = Hub { state, url };
        let server = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // A client that goes away in the middle is part of the tests.
                std::thread::spawn(move || drop(server.answer(stream)));
            }
        });
        hub
    }

    /// The next `times` requests whose path ends in `path` get `fault`.
    pub fn fault(&self, path: &str, fault: Fault, times: usize) -> &Hub {
        self.state.faults.lock().unwrap().push((path.to_string(), fault, times));
        self
    }

    pub fn no_faults(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    pub fn edit_listing(&self, edit: impl Fn(&mut Value) + Send + Sync + 'static) {
        *self.state.edit.lock().unwrap() = Some(Box::new(edit));
    }

    pub fn publish(&self, commit: &str, files: Vec<File>) {
        *self.state.commit.lock().unwrap() = commit.to_string();
        *self.state.files.lock().unwrap() = files;
    }

    /// What was asked for since the last call.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.log.lock().unwrap())
    }

    /// The requests for `file` since the last call of `take_log`.
    pub fn requests(&self, file: &str) -> Vec<Request> {
        self.state.log.lock().unwrap().iter().filter(|r| r.path.ends_with(file)).cloned().collect()
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut request = Request { method: method.into(), path: path.into(), from: 0, authorization: None, sent: 0 };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => request.from = value.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap(),
                "authorization" => request.authorization = Some(value.to_string()),
                _ => {}
            }
        }
        let index = {
            let mut log = self.state.log.lock().unwrap();
            log.push(request.clone());
            log.len() - 1
        };
        let sent = self.respond(&request, &mut stream);
        if let Some(logged) = self.state.log.lock().unwrap().get_mut(index) {
            logged.sent = sent;
        }
        stream.shutdown(Shutdown::Write)
    }

    fn next_fault(&self, path: &str) -> Option<Fault> {
        let mut faults = self.state.faults.lock().unwrap();
        let (_, fault, times) = faults.iter_mut().find(|(end, _, times)| path.ends_with(end.as_str()) && *times > 0)?;
        *times -= 1;
        Some(fault.clone())
    }

    /// Answers; returns how many bytes of a body were sent.
    fn respond(&self, request: &Request, stream: &mut TcpStream) -> usize {
        let fault = self.next_fault(&request.path);
        let silence = || std::thread::sleep(Duration::from_secs(20));
        let mut plain = |status: u16, headers: &str, body: &[u8]| {
            let head =
                format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
            let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            if sent.is_ok() { body.len() } else { 0 }
        };
        match &fault {
            Some(Fault::Status(status, headers)) => return plain(*status, headers, b"no"),
            Some(Fault::Redirect(to)) => {
                return plain(302, &format!("location: {to}{}?signature=abc\r\n", request.path), b"");
            }
            Some(Fault::Body(body)) => return plain(200, "", body),
            Some(Fault::Stall) => {
                silence();
                return 0;
            }
            _ => {}
        }
        let path = request.path.split('?').next().unwrap_or_default().trim_start_matches("/moved");
        let commit = self.state.commit.lock().unwrap().clone();
        if let Some(repo) = path.strip_prefix("/api/models/") {
            return match repo.strip_prefix(REPO) {
                Some("") => plain(200, "", b"{}"),
                Some("/revision/main" | "/revision/v1") => plain(200, "", self.listing(&commit).to_string().as_bytes()),
                _ => plain(404, "", b"{}"),
            };
        }
        let prefix = format!("/{REPO}/resolve/{commit}/");
        let files = self.state.files.lock().unwrap().clone();
        let file = path.strip_prefix(&prefix).and_then(|name| files.into_iter().find(|file| file.name == name));
        let Some(file) = file else { return plain(404, "", b"no such file") };
        self.send(request, &file, fault, stream).unwrap_or(0)
    }

    fn send(
        &self,
        request: &Request,
        file: &File,
        fault: Option<Fault>,
        out: &mut TcpStream,
    ) -> std::io::Result<usize> {
        let ranges = !matches!(fault, Some(Fault::IgnoreRange)) && request.from > 0;
        let from = if ranges { request.from.min(file.content.len()) } else { 0 };
        let mut body = file.content[from..].to_vec();
        let (size, mut length) = (file.content.len(), Some(body.len() as i64));
        let shown = from + usize::from(matches!(fault, Some(Fault::WrongRange)));
        match fault {
            Some(Fault::Announce(more)) => length = length.map(|length| length + more),
            Some(Fault::Corrupt(at)) => body[at] ^= 1,
            Some(Fault::Append(bytes)) => {
                body.resize(body.len() + bytes, 7);
                length = None;
            }
            _ => {}
        }
        let etag = if let Some(Fault::Etag(etag)) = fault { etag } else { "same" };
        let mut head =
            format!("HTTP/1.1 {} X\r\nconnection: close\r\netag: \"{etag}\"\r\n", if ranges { 206 } else { 200 });
        if let Some(length) = length {
            head += &format!("content-length: {length}\r\n");
        }
        if ranges {
            head += &format!("content-range: bytes {shown}-{}/{size}\r\n", size - 1);
        }
        if request.method == "HEAD" {
            let checksum = file.checksum();
            head += &format!("x-linked-etag: \"{checksum}\"\r\nx-linked-size: {size}\r\n");
            body.clear();
        }
        out.write_all(format!("{head}\r\n").as_bytes())?;
        let end = match fault {
            Some(Fault::DropAfter(bytes) | Fault::StallAfter(bytes)) => bytes.min(body.len()),
            _ => body.len(),
        };
        out.write_all(&body[..end])?;
        if let Some(Fault::StallAfter(_)) = fault {
            std::thread::sleep(Duration::from_secs(20));
        }
        Ok(end)
    }

    fn listing(&self, commit: &str) -> Value {
        let files = self.state.files.lock().unwrap();
        let siblings: Vec<Value> = files
            .iter()
            .map(|file| {
                let (name, size) = (&file.name, file.content.len());
                match name.ends_with(".safetensors") {
                    true => json!({ "rfilename": name, "size": size, "blobId": "f".repeat(40),
                        "lfs": { "sha256": file.checksum(), "size": size, "pointerSize": 135 } }),
                    false => json!({ "rfilename": name, "size": size, "blobId": file.checksum() }),
                }
            })
            .collect();
        let mut listing = json!({ "id": REPO, "sha": commit, "siblings": siblings });
        if let Some(edit) = &*self.state.edit.lock().unwrap() {
            edit(&mut listing);
        }
        listing
    }
}

impl File {
    pub fn new(name: &str, content: impl Into<Vec<u8>>) -> File {
        File { name: name.to_string(), content: content.into() }
    }

    /// As the hub names the content: sha256 of a large file, Git's blob of a small one.
    fn checksum(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        match self.name.ends_with(".safetensors") {
            true => hex(&sha2::Sha256::digest(&self.content)),
            false => {
                let blob = [format!("blob {}\0", self.content.len()).as_bytes(), &self.content].concat();
                hex(&sha1::Sha1::digest(blob))
            }
        }
    }
}
