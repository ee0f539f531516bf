//! From a result to an image.

use std::collections::{BTreeMap, HashMap, HashSet};

use ashlar_llb::Platform;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Failure, OperationError};
use ashlar_solver::meta::LayerBlob;
use ashlar_solver::oci::{Descriptor, media_type};
use ashlar_solver::refs::Ref;
use ashlar_solver::result::{
    BASE_CONFIG_KEY, BLOB_URLS, BuildResult, IMAGE_CONFIG_KEY, INLINE_CACHE_KEY, MakeContext,
    Original, SOURCE_BLOB,
};
use ashlar_solver::tree::Timestamp;

use super::attest::attest;
use super::config::{BaseConfig, ConfigInput, HistoryLayer, image_config};
use super::manifest::{Index, Manifest};
use super::{BlobContent, Image, ImageBlob};
use crate::layer::{
    LayerOptions, LayerRequest, LayerSource, MadeLayer, TOC_DIGEST, UNCOMPRESSED_SIZE, layer_blobs,
    made_layers,
};
use crate::options::references;
use crate::platforms::{Target, targets};
use crate::purl::image_purl;
use crate::sbom::{LayerFinder, SPDX_PREDICATE, SupplementError, supplement};
use crate::statement::{Predicate, StatementSubject, predicates};
use crate::{
    AnnotationKind, Annotations, Compatibility, Compression, ExportError, ImageOptions, MediaTypes,
    json,
};

/// What an exporter decides where nobody asked for anything.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Defaults {
    /// Media types whatever the compatibility level.
    pub(crate) media_types: Option<MediaTypes>,
    /// Whether attestations for inline use make an index of a single image.
    pub(crate) inline_attestations: bool,
    /// Whether layers that are plain tars may be packed when they are written.
    pub(crate) packs: bool,
}

/// Makes an image of a result: layers become blobs in the store, documents are put together. Blocks.
pub(crate) fn assemble(
    result: &BuildResult,
    options: &ImageOptions,
    defaults: Defaults,
    cancel: &Cancel,
) -> Result<Image, ExportError> {
    let mut result = result.clone();
    result.metadata.extend(options.metadata.clone());
    let targets = targets(&result)?;
    let plan = Plan::new(&result, &targets, options, defaults)?;
    let told = options.told_names(&result);
    let names = references(&told)?;
    let mut image = Image::new(result.store.clone(), told, names);
    let mut trees = plan.layers(&mut image, cancel)?;
    match trees.pop() {
        Some(only) if !plan.is_index => plan.single(&mut image, &only)?,
        last => {
            trees.extend(last);
            plan.index(&mut image, &trees, cancel)?;
        }
    }
    image.each_once();
    // With an epoch an index outside of the image is dated by it, as BuildKit has it.
    if let Some(epoch) = options.epoch.moment(&result, "")? {
        image.created = Some(epoch.to_string());
    }
    Ok(image)
}

/// Options with everything decided.
struct Plan<'a> {
    result: &'a BuildResult,
    targets: &'a [Target<'a>],
    options: &'a ImageOptions,
    annotations: Annotations,
    is_oci: bool,
    is_index: bool,
    packs: bool,
    /// Attestations are artifacts.
    is_artifact: bool,
}

