//! `local://`: a directory that the caller lends.

use std::sync::Arc;

use ashlar_llb::pb;
use async_trait::async_trait;

use super::{Source, SourceError};
use crate::cancel::Cancel;
use crate::error::{Blame, Fault, OperationError};
use crate::id::CacheDigest;
use crate::operation::{CacheMap, Context};
use crate::ops::Engine;
use crate::ops::engine::unblock;
use crate::ops::previous::CopyName;
use crate::provenance::ResolvedSource;
use crate::refs::{Lazy, Ref};
use crate::snapshot::{LayerDescription, Stack};
use crate::source::local::{LocalCache, LocalTree, ScanOptions, materialize};
use crate::tree::writer::{LayerWriter, WriterOptions};
use crate::tree::{Timestamp, View};

/// A local source, ready to be looked at.
#[derive(Debug)]
pub(super) struct LocalSource {
    name: String,
    options: ScanOptions,
    /// `local.differ` is `none`: every file is read, whatever is remembered of it.
    read_all: bool,
    engine: Arc<Engine>,
}

impl LocalSource {
    pub(super) fn new(
        name: &str,
        op: &pb::SourceOp,
        engine: &Arc<Engine>,
    ) -> Result<Self, SourceError> {
        let patterns = |attribute: &'static str| match op.attrs.get(attribute) {
            None => Ok(Vec::new()),
            Some(json) => serde_json::from_str::<Option<Vec<String>>>(json)
                .map(Option::unwrap_or_default)
                .map_err(|_| SourceError::Attribute {
                    attribute,
                    value: json.clone(),
                }),
        };
        let exceptions = patterns("local.metadatatransferexclude")?;
        let attribute = "local.metadatatransfer";
        // What Go's `strconv.ParseBool` takes.
        let metadata_only = match op.attrs.get(attribute).map(|value| &value[..]) {
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Some(exceptions),
            None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => None,
            Some(value) => {
                let value = value.to_owned();
                return Err(SourceError::Attribute { attribute, value });
            }
        };
        let options = ScanOptions {
            metadata_only,
            include: patterns("local.includepattern")?,
            exclude: patterns("local.excludepatterns")?,
            follow_paths: patterns("local.followpaths")?,
            shared_key_hint: op.attrs.get("local.sharedkeyhint").cloned(),
            limits: engine.limits.clone(),
            ..ScanOptions::default()
        };
        Ok(Self {
            name: name.to_owned(),
            options,
            read_all: op
                .attrs
                .get("local.differ")
                .is_some_and(|differ| differ == "none"),
            engine: engine.clone(),
        })
    }
}

#[async_trait]
impl Source for LocalSource {
    /// A number that nobody else has: only the content of a directory says what is in it, so a key
    /// is good for this solve alone.
    type Pin = [u8; 32];

    async fn pin(&self, _: &Context) -> Result<Self::Pin, OperationError> {
        let mut random = [0; 32];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| NoRandomness(error.into()))?;
        Ok(random)
    }

    fn resolved(&self, _: &Self::Pin) -> ResolvedSource {
        ResolvedSource::Local {
            name: self.name.clone(),
        }
    }

    fn cache_key(&self, pin: &Self::Pin, index: usize) -> Option<CacheMap> {
        let mut map = CacheMap::leaf(CacheDigest::from_bytes(*pin));
        map.volatile = true;
        (index == 0).then_some(map)
    }

    async fn fetch(&self, _: &Self::Pin, context: &Context) -> Result<Ref, OperationError> {
        let lent = self.engine.session.locals.get(&self.name);
        let directory = lent.cloned().ok_or_else(|| SourceError::NotLent {
            what: "local directory",
            name: self.name.clone(),
        })?;
        let (name, engine) = (self.name.clone(), self.engine.clone());
        let mut options = self.options.clone();
        options.keep_owners = directory.keep_owners;
        options.git_modes = directory.git_modes;
        let read_all = self.read_all;
        unblock(&context.cancel, move |cancel| {
            let nothing = LocalCache::default();
            let cache = if read_all { &nothing } else { &engine.locals };
            let tree = LocalTree::scan(&name, &directory.path, &options, cache, &cancel)?;
            let tree = Arc::new(tree);
            engine.note_local(tree.clone());
            Ok(Ref::lazy(Arc::new(LazyLocal {
                name,
                options,
                tree,
                engine,
            })))
        })
        .await
    }
}

/// The system has no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("cannot get random numbers")]
struct NoRandomness(#[source] std::io::Error);

impl Blame for NoRandomness {
    fn fault(&self) -> Fault {
        Fault::Environment
    }
}

/// A scanned directory, copied into a layer when somebody needs one.
#[derive(Debug)]
struct LazyLocal {
    name: String,
    options: ScanOptions,
    tree: Arc<LocalTree>,
    engine: Arc<Engine>,
}

impl Lazy for LazyLocal {
    fn view(&self) -> Result<Option<View>, OperationError> {
        Ok(Some(self.tree.view().clone()))
    }

    fn materialize(&self, cancel: &Cancel) -> Result<Stack, OperationError> {
        let created = Timestamp::from(self.engine.clock.now());
        let layer = self.engine.layers.new_layer()?;
        let options = WriterOptions {
            privileged: self.engine.is_privileged(),
            now: created,
        };
        let mut writer =
            LayerWriter::new(layer.fs_handle()?, layer.files(), View::empty(), options)?;
        let ScanOptions {
            include,
            exclude,
            follow_paths,
            metadata_only,
            ..
        } = &self.options;
        let patterns = format!("{:?}", (include, exclude, follow_paths, metadata_only));
        let copy = CopyName::new(&[b"local", patterns.as_bytes()], self.tree.view());
        writer.follow(copy.and_then(|copy| copy.previous(&self.engine)));
        materialize(&self.tree, &mut writer, cancel)?;
        let (index, origins) = writer.finish_with_origins()?;
        layer.note_origins(&origins)?;
        let text = format!("local source for {}", self.name);
        let layer = layer.commit(index, &LayerDescription { text, created })?;
        if let Some(copy) = copy {
            copy.remember(&self.engine, layer.id())?;
        }
        Ok(Stack::scratch().push(layer))
    }
}
