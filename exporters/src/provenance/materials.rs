//! What a result was made of.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_llb::pb::op::Op;
use ashlar_llb::{BlobDigest, Graph, Platform, Reference};
use ashlar_solver::provenance::{Provenance, ResolvedSource};
use serde::Serialize;

use crate::purl::{image_purl, with_qualifier};
use crate::redact;

/// Something that a result was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Material {
    pub(super) uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) digest: BTreeMap<&'static str, String>,
}

/// Something that a caller lends under an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Lent {
    pub(super) id: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) optional: bool,
}

/// A directory that a caller lends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct LocalSource {
    pub(super) name: String,
}

/// Everything that went into a result.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// In BuildKit's order: images, blobs, git, http, each sorted by their names.
    pub(super) materials: Vec<Material>,
    pub(super) locals: Vec<LocalSource>,
    pub(super) secrets: Vec<Lent>,
    pub(super) ssh: Vec<Lent>,
    /// Some step had a way into a network.
    pub(super) network: bool,
    /// What has no digest, and why.
    pub(super) incomplete: Vec<String>,
}

/// An image, as BuildKit tells two apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Image {
    reference: String,
    layout: bool,
    platform: String,
}

impl Inputs {
    pub(super) fn of(provenance: &Provenance, graph: &Graph) -> Self {
        let mut inputs = Self::default();
        let mut sources = Sources::default();
        let (mut secrets, mut agents) = (BTreeMap::new(), BTreeMap::new());
        for vertex in &provenance.vertices {
            inputs.network |= vertex.network;
            if let Some(source) = &vertex.source {
                sources.add(source);
            }
            let op = graph.find(&vertex.digest).map(|at| graph.vertex(at).op());
            match op {
                Some(Op::Exec(exec)) => {
                    let mounts = &exec.mounts;
                    for secret in mounts.iter().filter_map(|mount| mount.secret_opt.as_ref()) {
                        lend(&mut secrets, &secret.id, secret.optional);
                    }
                    for secret in &exec.secretenv {
                        lend(&mut secrets, &secret.id, secret.optional);
                    }
                    for agent in mounts.iter().filter_map(|mount| mount.ssh_opt.as_ref()) {
                        let id = match &agent.id[..] {
                            "" => "default",
                            id => id,
                        };
                        lend(&mut agents, id, agent.optional);
                    }
                }
                Some(Op::Source(source)) => {
                    for key in ["git.authtokensecret", "git.authheadersecret"] {
                        if let Some(id) = source.attrs.get(key).filter(|id| !id.is_empty()) {
                            lend(&mut secrets, id, true);
                        }
                    }
                    if vertex.source.is_none() {
                        let name = redact::credentials(&source.identifier);
                        inputs.incomplete.push(format!("{name} has no digest"));
                    }
                }
                _ => {}
            }
        }
        for name in std::mem::take(&mut sources.locals) {
            let reason = format!("local directory `{name}` has no digest");
            inputs.incomplete.push(reason);
            inputs.locals.push(LocalSource { name });
        }
        inputs.materials = sources.into_materials();
        inputs.secrets = lent(secrets);
        inputs.ssh = lent(agents);
        inputs
    }
}

/// What the sources of a result led to, each once and in the order of their names.
#[derive(Default)]
struct Sources {
    images: BTreeMap<Image, (Platform, BlobDigest)>,
    /// By reference, and whether that leads into a layout.
    blobs: BTreeMap<(String, bool), BlobDigest>,
    git: BTreeMap<String, String>,
    http: BTreeMap<String, BlobDigest>,
    locals: BTreeSet<String>,
}

impl Sources {
    fn add(&mut self, source: &ResolvedSource) {
        match source {
            ResolvedSource::Image {
                reference,
                platform,
                digest,
                layout,
                ..
            } => {
                let image = Image {
                    reference: reference.clone(),
                    layout: *layout,
                    platform: platform.format(),
                };
                let known = self.images.entry(image);
                known.or_insert((platform.clone(), *digest));
            }
            ResolvedSource::Blob {
                reference,
                digest,
                layout,
            } => {
                self.blobs.insert((reference.clone(), *layout), *digest);
            }
            ResolvedSource::Git { address, commit } => {
                let known = self.git.entry(redact::credentials(address));
                known.or_insert_with(|| commit.clone());
            }
            ResolvedSource::Http { address, digest } => {
                let known = self.http.entry(redact::credentials(address));
                known.or_insert(*digest);
            }
            ResolvedSource::Local { name } => {
                self.locals.insert(name.clone());
            }
            _ => {}
        }
    }