impl<'a> Plan<'a> {
    fn new(
        result: &'a BuildResult,
        targets: &'a [Target<'a>],
        options: &'a ImageOptions,
        defaults: Defaults,
    ) -> Result<Self, ExportError> {
        let mut annotations = options.annotations.clone();
        let mut told = Annotations::default();
        for (key, value) in &result.metadata {
            told.parse(key, String::from_utf8_lossy(value))?;
        }
        annotations.merge(told);
        let is_new = options.compatibility >= Compatibility::V30;
        let wanted = options.media_types.or(defaults.media_types);
        let is_oci = wanted.map_or(is_new || !result.attestations.is_empty(), |types| {
            types == MediaTypes::Oci
        });
        // A single image becomes an index if there is something to be said beside it.
        let inline = options.inline_attestations;
        let inline = inline.unwrap_or(defaults.inline_attestations);
        let is_attested = targets.iter().any(|target| {
            let attested = result.attestations.get(&target.id);
            let mut attested = attested.into_iter().flatten();
            attested.any(|each| inline || !each.is_inline_only())
        });
        let plan = Self {
            result,
            targets,
            options,
            annotations,
            is_oci,
            is_index: result.is_map() || is_attested,
            packs: defaults.packs,
            is_artifact: options.artifact.unwrap_or(is_new && is_oci),
        };
        plan.check()?;
        Ok(plan)
    }

    /// What does not go together.
    fn check(&self) -> Result<(), ExportError> {
        let invalid = |reason: &str| {
            Err(ExportError::Option {
                reason: reason.to_owned(),
            })
        };
        let compression = self.options.compression;
        if !self.is_oci && matches!(compression, Compression::Estargz { .. }) {
            return invalid("compression by eStargz needs OCI media types");
        }
        if !self.is_oci && self.is_artifact {
            return invalid("attestations as artifacts need OCI media types");
        }
        if !self.is_oci && self.is_index && !self.result.attestations.is_empty() {
            return invalid("attestations need OCI media types");
        }
        let is_oldest = self.options.compatibility == Compatibility::V10;
        if is_oldest && matches!(compression, Compression::Zstd { .. }) {
            return invalid("compression by zstd needs compatibility level 20 or later");
        }
        for platform in self.annotations.platforms() {
            let [first, more @ ..] = self.targets else {
                continue;
            };
            let named = |target: &Target<'_>| target.id == platform;
            if !more.is_empty() && !named(first) && !more.iter().any(named) {
                return Err(ExportError::Option {
                    reason: format!("an annotation is for {platform}, which the result is not"),
                });
            }
        }
        let of_index = [AnnotationKind::Index, AnnotationKind::IndexDescriptor];
        let beyond_docker = [&of_index[..], &[AnnotationKind::ManifestDescriptor]].concat();
        if !self.is_oci && self.annotations.has(&beyond_docker) {
            return invalid("annotations of indexes and descriptors need OCI media types");
        }
        if !self.is_index && self.annotations.has(&of_index) {
            return invalid("annotations of an index need one: the result has a single platform");
        }
        Ok(())
    }

    fn single(&self, image: &mut Image, layers: &TreeLayers<'_>) -> Result<(), ExportError> {
        let (mut manifest, config) = self.manifest(image, layers, None)?;
        manifest.platform = Some((&layers.target.platform).into());
        image.root = manifest;
        image.config = Some(config.digest);
        image.layers = layers.blobs().map(|blob| blob.digest).collect();
        Ok(())
    }

    fn index(
        &self,
        image: &mut Image,
        trees: &[TreeLayers<'_>],
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        let (mut manifests, mut attested) = (Vec::new(), Vec::new());
        for layers in trees {
            let Target { platform, .. } = layers.target;
            let (mut manifest, _) = self.manifest(image, layers, Some(platform))?;
            manifest.platform = Some(platform.into());
            if let Some(predicates) = self.predicates(layers, cancel)? {
                let names = image.names.iter();
                let subjects = names.map(|name| image_purl("docker", name, Some(platform)));
                let subjects: Vec<StatementSubject> = subjects
                    .map(|name| StatementSubject::new(name, &manifest.digest))
                    .collect();
                let artifact = self.is_artifact;
                attested.push(attest(image, &manifest, &predicates, &subjects, artifact)?);
            }
            manifests.push(manifest);
        }
        manifests.append(&mut attested);
        let mut index = Index::new(manifests);
        if !self.is_oci {
            index = index.of_docker();
        }
        index.annotations = self.annotations.of_index(AnnotationKind::Index);
        let text = json::indented(&index).map_err(ExportError::json)?;
        image.root = image.add_text(index.media_type(), text);
        image.root.annotations = self.annotations.of_index(AnnotationKind::IndexDescriptor);
        Ok(())
    }

    /// What is attested of one platform, if anything is.
    fn predicates(
        &self,
        layers: &TreeLayers<'_>,
        cancel: &Cancel,
    ) -> Result<Option<Vec<Predicate>>, ExportError> {
        let target = layers.target;
        let Some(attestations) = self.result.attestations.get(&target.id) else {
            return Ok(None);
        };
        let as_built = || {
            let requests = layers.sources.iter().map(|source| LayerRequest {
                source: source.clone(),
                latest: None,
            });
            let requests: Vec<_> = requests.collect();
            // What a base image brought is told as it was.
            let options = LayerOptions {
                force: false,
                ..self.layer_options()
            };
            let made = layer_blobs(&self.result.store, options, &requests, cancel);
            made.map_err(|error| match error {
                ExportError::Cancelled => OperationError::Cancelled,
                error => error.into(),
            })
        };
        let level = self.options.compatibility.number();
        let mut read = predicates(
            attestations,
            &MakeContext::of_image(cancel, level, &as_built),
        )?;
        let mut documents = read
            .iter_mut()
            .filter(|predicate| predicate.is_core && predicate.predicate_type == SPDX_PREDICATE)
            .peekable();
        if documents.peek().is_some() {
            let stack = target.reference.stack(cancel)?;
            let blobs = layers.blobs().map(|blob| blob.digest);
            let mut finder = LayerFinder::new(stack.layers().into_iter().zip(blobs));
            for document in documents {
                document.content = supplement(&document.content, &mut finder, cancel).map_err(
                    |error| match error {
                        SupplementError::Cancelled => ExportError::Cancelled,
                        SupplementError::Layer(error) => Failure::from(error).into(),
                    },
                )?;
            }
        }
        Ok(Some(read))
    }

    fn layer_options(&self) -> LayerOptions {
        LayerOptions {
            compression: self.options.compression,
            force: self.options.force_compression,
            packs: self.packs,
        }
    }

    /// Adds layers, config and manifest of one platform; gives what names manifest and config.
    fn manifest(
        &self,
        image: &mut Image,
        layers: &TreeLayers<'_>,
        platform: Option<&Platform>,
    ) -> Result<(Descriptor, Descriptor), ExportError> {
        let target = layers.target;
        let of = |key| self.result.metadata_of(key, &target.id);
        let config = image_config(&ConfigInput {
            given: of(IMAGE_CONFIG_KEY).filter(|text| !text.is_empty()),
            platform: &target.platform,
            layers: &layers.history(),
            epoch: layers.epoch,
            base: layers.base.as_ref(),
            inline_cache: of(INLINE_CACHE_KEY),
        })?;
        image.dated(config.created);
        let diff_ids = layers.blobs().map(|blob| blob.diff_id);
        image.diff_ids.push(diff_ids.collect());
        let mut described = Vec::new();
        for MadeLayer { blob, packed } in &layers.made_blobs {
            let descriptor = self.describe(blob);
            image.blobs.push(ImageBlob {
                descriptor: descriptor.clone(),
                content: match packed {
                    Some(packed) => BlobContent::Packed(packed.clone()),
                    None => BlobContent::Stored,
                },
            });
            described.push(descriptor);
        }
        let (manifest_type, config_type) = if self.is_oci {
            (media_type::OCI_MANIFEST, media_type::OCI_CONFIG)
        } else {
            (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG)
        };
        let config = image.add_text(config_type, config.bytes);
        let manifest = Manifest {
            schema_version: 2,
            media_type: manifest_type,
            artifact_type: "",
            config: config.clone(),
            layers: described,
            subject: None,
            annotations: self.annotations.of(AnnotationKind::Manifest, platform),
        };
        let text = json::indented(&manifest).map_err(ExportError::json)?;
        let mut manifest = image.add_text(manifest_type, text);
        let kind = AnnotationKind::ManifestDescriptor;
        manifest.annotations = self.annotations.of(kind, platform);
        Ok((manifest, config))
    }

    /// The layers of all platforms as blobs, made at the same time and each once.
    fn layers(
        &self,
        image: &mut Image,
        cancel: &Cancel,
    ) -> Result<Vec<TreeLayers<'a>>, ExportError> {
        let options = self.layer_options();
        let mut trees = Vec::new();
        let mut unique = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for target in self.targets {
            let (layers, wanted) = self.requests(target, options, image, cancel)?;
            let mut at = Vec::new();
            for request in wanted {
                let next = unique.len();
                let place = *places.entry(key(&request)).or_insert(next);
                if place == next {
                    unique.push(request);
                }
                at.push(place);
            }
            trees.push((layers, at));
        }
        let blobs = made_layers(&self.result.store, options, &unique, cancel)?;
        let filled = trees.into_iter().map(|(mut layers, at)| {
            layers.made_blobs = at.into_iter().map(|place| blobs[place].clone()).collect();
            layers
        });
        Ok(filled.collect())
    }

    /// What is wanted of the layers of one platform.
    fn requests(
        &self,
        target: &'a Target<'a>,
        options: LayerOptions,
        image: &mut Image,
        cancel: &Cancel,
    ) -> Result<(TreeLayers<'a>, Vec<LayerRequest>), ExportError> {
        let base = self.result.metadata_of(BASE_CONFIG_KEY, &target.id);
        let base = base.filter(|text| !text.is_empty());
        let base = base.map(BaseConfig::parse).transpose()?;
        let epoch = self.options.epoch.moment(self.result, &target.id)?;
        let latest = epoch.filter(|_| self.options.rewrite_timestamp);
        let mut made = Vec::new();
        let mut requests = Vec::new();
        let mut fetched_from = |from: &Ref| {
            if options.force || latest.is_some() {
                return from.fetch(cancel);
            }
            image.lazy.push(from.clone());
            Ok(())
        };
        if let Some(lazy) = target.reference.lazy_layers() {
            // An image that nothing changed: its blobs are all it takes.
            fetched_from(target.reference)?;
            for layer in lazy {
                made.push((layer.text, layer.created));
                let source = LayerSource::Blob(layer.blob);
                requests.push(LayerRequest { source, latest });
            }
        } else {
            let store = &self.result.store;
            let originals = store.originals(target.images)?;
            // Of images from which what is missing is fetched.
            let mut fetched = HashSet::new();
            for layer in target.reference.stack(cancel)?.layers() {
                if let Some(Original { layer, image, .. }) = originals.of(layer.id()) {
                    let digest = layer.blob.digest;
                    let stored = store.blobs().contains(&digest);
                    if !stored.map_err(Failure::from)? && !fetched.contains(&digest) {
                        fetched_from(image)?;
                        let all = image.lazy_layers().unwrap_or_default().into_iter();
                        fetched.extend(all.map(|layer| layer.blob.digest));
                    }
                    made.push((layer.text.clone(), layer.created));
                    let source = LayerSource::Blob(layer.blob.clone());
                    requests.push(LayerRequest { source, latest });
                    continue;
                }
                let content = layer.content().map_err(Failure::from)?;
                made.push((content.1.text.clone(), content.1.created));
                let source = LayerSource::Stored(layer);
                requests.push(LayerRequest { source, latest });
            }
        }
        if latest.is_some() {
            self.keep_base(base.as_ref(), &mut requests)?;
        }
        let sources = requests.iter().map(|request| request.source.clone());
        let layers = TreeLayers {
            target,
            base,
            epoch,
            made,
            sources: sources.collect(),
            made_blobs: Vec::new(),
        };
        Ok((layers, requests))
    }

    /// What a result is built on keeps its times.
    fn keep_base(
        &self,
        base: Option<&BaseConfig>,
        requests: &mut [LayerRequest],
    ) -> Result<(), ExportError> {
        let diff_ids = base.map_or(&[][..], |base| &base.diff_ids);
        for (request, wanted) in requests.iter_mut().zip(diff_ids) {
            let original = match &request.source {
                LayerSource::Blob(blob) => Some(blob.diff_id),
                LayerSource::Stored(layer) => {
                    let known = self.result.store.layer_blobs(layer)?;
                    let mut originals = known.iter().filter(|b| b.compression == SOURCE_BLOB);
                    originals.next().map(|blob| blob.diff_id)
                }
            };
            if original.map(|original| original.to_string()).as_ref() != Some(wanted) {
                break;
            }
            request.latest = None;
        }
        Ok(())
    }

    fn describe(&self, layer: &LayerBlob) -> Descriptor {
        // Without an address nobody could get it: then it is like any other.
        let urls = layer.annotations.get(BLOB_URLS);
        let urls = urls.filter(|_| self.options.prefer_nondistributable);
        let media_type = layer_media_type(&layer.media_type, self.is_oci, urls.is_some());
        let mut descriptor = Descriptor::new(media_type, layer.digest, layer.size);
        if let Some(urls) = urls {
            descriptor.urls = urls.split(' ').map(str::to_owned).collect();
        }
        if self.is_oci {
            descriptor.annotations = layer_annotations(layer);
        }
        descriptor
    }
}

