//! From a result to an image.

use std::collections::BTreeMap;

use ashlar_llb::Platform;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::Failure;
use ashlar_solver::meta::LayerBlob;
use ashlar_solver::oci::{Descriptor, media_type};
use ashlar_solver::result::{
    BASE_CONFIG_KEY, BuildResult, IMAGE_CONFIG_KEY, INLINE_CACHE_KEY, PlatformRef, SOURCE_BLOB,
};
use ashlar_solver::tree::Timestamp;
use serde::Deserialize;

use super::config::{BaseConfig, ConfigInput, HistoryLayer, image_config};
use super::manifest::{Index, Manifest};
use super::{BlobContent, Image, ImageBlob};
use crate::layer::{LayerOptions, LayerRequest, LayerSource, layer_blobs};
use crate::{
    AnnotationKind, Annotations, Compatibility, ExportError, ImageOptions, MediaTypes, json,
};

/// What an exporter decides where nobody asked for anything.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Defaults {
    /// Media types whatever the compatibility level.
    pub(crate) media_types: Option<MediaTypes>,
    /// Whether attestations for inline use make an index of a single image.
    pub(crate) inline_attestations: bool,
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
    let plan = Plan::new(&result, options, defaults)?;
    let mut image = Image::new(result.store.clone(), options.references(&result)?);
    let mut trees = plan.layers(&mut image, cancel)?;
    match trees.pop() {
        Some(only) if !plan.is_index => plan.single(&mut image, only)?,
        last => {
            trees.extend(last);
            plan.index(&mut image, trees)?;
        }
    }
    image.each_once();
    Ok(image)
}

/// Options with everything decided.
struct Plan<'a> {
    result: &'a BuildResult,
    options: &'a ImageOptions,
    annotations: Annotations,
    is_oci: bool,
    is_index: bool,
}

impl<'a> Plan<'a> {
    fn new(
        result: &'a BuildResult,
        options: &'a ImageOptions,
        defaults: Defaults,
    ) -> Result<Self, ExportError> {
        let invalid = |reason: &str| ExportError::Option {
            reason: reason.to_owned(),
        };
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
        if options.artifact == Some(true) && !is_oci {
            return Err(invalid("attestations as artifacts need OCI media types"));
        }
        for platform in annotations.platforms() {
            let found = !result.is_map()
                || result.refs().len() == 1
                || result.refs().iter().any(|each| each.id == platform);
            if !found {
                return Err(ExportError::Option {
                    reason: format!("an annotation is for {platform}, which the result is not"),
                });
            }
        }
        let beyond_docker = [
            AnnotationKind::Index,
            AnnotationKind::IndexDescriptor,
            AnnotationKind::ManifestDescriptor,
        ];
        if !is_oci && annotations.has(&beyond_docker) {
            let reason = "annotations of indexes and descriptors need OCI media types";
            return Err(invalid(reason));
        }
        let attested = result.attestations.values().flatten();
        let mut attested =
            attested.filter(|each| defaults.inline_attestations || !each.is_inline_only());
        if attested.next().is_some() {
            return Err(invalid("attestations are not written into images yet"));
        }
        let plan = Self {
            result,
            options,
            annotations,
            is_oci,
            is_index: result.is_map(),
        };
        let of_index = [AnnotationKind::Index, AnnotationKind::IndexDescriptor];
        if !plan.is_index && plan.annotations.has(&of_index) {
            let reason = "annotations of an index need one: the result has a single platform";
            return Err(invalid(reason));
        }
        Ok(plan)
    }

    fn single(&self, image: &mut Image, layers: TreeLayers<'_>) -> Result<(), ExportError> {
        let tree = layers.tree;
        let config = self.result.metadata_of(IMAGE_CONFIG_KEY, &tree.id);
        // The config tells the platform, unless somebody named it.
        let platform = match config.filter(|_| tree.id.is_empty()) {
            Some(config) => platform_of(config)?.normalised(),
            None => tree.platform.clone().normalised(),
        };
        let (mut manifest, config) = self.manifest(image, layers, None)?;
        manifest.platform = Some((&platform).into());
        image.root = manifest;
        image.config = Some(config.digest);
        Ok(())
    }

