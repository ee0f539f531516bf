//! What an op sees of an input, as a digest.

use sha2::{Digest as _, Sha256};

use super::engine::unblock;
use super::keys::{OpKey, Selector};
use crate::cancel::Cancel;
use crate::error::{Blame, Fault, OperationError};
use crate::id::ContentDigest;
use crate::operation::{CacheMap, Context, InputKey};
use crate::ops::file::nearest_names;
use crate::refs::Ref;
use crate::tree::checksum::{ChecksumError, ChecksumOptions, checksum, checksum_of_nothing};
use crate::tree::{TreePath, View};

/// What an op needs of an input cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot compute the checksum of {path} in input {input}{}",
    suggestion(nearest)
)]
#[non_exhaustive]
pub struct InputError {
    /// Which input of the op, from 0.
    pub input: usize,
    /// The path that was asked for.
    pub path: String,
    /// What exists and is named nearly so.
    pub nearest: Vec<String>,
    /// Why there is no checksum.
    #[source]
    pub source: ChecksumError,
}

impl Blame for InputError {
    fn fault(&self) -> Fault {
        self.source.fault()
    }
}

/// ` (did you mean a or b?)`, or nothing.
fn suggestion(nearest: &[String]) -> String {
    if nearest.is_empty() {
        String::new()
    } else {
        format!(" (did you mean {}?)", nearest.join(" or "))
    }
}

impl OpKey {
    /// The key as the scheduler takes it.
    pub(super) fn cache_map(&self) -> CacheMap {
        let mut map = CacheMap::plain(self.digest(), self.inputs.len());
        for (key, plan) in map.inputs.iter_mut().zip(&self.inputs) {
            *key = InputKey {
                selector: plan.selector,
                content: plan.content.is_some(),
                deferrable: false,
            };
        }
        map
    }
}

/// The digest of what an op sees of one input: the checksums of all parts, joined.
pub(super) async fn checksum_input(
    key: &OpKey,
    input: usize,
    value: &Ref,
    context: &Context,
) -> Result<ContentDigest, OperationError> {
    let plan = key.inputs.get(input).and_then(|plan| plan.content.clone());
    let mut selectors = plan.unwrap_or_default();
    if selectors.is_empty() {
        selectors.push(Selector::default());
    }
    let value = value.clone();
    unblock(&context.cancel, move |cancel| {
        let view = if value.is_scratch() {
            None
        } else {
            Some(value.view_until(&cancel)?)
        };
        let mut joined = Sha256::new();
        for (at, selector) in selectors.iter().enumerate() {
            if at > 0 {
                joined.update([0]);
            }
            let digest = part(view.as_ref(), selector, &cancel);
            let digest =
                digest.map_err(|source| refused(source, input, selector, view.as_ref()))?;
            joined.update(digest.to_string());
        }
        Ok(ContentDigest::from_bytes(joined.finalize().into()))
    })
    .await
}

fn absolute(selector: &Selector) -> String {
    let clean = TreePath::clean(selector.path.as_bytes()).unwrap_or_default();
    format!("/{}", String::from_utf8_lossy(clean.as_bytes()))
}

fn part(
    view: Option<&View>,
    selector: &Selector,
    cancel: &Cancel,
) -> Result<ContentDigest, ChecksumError> {
    let path = absolute(selector);
    let Some(view) = view else {
        return checksum_of_nothing(path.as_bytes());
    };
    let options = ChecksumOptions {
        follow_links: selector.follow_links,
        wildcard: selector.wildcard,
        include: selector.include.clone(),
        exclude: selector.exclude.clone(),
        required: selector.required.clone(),
    };
    checksum(view, path.as_bytes(), &options, cancel)
}

fn refused(
    source: ChecksumError,
    input: usize,
    selector: &Selector,
    view: Option<&View>,
) -> OperationError {
    if matches!(source, ChecksumError::Cancelled(_)) {
        return OperationError::Cancelled;
    }
    let path = absolute(selector);
    let nearest = match (&source, view) {
        (ChecksumError::NotFound { .. }, Some(view)) => nearest_names(view, path.as_bytes()),
        _ => Vec::new(),
    };
    InputError {
        input,
        path,
        nearest,
        source,
    }
    .into()
}
