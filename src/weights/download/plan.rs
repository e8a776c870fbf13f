//! From a reference to the list of files: which commit, which files, how large, with which content.

use super::error::{DownloadError, shown};
use super::hub::{Hub, HubOptions, Method};
use super::{Checksum, Events, Reference, RemoteFile, is_hex, transfer};
use crate::weights::Config;
use crate::weights::known_models::is_plain;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The largest published models have some two hundred.
const MOST_SHARDS: usize = 1000;

/// Everything that a pull will store, known before it starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was asked for.
    pub reference: Reference,
    /// The commit (40 hexadecimal digits) that all files are taken from.
    pub commit: String,
    /// The files, weights last.
    pub files: Vec<RemoteFile>,
}

/// The hub's answer, of which only this is read.
#[derive(Deserialize)]
struct Listing {
    sha: Option<String>,
    siblings: Option<Vec<Sibling>>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Plan {
    /// Asks the hub. Reads the configuration too, so that a model that `fs` can't run is refused before its
    /// weights are downloaded.
    pub fn new(options: &HubOptions, reference: Reference, events: Events) -> Result<Plan, DownloadError> {
        let hub = &Hub::new(options)?;
        let (url, listing) = read_listing(hub, &reference, events)?;
        let invalid = |message: String| DownloadError::answer(&url, message);
        let commit = listing.sha.unwrap_or_default();
        if !is_hex(&commit, 40) {
            let found = shown(&commit);
            return Err(invalid(format!(
                "the listing has no commit: `sha` is {found:?}, expected 40 hexadecimal digits"
            )));
        }
        let siblings = listing.siblings.ok_or_else(|| invalid("the listing has no `siblings` (files)".into()))?;
        let mut listed = BTreeMap::new();
        for sibling in siblings {
            if let Some(twice) = listed.insert(sibling.rfilename.clone(), sibling) {
                return Err(invalid(format!("the listing names {:?} twice", shown(&twice.rfilename))));
            }
        }
        let lookup = Lookup { hub, reference: &reference, commit: &commit, listed: &listed };

        let mut files = Vec::new();
        for name in REQUIRED {
            files.push(lookup.file(name, events)?);
        }
        let config = lookup.content(&files[0], events)?;
        Config::from_json(&config, &format!("config.json of {}", reference.repo))?;
        for name in OPTIONAL.into_iter().filter(|name| listed.contains_key(*name)) {
            files.push(lookup.file(name, events)?);
        }
        if listed.contains_key(SINGLE) {
            files.push(lookup.file(SINGLE, events)?);
        } else if listed.contains_key(INDEX) {
            let index = lookup.file(INDEX, events)?;
            let shards = shard_names(&lookup.content(&index, events)?)
                .map_err(|message| DownloadError::answer(&hub.file_url(&reference.repo, &commit, INDEX), message))?;
            files.push(index);
            for shard in shards {
                files.push(lookup.file(&shard, events)?);
            }
        } else {
            let text = format!("{} at {commit}: neither {SINGLE} nor {INDEX}: ", reference.repo);
            let gguf = listed.keys().any(|name| name.ends_with(".gguf"));
            let hint = if gguf {
                "it has GGUF files only; pull the original model"
            } else {
                "it has no weights that fs reads"
            };
            return Err(DownloadError::NotFound(text + hint));
        }
        if files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.size)).is_none() {
            return Err(invalid("the listed sizes add up to more than 2^64 bytes".into()));
        }
        Ok(Plan { reference, commit, files })
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

fn read_listing(hub: &Hub, reference: &Reference, events: Events) -> Result<(String, Listing), DownloadError> {
    let (repo, revision) = (&reference.repo, reference.revision.as_deref().unwrap_or("main"));
    let url = hub.listing_url(repo, revision);
    let json = hub.json(&url, events).map_err(|error| match error {
        // Which of the two is it? The repository without a revision tells.
        DownloadError::NotFound(text) if hub.request(Method::Get, &hub.repo_url(repo), 0).is_ok() => {
            DownloadError::NotFound(format!("{repo} has no revision {:?} ({text})", shown(revision)))
        }
        DownloadError::NotFound(text) => DownloadError::NotFound(format!("there is no repository {repo} ({text})")),
        error => error,
    })?;
    let listing = serde_json::from_slice(&json)
        .map_err(|error| DownloadError::answer(&url, format!("the listing of files is not valid: {error}")))?;
    Ok((url, listing))
}

struct Lookup<'a> {
    hub: &'a Hub,
    reference: &'a Reference,
    commit: &'a str,
    listed: &'a BTreeMap<String, Sibling>,
}