    fn into_materials(self) -> Vec<Material> {
        let mut materials = Vec::new();
        let tagged: BTreeSet<String> = self
            .images
            .keys()
            .filter_map(|image| Reference::parse(&image.reference).ok())
            .filter(|reference| reference.digest().is_none())
            .map(|reference| name_and_tag(&reference))
            .collect();
        for (image, (platform, digest)) in self.images {
            let reference = Reference::parse(&image.reference);
            // The same image is known by its tag.
            let is_known = reference.as_ref().is_ok_and(|reference| {
                reference.digest().is_some() && tagged.contains(&name_and_tag(reference))
            });
            if !is_known {
                let uri = uri(&image.reference, image.layout, Some(&platform));
                materials.push(Material::new(uri, &digest));
            }
        }
        for ((reference, layout), digest) in self.blobs {
            let uri = with_qualifier(&uri(&reference, layout, None), "ref_type", "blob");
            materials.push(Material::new(uri, &digest));
        }
        for (uri, commit) in self.git {
            let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
            let digest = BTreeMap::from([(algorithm, commit)]);
            materials.push(Material { uri, digest });
        }
        let http = self.http.into_iter();
        materials.extend(http.map(|(uri, digest)| Material::new(uri, &digest)));
        materials
    }
}

impl Material {
    fn new(uri: String, digest: &BlobDigest) -> Self {
        let text = digest.to_string();
        let hex = text.strip_prefix("sha256:").unwrap_or(&text).to_owned();
        Self {
            uri,
            digest: BTreeMap::from([("sha256", hex)]),
        }
    }
}

/// Notes something lent; what one step cannot do without is not optional.
fn lend(all: &mut BTreeMap<String, bool>, id: &str, optional: bool) {
    let known = all.entry(id.to_owned()).or_insert(true);
    *known &= optional;
}

fn lent(all: BTreeMap<String, bool>) -> Vec<Lent> {
    all.into_iter()
        .map(|(id, optional)| Lent { id, optional })
        .collect()
}

fn name_and_tag(reference: &Reference) -> String {
    let tag = reference.tag().unwrap_or("latest");
    format!("{}:{tag}", reference.name())
}

/// The package URL of an image. References into layouts need not look like those of registries.
fn uri(reference: &str, layout: bool, platform: Option<&Platform>) -> String {
    let kind = if layout { "oci" } else { "docker" };
    match Reference::parse(reference) {
        Ok(parsed) => image_purl(kind, &parsed, platform),
        Err(_) => {
            let mut purl = crate::purl::Purl::new(kind, reference, "");
            if let Some(platform) = platform {
                purl.qualifier("platform", platform.format());
            }
            purl.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_8_addresses_of_sources_have_no_credentials() {
        let digest = BlobDigest::of(b"");
        let mut sources = Sources::default();
        sources.add(&ResolvedSource::Git {
            address: "https://me:hunter2@host/repo.git#main".to_owned(),
            commit: "0".repeat(40),
        });
        sources.add(&ResolvedSource::Http {
            address: "https://token@host/file".to_owned(),
            digest,
        });
        let materials = sources.into_materials();
        let uris: Vec<&str> = materials.iter().map(|each| &each.uri[..]).collect();
        assert_eq!(
            uris,
            [
                "https://xxxxx:xxxxx@host/repo.git#main",
                "https://xxxxx@host/file"
            ]
        );
        assert!(materials[0].digest.contains_key("sha1"));
    }

    #[test]
    fn an_image_that_is_known_by_its_tag_is_told_once() {
        let image = |reference: &str| ResolvedSource::Image {
            reference: reference.to_owned(),
            platform: Platform::linux_amd64(),
            digest: BlobDigest::of(b"image"),
            layout: false,
            layers: Vec::new(),
        };
        let digest = BlobDigest::of(b"image");
        let mut sources = Sources::default();
        for reference in [
            "docker.io/library/a:v1".to_owned(),
            format!("docker.io/library/a:v1@{digest}"),
            format!("docker.io/library/b:v1@{digest}"),
        ] {
            sources.add(&image(&reference));
        }
        let materials = sources.into_materials();
        let uris: Vec<&str> = materials.iter().map(|each| &each.uri[..]).collect();
        let platform = "platform=linux%2Famd64";
        assert_eq!(
            uris,
            [
                format!("pkg:docker/a@v1?{platform}"),
                format!("pkg:docker/b@v1?digest={digest}&{platform}")
            ]
        );
    }

    #[test]
    fn what_one_step_cannot_do_without_is_not_optional() {
        let mut all = BTreeMap::new();
        for optional in [true, false, true] {
            lend(&mut all, "id", optional);
        }
        lend(&mut all, "other", true);
        let optional: Vec<bool> = lent(all).iter().map(|each| each.optional).collect();
        assert_eq!(optional, [false, true]);
    }
}
