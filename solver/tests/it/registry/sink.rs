//! A registry that takes pushes, as strictly as the protocol allows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use ashlar_llb::digest::BlobDigest;
use serde_json::Value;

use super::fake::{Reply, Seen};

/// What was pushed, and what is being pushed.
#[derive(Debug, Default)]
pub(crate) struct Sink(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: BTreeMap<String, Vec<u8>>,
    /// Repository and digest.
    blobs: BTreeSet<(String, String)>,
    /// Repository, and tag or digest.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    begun: usize,
}

fn error(status: u16, code: &str) -> Reply {
    let text = format!(r#"{{"errors":[{{"code":"{code}","message":"{code}"}}]}}"#);
    Reply::new(status).body(text)
}

impl Sink {
    /// Puts a blob into a repository.
    pub(crate) fn put(&self, repository: &str, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap();
        let digest = BlobDigest::of(bytes).to_string();
        state.bytes.insert(digest.clone(), bytes.to_vec());
        state.blobs.insert((repository.to_owned(), digest));
    }

    /// The bytes of a blob of a repository.
    pub(crate) fn blob(&self, repository: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let state = self.0.lock().unwrap();
        let digest = BlobDigest::of(bytes).to_string();
        let there = state
            .blobs
            .contains(&(repository.to_owned(), digest.clone()));
        there.then(|| state.bytes[&digest].clone())
    }

    /// The digest that a tag leads to.
    pub(crate) fn tag(&self, repository: &str, tag: &str) -> Option<BlobDigest> {
        let state = self.0.lock().unwrap();
        let found = state
            .manifests
            .get(&(repository.to_owned(), tag.to_owned()));
        found.map(|(_, bytes)| BlobDigest::of(bytes))
    }

    /// Uploads that were begun and neither completed nor given up.
    pub(crate) fn open(&self) -> usize {
        self.0.lock().unwrap().uploads.len()
    }

    /// Forgets what is being pushed.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap().uploads.clear();
    }

    /// What an honest registry answers.
    pub(crate) fn reply(&self, seen: &Seen) -> Reply {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let path = path.strip_prefix("/v2/").unwrap_or(path);
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| {
                (
                    key.to_owned(),
                    value.replace("%3A", ":").replace("%2F", "/"),
                )
            })
            .collect();
        let mut state = self.0.lock().unwrap();
        if let Some((repository, name)) = path.split_once("/manifests/") {
            return state.manifest(seen, repository, name);
        }
        if let Some((repository, upload)) = path.split_once("/blobs/uploads/") {
            return state.upload(seen, repository, upload, &query);
        }
        let Some((repository, digest)) = path.split_once("/blobs/") else {
            return error(404, "NAME_UNKNOWN");
        };
        match state
            .blobs
            .contains(&(repository.to_owned(), digest.to_owned()))
        {
            true => Reply::new(200).body(state.bytes[digest].clone()),
            false => error(404, "BLOB_UNKNOWN"),
        }
    }
}

impl State {
    fn upload(
        &mut self,
        seen: &Seen,
        repository: &str,
        upload: &str,
        query: &BTreeMap<String, String>,
    ) -> Reply {
        if seen.method == "POST" {
            let mounted = query.get("mount").zip(query.get("from"));
            if let Some((digest, from)) = mounted
                && self.blobs.contains(&(from.clone(), digest.clone()))
            {
                self.blobs.insert((repository.to_owned(), digest.clone()));
                return Reply::new(201).header("location", "/nowhere");
            }
            self.begun += 1;
            let id = format!("upload-{}", self.begun);
            self.uploads.insert(id.clone(), Vec::new());
            return Self::state(202, repository, &id, 0);
        }
        let Some(bytes) = self.uploads.get_mut(upload) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        match &seen.method[..] {
            "GET" => Self::state(204, repository, upload, bytes.len()),
            "DELETE" => {
                self.uploads.remove(upload);
                Reply::new(204)
            }
            "PATCH" => {
                let range = seen.header("content-range").unwrap();
                let (from, to) = range.split_once('-').unwrap();
                let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                let told: usize = seen.header("content-length").unwrap().parse().unwrap();
                assert_eq!(to + 1 - from, told);
                if from != bytes.len() {
                    return error(416, "RANGE_INVALID");
                }
                bytes.extend_from_slice(&seen.body);
                let length = bytes.len();
                Self::state(202, repository, upload, length)
            }
            "PUT" => {
                bytes.extend_from_slice(&seen.body);
                let digest = BlobDigest::of(&bytes[..]).to_string();
                if query.get("digest") != Some(&digest) {
                    return error(400, "DIGEST_INVALID");
                }
                let bytes = self.uploads.remove(upload).unwrap();
                self.bytes.insert(digest.clone(), bytes);
                self.blobs.insert((repository.to_owned(), digest.clone()));
                Reply::new(201).header("docker-content-digest", digest)
            }
            _ => error(405, "UNSUPPORTED"),
        }
    }

    fn state(status: u16, repository: &str, upload: &str, length: usize) -> Reply {
        let location = format!("/v2/{repository}/blobs/uploads/{upload}?state=s{length}");
        Reply::new(status)
            .header("location", location)
            .header("range", format!("0-{}", length.saturating_sub(1)))
    }

    fn manifest(&mut self, seen: &Seen, repository: &str, name: &str) -> Reply {
        let key = (repository.to_owned(), name.to_owned());
        if seen.method != "PUT" {
            let Some((kind, bytes)) = self.manifests.get(&key) else {
                return error(404, "MANIFEST_UNKNOWN");
            };
            return Reply::new(200)
                .header("content-type", kind)
                .header("docker-content-digest", BlobDigest::of(bytes).to_string())
                .body(bytes.clone());
        }
        let document: Value = serde_json::from_slice(&seen.body).unwrap();
        let digests = |key: &str| -> Vec<String> {
            let all = document[key].as_array().cloned().unwrap_or_default();
            let all = all
                .iter()
                .chain(document.get("config").filter(|_| key == "layers"));
            all.map(|one| one["digest"].as_str().unwrap().to_owned())
                .collect()
        };
        let here = |digest: &String| (repository.to_owned(), digest.clone());
        let blobs = digests("layers")
            .iter()
            .all(|d| self.blobs.contains(&here(d)));
        let children = digests("manifests");
        let manifests = children
            .iter()
            .all(|d| self.manifests.contains_key(&here(d)));
        if !blobs || !manifests {
            return error(400, "MANIFEST_BLOB_UNKNOWN");
        }
        let digest = BlobDigest::of(&seen.body).to_string();
        let kind = seen.header("content-type").unwrap().to_owned();
        assert_eq!(document["mediaType"].as_str(), Some(&kind[..]));
        if name.starts_with("sha256:") && name != digest {
            return error(400, "DIGEST_INVALID");
        }
        for name in [name, &digest] {
            let key = (repository.to_owned(), name.to_owned());
            self.manifests
                .insert(key, (kind.clone(), seen.body.clone()));
        }
        Reply::new(201).header("docker-content-digest", digest)
    }
}