impl Lookup<'_> {
    /// Size and checksum of a file: as listed, otherwise as its own headers say.
    fn file(&self, name: &str, events: Events) -> Result<RemoteFile, DownloadError> {
        let (repo, commit) = (&self.reference.repo, self.commit);
        let sibling = self.listed.get(name).ok_or_else(|| {
            DownloadError::NotFound(format!(
                "{repo} at {commit} has no {name}: not a model in the format that fs reads"
            ))
        })?;
        let url = self.hub.file_url(repo, commit, name);
        let lfs_size = sibling.lfs.as_ref().and_then(|lfs| lfs.size);
        if let (Some(a), Some(b)) = (lfs_size, sibling.size)
            && a != b
        {
            return Err(DownloadError::answer(&url, format!("listed with two sizes, {a} and {b} bytes")));
        }
        let size = lfs_size.or(sibling.size);
        // The blob of an LFS file is the pointer to its content, not the content.
        let checksum = match &sibling.lfs {
            Some(lfs) => lfs.sha256.as_deref().and_then(Checksum::sha256),
            None => sibling.blob_id.as_deref().and_then(Checksum::git_blob),
        };
        let (size, checksum) = match (size, checksum) {
            (Some(size), Some(checksum)) => (size, checksum),
            (size, checksum) => {
                let mut retries = self.hub.retries();
                let head = loop {
                    match self.hub.request(Method::Head, &url, 0) {
                        Ok(head) => break head,
                        Err(error) => retries.wait(error, events)?,
                    }
                };
                let found = head.linked_size.or_else(|| head.content_length());
                let size =
                    size.or(found).ok_or_else(|| DownloadError::answer(&url, "the server does not tell its size"))?;
                let etag = head.linked_etag.clone().or_else(|| head.etag()).unwrap_or_default();
                let found = Checksum::sha256(&etag).or_else(|| Checksum::git_blob(&etag));
                let missing = || DownloadError::answer(&url, "the server gives no checksum for this file");
                (size, checksum.or(found).ok_or_else(missing)?)
            }
        };
        if size == 0 {
            return Err(DownloadError::answer(&url, "listed with 0 bytes"));
        }
        Ok(RemoteFile { name: name.to_string(), size, checksum })
    }

    /// A small file's content, needed for planning.
    fn content(&self, file: &RemoteFile, events: Events) -> Result<Vec<u8>, DownloadError> {
        let url = self.hub.file_url(&self.reference.repo, self.commit, &file.name);
        let content = self.hub.json(&url, events)?;
        if transfer::is_content(&content, file) {
            return Ok(content);
        }
        let (found, size, checksum) = (content.len(), file.size, &file.checksum);
        Err(DownloadError::answer(&url, format!("{found} bytes, not the {size} listed with checksum {checksum}")))
    }
}

/// The shards that an index names, in order.
fn shard_names(index: &[u8]) -> Result<BTreeSet<String>, String> {
    let index: Index = serde_json::from_slice(index).map_err(|error| format!("not a valid index: {error}"))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    if shards.is_empty() || shards.len() > MOST_SHARDS {
        return Err(format!("names {} shards, expected 1 to {MOST_SHARDS}", shards.len()));
    }
    match shards.iter().find(|name| !is_plain(name) || !name.ends_with(".safetensors")) {
        Some(name) => Err(format!("names the shard {:?}, which is not a plain NAME.safetensors", shown(name))),
        None => Ok(shards),
    }
}
