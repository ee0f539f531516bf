//! The cache keys of images, from the preimages that BuildKit hashes.

use ashlar_llb::digest::{BlobDigest, ChainId, DiffId};
use ashlar_llb::platform::Platform;
use serde::Serialize;

use crate::oci::{ImageConfig, chain_ids};

/// Field order and names are those of the original; `Limit` is left out, not 0, if there is none.
#[derive(Serialize)]
struct Preimage<'a> {
    #[serde(rename = "Digest")]
    digest: String,
    #[serde(rename = "OS")]
    os: &'a str,
    #[serde(rename = "Arch")]
    arch: &'a str,
    #[serde(rename = "Variant", skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    #[serde(rename = "OSVersion", skip_serializing_if = "str::is_empty")]
    os_version: &'a str,
    #[serde(rename = "OSFeatures", skip_serializing_if = "<[String]>::is_empty")]
    os_features: &'a [String],
    #[serde(rename = "Limit", skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

/// The first key of an image source: which manifest was asked for, for which platform, and how
/// many of its layers. `digest` is what the reference resolved to, which may be an index. The
/// cache digest of the source is `sha256("buildkit.source.v0:" + key)`.
pub fn manifest_key(digest: &BlobDigest, platform: &Platform, limit: Option<usize>) -> String {
    let preimage = Preimage {
        digest: digest.to_string(),
        os: &platform.os,
        arch: &platform.architecture,
        variant: &platform.variant,
        os_version: &platform.os_version,
        os_features: &platform.os_features,
        limit,
    };
    let text = serde_json::to_string(&preimage).expect("BUG: strings and numbers are JSON");
    // Go escapes these in strings; outside of strings they do not occur.
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => escaped.push(character),
        }
    }
    BlobDigest::of(escaped.as_bytes()).to_string()
}

/// The second key of an image source: the chain id of its layers, so that images of equal layers
/// share what was built on them. `None` for an image without layers, whose second key is its
/// first. A config that cannot be parsed counts by its digest.
///
/// `limit` is how many layers are used; more than there are is an error of the caller and counts
/// as all of them here.
pub fn chain_key(config: &[u8], limit: Option<usize>) -> Option<String> {
    let Ok(parsed) = serde_json::from_slice::<ImageConfig>(config) else {
        return Some(BlobDigest::of(config).to_string());
    };
    if parsed.rootfs.kind != "layers" {
        return None;
    }
    let ids: &[DiffId] = &parsed.rootfs.diff_ids;
    let used = limit.unwrap_or(ids.len()).min(ids.len());
    chain_ids(&ids[..used]).last().map(ChainId::to_string)
}
