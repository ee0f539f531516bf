//! Records as JSON: BuildKit's cache config.
//!
//! Written as BuildKit writes it, byte for byte: its order of members, layers by blob, records by
//! digest and inputs, of each record the newest result, no member that is empty. A layer without
//! `parent` lies on layer 0; one that lies on nothing says -1.
//!
//! What is read may come from anybody. Loops and links that lead nowhere are errors, and memory is
//! bounded by a small multiple of [`MAX_CONFIG`].

use std::cmp::Reverse;
use std::fmt::{self, Write as _};
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

use ashlar_llb::{BlobDigest, DiffId, go_json};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{
    BlobLayer, CacheRecord, CacheRecords, Layers, RecordLayer, RecordLink, RecordResult, order,
};
use crate::clock::Timestamp;
use crate::error::{Blame, Fault};

/// What a cache config is, as a blob.
pub const CACHE_CONFIG_MEDIA_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Bytes of the largest config that is read: 16 MiB, sixteen times what BuildKit reads.
pub const MAX_CONFIG: usize = 16 << 20;

/// Records of a config, and layers. A build of ten thousand vertices has about as many.
const MAX_ITEMS: usize = 200_000;

/// Layers of chains that are written out for each result, in all.
const MAX_CHAINED: usize = 400_000;

/// What Go writes for no time.
pub(super) const NO_TIME: Timestamp = Timestamp {
    seconds: -62_135_596_800,
    nanoseconds: 0,
};

/// A layer as a config names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a layer of a cache config has these parts"
)]
pub struct ConfigLayer {
    /// The blob.
    pub blob: BlobDigest,
    /// What caches without a manifest say of the blob (`gha`, `s3`, `azblob` in BuildKit).
    pub annotations: Option<Arc<LayerAnnotations>>,
}

/// What a config may say of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a layer of a cache config has these parts"
)]
pub struct LayerAnnotations {
    /// Its media type, as OCI has it; may be empty.
    pub media_type: String,
    /// The digest of the uncompressed archive.
    pub diff_id: Option<DiffId>,
    /// Its size in bytes.
    pub size: u64,
    /// When the layer was made.
    pub created: Timestamp,
}

impl ConfigLayer {
    /// A layer of which only the blob is told, as beside a manifest.
    pub fn new(blob: BlobDigest) -> Self {
        Self {
            blob,
            annotations: None,
        }
    }

    /// A layer with all that a config can say of it.
    pub fn annotated(layer: &BlobLayer) -> Self {
        Self {
            blob: layer.blob.digest,
            annotations: Some(Arc::new(LayerAnnotations {
                media_type: oci_media_type(&layer.blob.media_type).to_owned(),
                diff_id: Some(layer.blob.diff_id),
                size: layer.blob.size,
                created: layer.created.unwrap_or(NO_TIME),
            })),
        }
    }
}

impl From<&BlobLayer> for ConfigLayer {
    fn from(layer: &BlobLayer) -> Self {
        Self::new(layer.blob.digest)
    }
}

/// OCI's name of a media type of Docker.
fn oci_media_type(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        other => other,
    }
}

/// A text is no cache config.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is too large.
    #[error("the cache config has {bytes} bytes, more than {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It is no JSON, or not that of a cache config.
    #[error("the cache config cannot be read")]
    Json(#[source] serde_json::Error),
    /// A record or layer names one that is not there.
    #[error("{what} {at} of the cache config names {what} {link}, of {count}")]
    Dangling {
        /// `record`, or `layer`.
        what: &'static str,
        /// The one that names it.
        at: usize,
        /// The number it gives.
        link: i64,
        /// How many there are.
        count: usize,
    },
    /// A record names a layer that is not there.
    #[error("record {record} of the cache config has layer {layer}, of {count}")]
    NoLayer {
        /// The record.
        record: usize,
        /// The number it gives.
        layer: i64,
        /// How many there are.
        count: usize,
    },
    /// A record or layer rests on itself.
    #[error("{what} {at} of the cache config rests on itself")]
    Loop {
        /// `record`, or `layer`.
        what: &'static str,
        /// One that is part of the loop, or rests on it.
        at: usize,
    },
    /// The chains of layers that are written out are too long together.
    #[error("the chains of the cache config have more than {most} layers")]
    TooManyLayers {
        /// The limit.
        most: usize,
    },
}

impl Blame for ConfigError {
    fn fault(&self) -> Fault {
        Fault::Input
    }
}

/// A config that is an object: a list of its members would do for serde too.
struct Object(Wire);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a cache config")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object, A::Error> {
                Wire::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A config as it is written.
#[derive(Debug, Deserialize)]
struct Wire {
    #[serde(default, deserialize_with = "bounded")]
    layers: Vec<WireLayer>,
    #[serde(default, deserialize_with = "bounded")]
    records: Vec<WireRecord>,
}