/// The annotations with which a layer is told. As in BuildKit, a layer that came with an image keeps
/// those that snapshotters read.
pub(crate) fn layer_annotations(layer: &LayerBlob) -> BTreeMap<String, String> {
    /// What snapshotters read: that of eStargz, and that of OverlayBD.
    const KEPT: [&str; 6] = [
        TOC_DIGEST,
        UNCOMPRESSED_SIZE,
        "containerd.io/snapshot/overlaybd.localcommitpath",
        "containerd.io/snapshot/overlaybd/blob-digest",
        "containerd.io/snapshot/overlaybd/blob-size",
        "containerd.io/snapshot/overlaybd/blob-fs-type",
    ];
    let mut annotations = layer.annotations.clone();
    annotations.remove(BLOB_URLS);
    if layer.compression == SOURCE_BLOB {
        annotations.retain(|key, _| KEPT.contains(&&key[..]));
    }
    annotations
}

/// The layers of one platform.
struct TreeLayers<'a> {
    target: &'a Target<'a>,
    base: Option<BaseConfig>,
    epoch: Option<Timestamp>,
    /// What made each layer, and when.
    made: Vec<(String, Timestamp)>,
    /// Where each is.
    sources: Vec<LayerSource>,
    /// What each is in the image.
    made_blobs: Vec<MadeLayer>,
}