    fn index(&self, image: &mut Image, trees: Vec<TreeLayers<'_>>) -> Result<(), ExportError> {
        let mut manifests = Vec::new();
        for layers in trees {
            let platform = &layers.tree.platform;
            let (mut manifest, _) = self.manifest(image, layers, Some(platform))?;
            manifest.platform = Some(platform.into());
            manifests.push(manifest);
        }
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

    /// Adds layers, config and manifest of one platform; gives what names manifest and config.
    fn manifest(
        &self,
        image: &mut Image,
        layers: TreeLayers<'_>,
        platform: Option<&Platform>,
    ) -> Result<(Descriptor, Descriptor), ExportError> {
        let tree = layers.tree;
        let of = |key| self.result.metadata_of(key, &tree.id);
        let config = image_config(&ConfigInput {
            given: of(IMAGE_CONFIG_KEY).filter(|text| !text.is_empty()),
            platform: &tree.platform,
            layers: &layers.history(),
            epoch: layers.epoch,
            base: layers.base.as_ref(),
            inline_cache: of(INLINE_CACHE_KEY),
        })?;
        // Written with an epoch this is the epoch, as BuildKit has it.
        let created = match self.options.epoch.moment(self.result, "")? {
            Some(epoch) => Some(epoch.to_string()),
            None => config.created,
        };
        image.created = image.created.take().max(created);
        let mut described = Vec::new();
        for layer in layers.blobs {
            let descriptor = self.describe(layer);
            image.blobs.push(ImageBlob {
                descriptor: descriptor.clone(),
                content: BlobContent::Stored,
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

    /// The layers of all platforms as blobs, made at the same time.
    fn layers(
        &self,
        image: &mut Image,
        cancel: &Cancel,
    ) -> Result<Vec<TreeLayers<'a>>, ExportError> {
        let options = LayerOptions {
            compression: self.options.compression,
            force: self.options.force_compression,
        };
        let (mut trees, mut requests) = (Vec::new(), Vec::new());
        for tree in self.result.refs() {
            let (layers, wanted) = self.requests(tree, options, image, cancel)?;
            trees.push(layers);
            requests.extend(wanted);
        }
        let mut blobs = layer_blobs(&self.result.store, options, &requests, cancel)?.into_iter();
        for tree in &mut trees {
            tree.blobs = blobs.by_ref().take(tree.made.len()).collect();
        }
        Ok(trees)
    }

    /// What is wanted of the layers of one platform.
    fn requests(
        &self,
        tree: &'a PlatformRef,
        options: LayerOptions,
        image: &mut Image,
        cancel: &Cancel,
    ) -> Result<(TreeLayers<'a>, Vec<LayerRequest>), ExportError> {
        let base = self.result.metadata_of(BASE_CONFIG_KEY, &tree.id);
        let base = base.filter(|text| !text.is_empty());
        let base = base.map(BaseConfig::parse).transpose()?;
        let epoch = self.options.epoch.moment(self.result, &tree.id)?;
        let latest = epoch.filter(|_| self.options.rewrite_timestamp);
        let mut made = Vec::new();
        let mut requests = Vec::new();
        if let Some(lazy) = tree.reference.lazy_layers() {
            // An image that nothing changed: its blobs are all it takes.
            if options.force || latest.is_some() {
                tree.reference.fetch(cancel)?;
            } else {
                image.lazy.push(tree.reference.clone());
            }
            for layer in lazy {
                made.push((layer.text, layer.created));
                let source = LayerSource::Blob(layer.blob);
                requests.push(LayerRequest { source, latest });
            }
        } else {
            for layer in tree.reference.stack(cancel)?.layers() {
                let content = layer.content().map_err(Failure::from)?;
                made.push((content.1.text.clone(), content.1.created));
                let source = LayerSource::Stored(layer);
                requests.push(LayerRequest { source, latest });
            }
        }
        if latest.is_some() {
            self.keep_base(base.as_ref(), &mut requests)?;
        }
        let layers = TreeLayers {
            tree,
            base,
            epoch,
            made,
            blobs: Vec::new(),
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
            if original != Some(*wanted) {
                break;
            }
            request.latest = None;
        }
        Ok(())
    }

    fn describe(&self, layer: LayerBlob) -> Descriptor {
        let keep = self.options.prefer_nondistributable;
        let media_type = layer_media_type(&layer.media_type, self.is_oci, keep);
        let mut descriptor = Descriptor::new(media_type, layer.digest, layer.size);
        if self.is_oci {
            descriptor.annotations = layer.annotations;
        }
        descriptor
    }
}

/// The layers of one platform.
struct TreeLayers<'a> {
    tree: &'a PlatformRef,
    base: Option<BaseConfig>,
    epoch: Option<Timestamp>,
    /// What made each layer, and when.
    made: Vec<(String, Timestamp)>,
    blobs: Vec<LayerBlob>,
}

impl TreeLayers<'_> {
    fn history(&self) -> Vec<HistoryLayer> {
        let layers = self.made.iter().zip(&self.blobs);
        let history = layers.map(|((description, created), blob)| HistoryLayer {
            diff_id: blob.diff_id,
            description: description.clone(),
            created: *created,
        });
        history.collect()
    }
}

/// The platform that an image config names.
fn platform_of(config: &[u8]) -> Result<Platform, ExportError> {
    #[derive(Deserialize, Default)]
    struct Names {
        #[serde(default)]
        os: String,
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        variant: String,
        #[serde(default, rename = "os.version")]
        os_version: String,
        #[serde(default, rename = "os.features")]
        os_features: Vec<String>,
    }
    let names: Names = serde_json::from_slice(config).map_err(ExportError::json)?;
    let mut platform = Platform::new(names.os, names.architecture).with_variant(names.variant);
    platform.os_version = names.os_version;
    platform.os_features = names.os_features;
    Ok(platform)
}

/// The media type of a layer in the words of OCI or of Docker, and, unless that is preferred,
/// without a mark that others may not distribute it.
fn layer_media_type(media_type: &str, is_oci: bool, keep_nondistributable: bool) -> String {
    const OCI: &str = "application/vnd.oci.image.layer.v1.tar";
    const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
    let known = BTreeMap::from([
        (OCI, ('+', false)),
        (OCI_FOREIGN, ('+', true)),
        (DOCKER, ('.', false)),
        (DOCKER_FOREIGN, ('.', true)),
    ]);
    for (prefix, (mark, foreign)) in known {
        let Some(rest) = media_type.strip_prefix(prefix) else {
            continue;
        };
        let compression = match rest.strip_prefix(mark) {
            Some(compression) => compression,
            None if rest.is_empty() => "",
            None => continue,
        };
        let (prefix, mark) = match (is_oci, foreign && keep_nondistributable) {
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
        for (from, is_oci, keep, to) in [
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
                "application/vnd.docker.image.rootfs.diff.tar",
            ),
            ("application/x", false, false, "application/x"),
        ] {
            assert_eq!(layer_media_type(from, is_oci, keep), to);
        }
    }
}