#[derive(Debug, Deserialize)]
struct WireLayer {
    #[serde(deserialize_with = "parsed")]
    blob: BlobDigest,
    #[serde(default)]
    parent: i64,
    #[serde(default)]
    annotations: Option<WireAnnotations>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireAnnotations {
    #[serde(default)]
    media_type: String,
    #[serde(rename = "diffID", default, deserialize_with = "maybe_parsed")]
    diff_id: Option<DiffId>,
    #[serde(default)]
    size: u64,
    #[serde(default = "no_time", deserialize_with = "parsed")]
    created_at: Timestamp,
}

/// A record as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct WireRecord {
    #[serde(default, deserialize_with = "bounded")]
    layers: Vec<WireResult>,
    #[serde(default, deserialize_with = "bounded")]
    chains: Vec<WireChain>,
    #[serde(deserialize_with = "parsed")]
    digest: crate::id::RecordDigest,
    #[serde(default, deserialize_with = "bounded")]
    inputs: Vec<Alternatives>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireResult {
    layer: i64,
    #[serde(default = "no_time", deserialize_with = "parsed")]
    created_at: Timestamp,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireChain {
    #[serde(deserialize_with = "bounded")]
    layers: Vec<i64>,
    #[serde(default = "no_time", deserialize_with = "parsed")]
    created_at: Timestamp,
}

/// The links of one input; there is one at least.
#[derive(Debug)]
struct Alternatives(Vec<WireLink>);

impl<'de> Deserialize<'de> for Alternatives {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let links: Vec<WireLink> = bounded(deserializer)?;
        if links.is_empty() {
            return Err(de::Error::custom("an input without links"));
        }
        Ok(Self(links))
    }
}

#[derive(Debug, Deserialize)]
struct WireLink {
    #[serde(default, deserialize_with = "maybe_parsed")]
    selector: Option<crate::id::Selector>,
    link: i64,
}

fn no_time() -> Timestamp {
    NO_TIME
}

/// A list of at most [`MAX_ITEMS`]; null is an empty one, as for Go.
fn bounded<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Items<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX_ITEMS}")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                if items.len() == MAX_ITEMS {
                    return Err(de::Error::invalid_length(items.len() + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    deserializer.deserialize_any(Items(PhantomData))
}

/// A value that is written as text.
fn parsed<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

/// A value that is written as text, or as an empty one.
fn maybe_parsed<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: std::str::FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(de::Error::custom)
}