impl TreeLayers<'_> {
    fn blobs(&self) -> impl Iterator<Item = &LayerBlob> {
        self.made_blobs.iter().map(|made| &made.blob)
    }

    fn history(&self) -> Vec<HistoryLayer> {
        let layers = self.made.iter().zip(self.blobs());
        let history = layers.map(|((description, created), blob)| HistoryLayer {
            diff_id: blob.diff_id,
            description: description.clone(),
            created: *created,
        });
        history.collect()
    }
}

/// What tells a wanted blob from others.
fn key(request: &LayerRequest) -> String {
    let latest = request.latest.map(|latest| latest.seconds);
    match &request.source {
        LayerSource::Stored(layer) => format!("{} {latest:?}", layer.id()),
        LayerSource::Blob(blob) => format!("{} {latest:?}", blob.digest),
    }
}

/// The media type of a layer in the words of OCI or of Docker, with the mark that others may not
/// distribute it or without.
fn layer_media_type(media_type: &str, is_oci: bool, is_foreign: bool) -> String {
    const OCI: &str = "application/vnd.oci.image.layer.v1.tar";
    const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
    let known = BTreeMap::from([
        (OCI, '+'),
        (OCI_FOREIGN, '+'),
        (DOCKER, '.'),
        (DOCKER_FOREIGN, '.'),
    ]);
    for (prefix, mark) in known {
        let Some(rest) = media_type.strip_prefix(prefix) else {
            continue;
        };
        let compression = match rest.strip_prefix(mark) {
            Some(compression) => compression,
            None if rest.is_empty() => "",
            None => continue,
        };
        let (prefix, mark) = match (is_oci, is_foreign) {
            (true, false) => (OCI, '+'),
            (true, true) => (OCI_FOREIGN, '+'),
            (false, false) => (DOCKER, '.'),
            (false, true) => (DOCKER_FOREIGN, '.'),
        };
        return if compression.is_empty() {
            prefix.to_owned()
        } else {
            format!("{prefix}{mark}{compression}")
        };
    }
    media_type.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_of_layers_are_translated() {
        for (from, is_oci, is_foreign, to) in [
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                false,
                false,
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                true,
                false,
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                true,
                true,
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar",
                false,
                true,
                "application/vnd.docker.image.rootfs.foreign.diff.tar",
            ),
            ("application/x", false, false, "application/x"),
        ] {
            assert_eq!(layer_media_type(from, is_oci, is_foreign), to);
        }
    }
}