impl CacheRecords<ConfigLayer> {
    /// Reads a cache config.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        check_size(json)?;
        let Object(wire) = serde_json::from_slice(json).map_err(ConfigError::Json)?;
        let layer = |wire: WireLayer| {
            let annotations = wire.annotations.map(|told| {
                Arc::new(LayerAnnotations {
                    media_type: told.media_type,
                    diff_id: told.diff_id,
                    size: told.size,
                    created: told.created_at,
                })
            });
            let blob = wire.blob;
            (ConfigLayer { blob, annotations }, wire.parent)
        };
        let layers: Vec<_> = wire.layers.into_iter().map(layer).collect();
        assemble(&layers, wire.records)
    }

    /// Writes a cache config, as BuildKit does. Of each record only the newest result is written.
    pub fn to_json(&self) -> Vec<u8> {
        let newest = self.newest(|layer| layer.blob);
        let layers = order::layers(&newest.layers, |layer| layer.blob);
        let places = places(&layers);
        let mut out = String::from("{");
        for (at, &from) in layers.iter().enumerate() {
            out.push_str(if at == 0 { r#""layers":["# } else { "," });
            write_layer(&mut out, &newest.layers[from], &places);
        }
        if !layers.is_empty() {
            out.push(']');
        }
        if !newest.records.is_empty() {
            if !layers.is_empty() {
                out.push(',');
            }
            out.push_str(r#""records":"#);
            newest.write_records(&mut out, |result| {
                Results::One(places[result.layer], result.created)
            });
        }
        out.push('}');
        out.into_bytes()
    }
}

/// A result as it is written.
pub(super) enum Results {
    /// By the number of its topmost layer.
    One(usize, Timestamp),
    /// By the numbers of all its layers, the lowest first.
    Chain(Vec<usize>, Timestamp),
}

impl<L: Eq + Hash + Clone> CacheRecords<L> {
    /// The records with their newest results only; of results of one time the one whose topmost
    /// layer is written first.
    pub(super) fn newest(&self, blob: impl Fn(&L) -> BlobDigest) -> Self {
        let mut records = self.records.clone();
        if records.iter().any(|record| record.results.len() > 1) {
            let places = places(&order::layers(&self.layers, blob));
            for record in &mut records {
                let rank = |result: &RecordResult| (Reverse(result.created), places[result.layer]);
                record.results.sort_by_key(rank);
                record.results.truncate(1);
            }
        }
        Self::of(records, self.layers.clone())
    }

    /// Writes the list of records.
    pub(super) fn write_records(
        &self,
        out: &mut String,
        result: impl Fn(&RecordResult) -> Results,
    ) {
        let records = order::records(&self.records);
        let places = places(&records);
        out.push('[');
        for (at, &from) in records.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            let record = &self.records[from];
            out.push('{');
            let (mut ones, mut chains) = (Vec::new(), Vec::new());
            for found in &record.results {
                match result(found) {
                    Results::One(layer, created) => ones.push((layer, created)),
                    Results::Chain(layers, created) => chains.push((layers, created)),
                }
            }
            for (at, (layer, created)) in ones.iter().enumerate() {
                out.push_str(if at == 0 { r#""layers":["# } else { "," });
                put(
                    out,
                    format_args!(r#"{{"layer":{layer},"createdAt":"{created}"}}"#),
                );
            }
            out.push_str(if ones.is_empty() { "" } else { "]," });
            for (at, (layers, created)) in chains.iter().enumerate() {
                out.push_str(if at == 0 { r#""chains":["# } else { "," });
                let numbers: Vec<String> = layers.iter().map(usize::to_string).collect();
                let numbers = numbers.join(",");
                put(
                    out,
                    format_args!(r#"{{"layers":[{numbers}],"createdAt":"{created}"}}"#),
                );
            }
            out.push_str(if chains.is_empty() { "" } else { "]," });
            put(out, format_args!(r#""digest":"{}""#, record.digest));
            write_inputs(out, record, &places);
            out.push('}');
        }
        out.push(']');
    }
}

fn write_layer(out: &mut String, layer: &RecordLayer<ConfigLayer>, places: &[usize]) {
    put(out, format_args!(r#"{{"blob":"{}""#, layer.layer.blob));
    match layer.parent.map(|parent| places[parent]) {
        Some(0) => {}
        Some(parent) => put(out, format_args!(r#","parent":{parent}"#)),
        None => out.push_str(r#","parent":-1"#),
    }
    if let Some(told) = &layer.layer.annotations {
        out.push_str(r#","annotations":{"#);
        if !told.media_type.is_empty() {
            out.push_str(r#""mediaType":"#);
            go_json::string(out, &told.media_type);
            out.push(',');
        }
        if let Some(diff_id) = told.diff_id {
            put(out, format_args!(r#""diffID":"{diff_id}","#));
        }
        if told.size > 0 {
            put(out, format_args!(r#""size":{},"#, told.size));
        }
        put(out, format_args!(r#""createdAt":"{}"}}"#, told.created));
    }
    out.push('}');
}

fn write_inputs(out: &mut String, record: &CacheRecord, places: &[usize]) {
    for (at, links) in record.inputs.iter().enumerate() {
        out.push_str(if at == 0 { r#","inputs":["# } else { "," });
        let mut links: Vec<_> = links
            .iter()
            .map(|link| (places[link.record], link.selector))
            .collect();
        links.sort_unstable();
        for (at, (record, selector)) in links.into_iter().enumerate() {
            out.push_str(if at == 0 { "[{" } else { ",{" });
            if let Some(selector) = selector {
                put(out, format_args!(r#""selector":"{selector}","#));
            }
            put(out, format_args!(r#""link":{record}}}"#));
        }
        out.push(']');
    }
    out.push_str(if record.inputs.is_empty() { "" } else { "]" });
}

fn put(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("BUG: writing to a string does not fail");
}

/// Where each item of an order stands in it.
fn places(order: &[usize]) -> Vec<usize> {
    let mut places = vec![0; order.len()];
    for (place, &at) in order.iter().enumerate() {
        places[at] = place;
    }
    places
}

pub(super) fn check_size(json: &[u8]) -> Result<(), ConfigError> {
    let (bytes, limit) = (json.len(), MAX_CONFIG);
    if bytes > limit {
        return Err(ConfigError::TooLarge { bytes, limit });
    }
    Ok(())
}

/// A list of records that stands by itself.
pub(super) fn records(json: &[u8]) -> Result<Vec<WireRecord>, ConfigError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let records = bounded(&mut reader).map_err(ConfigError::Json)?;
    reader.end().map_err(ConfigError::Json)?;
    Ok(records)
}

/// Checks all links and puts records and layers into order. `layers`: each with its parent's
/// number, or -1.
pub(super) fn assemble<L: Eq + Hash + Clone>(
    layers: &[(L, i64)],
    records: Vec<WireRecord>,
) -> Result<CacheRecords<L>, ConfigError> {
    let mut chains = Chains {
        wire: layers,
        places: vec![None; layers.len()],
        layers: Layers::default(),
        chained: 0,
    };
    let order = inputs_first(&records)?;
    let places = places(&order);
    let mut wire: Vec<Option<WireRecord>> = records.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(wire.len());
    for from in order {
        let Some(record) = wire[from].take() else {
            continue;
        };
        let mut results = Vec::with_capacity(record.layers.len());
        for result in record.layers {
            let layer = chains.layer(from, result.layer)?;
            let created = result.created_at;
            results.push(RecordResult { layer, created });
        }
        for result in record.chains {
            if let Some(layer) = chains.chain(from, &result.layers)? {
                let created = result.created_at;
                results.push(RecordResult { layer, created });
            }
        }
        let inputs = record.inputs.into_iter().map(|links| {
            let mut links: Vec<RecordLink> = links
                .0
                .into_iter()
                .map(|link| RecordLink {
                    selector: link.selector,
                    record: index(link.link).map_or(0, |at| places[at]),
                })
                .collect();
            links.sort_unstable();
            links.dedup();
            links
        });
        ordered.push(CacheRecord {
            digest: record.digest,
            inputs: inputs.collect(),
            results,
        });
    }
    Ok(CacheRecords::of(ordered, chains.layers.0))
}

fn index(number: i64) -> Option<usize> {
    usize::try_from(number).ok()
}

/// The order in which links lead backwards.
fn inputs_first(records: &[WireRecord]) -> Result<Vec<usize>, ConfigError> {
    let count = records.len();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut missing = vec![0_usize; count];
    for (at, record) in records.iter().enumerate() {
        for link in record.inputs.iter().flat_map(|links| &links.0) {
            let source = index(link.link).and_then(|source| users.get_mut(source));
            let source = source.ok_or(ConfigError::Dangling {
                what: "record",
                at,
                link: link.link,
                count,
            })?;
            source.push(at);
            missing[at] += 1;
        }
    }
    let mut order: Vec<usize> = (0..count).filter(|&at| missing[at] == 0).collect();
    let mut next = 0;
    while let Some(&from) = order.get(next) {
        next += 1;
        for &user in &users[from] {
            missing[user] -= 1;
            if missing[user] == 0 {
                order.push(user);
            }
        }
    }
    match missing.iter().position(|&missing| missing > 0) {
        Some(at) => Err(ConfigError::Loop { what: "record", at }),
        None => Ok(order),
    }
}

/// Layers of a config, put into order as results ask for them.
struct Chains<'a, L> {
    wire: &'a [(L, i64)],
    places: Vec<Option<usize>>,
    layers: Layers<L>,
    chained: usize,
}

impl<L: Eq + Hash + Clone> Chains<'_, L> {
    fn wire(&self, record: usize, layer: i64) -> Result<usize, ConfigError> {
        let count = self.wire.len();
        let found = index(layer).filter(|&at| at < count);
        found.ok_or(ConfigError::NoLayer {
            record,
            layer,
            count,
        })
    }

    /// The place of a layer that is told by its number, with all below it.
    fn layer(&mut self, record: usize, layer: i64) -> Result<usize, ConfigError> {
        let top = self.wire(record, layer)?;
        let count = self.wire.len();
        let mut todo = Vec::new();
        let mut at = Some(top);
        let mut parent = None;
        while let Some(here) = at {
            if self.places[here].is_some() {
                parent = self.places[here];
                break;
            }
            if todo.len() == count {
                return Err(ConfigError::Loop {
                    what: "layer",
                    at: top,
                });
            }
            todo.push(here);
            at = match self.wire[here].1 {
                -1 => None,
                link => {
                    let below = index(link).filter(|&below| below < count);
                    Some(below.ok_or(ConfigError::Dangling {
                        what: "layer",
                        at: here,
                        link,
                        count,
                    })?)
                }
            };
        }
        let mut place = parent;
        while let Some(here) = todo.pop() {
            let added = self.layers.add(place, self.wire[here].0.clone());
            self.places[here] = Some(added);
            place = Some(added);
        }
        Ok(place.expect("BUG: a layer lies on itself at least"))
    }

    /// The place of the topmost of layers that are written out.
    fn chain(&mut self, record: usize, layers: &[i64]) -> Result<Option<usize>, ConfigError> {
        self.chained += layers.len();
        if self.chained > MAX_CHAINED {
            return Err(ConfigError::TooManyLayers { most: MAX_CHAINED });
        }
        let mut place = None;
        for &layer in layers {
            let at = self.wire(record, layer)?;
            place = Some(self.layers.add(place, self.wire[at].0.clone()));
        }
        Ok(place)
    }
}
