//! What an op sees of an input, as a digest.

use sha2::{Digest as _, Sha256};

use super::engine::unblock;
use super::keys::{OpKey, Selector};
use crate::cache::listing::MOST_ENTRIES;
use crate::cache::{Change, ContentChanges, ContentListing, ListedEntry};
use crate::cancel::Cancel;
use crate::error::{Blame, Fault, OperationError};
use crate::id::ContentDigest;
use crate::operation::{CacheMap, ContentDescription, Context, InputKey};
use crate::ops::file::nearest_names;
use crate::refs::Ref;
use crate::tree::checksum::{
    ChecksumError, ChecksumOptions, Difference, ListedPart, at_hand, checksum, checksum_of_nothing,
    compare, list,
};
use crate::tree::{Node, TreePath, View};

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
    let selectors = selectors(key, input);
    let known = are_at_hand(value, &selectors, |_| true);
    let value = value.clone();
    let work = move |cancel: Cancel| {
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
    };
    match known {
        true => work(context.cancel.clone()),
        false => unblock(&context.cancel, work).await,
    }
}

/// Whether a look at these parts takes less time than a change of thread: they are in memory with
/// their checksums, and `small` says so.
fn are_at_hand(value: &Ref, selectors: &[Selector], small: impl Fn(&Node) -> bool) -> bool {
    if value.is_scratch() {
        return true;
    }
    let view = match value.made_view() {
        Some(view) if selectors.len() <= FEW_PARTS => view,
        _ => return false,
    };
    selectors.iter().all(|selector| {
        at_hand(&view, absolute(selector).as_bytes(), &options(selector)).is_some_and(&small)
    })
}

/// Parts that are looked at without a thread for it.
const FEW_PARTS: usize = 16;

/// The parts of an input that an op looks at.
fn selectors(key: &OpKey, input: usize) -> Vec<Selector> {
    let plan = key.inputs.get(input).and_then(|plan| plan.content.clone());
    let mut selectors = plan.unwrap_or_default();
    if selectors.is_empty() {
        selectors.push(Selector::default());
    }
    selectors
}

/// What an op sees of one input, as a list, and how that differs from an earlier list.
pub(super) async fn describe_input(
    key: &OpKey,
    input: usize,
    value: &Ref,
    old: Option<&ContentListing>,
    context: &Context,
) -> Result<Option<ContentDescription>, OperationError> {
    let selectors = selectors(key, input);
    let known = are_at_hand(value, &selectors, |node| !node.entry().is_directory());
    let (value, old) = (value.clone(), old.cloned());
    let work = move |cancel: Cancel| {
        if value.is_scratch() {
            return Ok(None);
        }
        let view = value.view_until(&cancel)?;
        let mut listing = ContentListing::default();
        let mut changes = old.is_some().then(ContentChanges::default);
        for (part, selector) in (0_u8..).zip(&selectors) {
            let left = MOST_ENTRIES.saturating_sub(listing.entries.len());
            let path = absolute(selector);
            let options = options(selector);
            let listed = list(&view, path.as_bytes(), &options, left, &cancel)?;
            // More than can be remembered: then nothing is.
            let Some(listed) = listed else {
                return Ok(None);
            };
            listing
                .entries
                .extend(listed.into_iter().map(|listed| entry(part, listed)));
            if let (Some(old), Some(changes)) = (&old, &mut changes) {
                tell_changes(&view, part, selector, old, changes, &cancel)?;
            }
        }
        Ok(Some(ContentDescription { listing, changes }))
    };
    match known {
        true => work(context.cancel.clone()),
        false => unblock(&context.cancel, work).await,
    }
}

fn entry(part: u8, listed: ListedPart) -> ListedEntry {
    ListedEntry {
        part,
        path: listed.path.into(),
        whole: listed.whole,
        digest: beginning(listed.digest),
    }
}

fn beginning(digest: ContentDigest) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    first
}

/// Tells how one part of an input differs from what it was.
fn tell_changes(
    view: &View,
    part: u8,
    selector: &Selector,
    old: &ContentListing,
    changes: &mut ContentChanges,
    cancel: &Cancel,
) -> Result<(), ChecksumError> {
    let top = absolute(selector);
    let options = options(selector);
    let of_part = old.entries.iter().filter(|entry| entry.part == part);
    let tests: Vec<_> = of_part
        .map(|entry| {
            let was = move |digest: ContentDigest| beginning(digest) == entry.digest;
            (entry, was)
        })
        .collect();
    let old = tests.iter().map(|(entry, was)| {
        let was: &dyn Fn(ContentDigest) -> bool = was;
        (&entry.path[..], entry.whole, was)
    });
    compare(
        view,
        top.as_bytes(),
        &options,
        old,
        cancel,
        |path, difference| {
            let change = match difference {
                Difference::Added => Change::Added,
                Difference::Removed => Change::Removed,
                Difference::Changed => Change::Changed,
            };
            let path = match (path.starts_with(b"/"), path.is_empty()) {
                (true, _) => path.to_vec(),
                (false, true) => top.as_bytes().to_vec(),
                (false, false) => [top.trim_end_matches('/').as_bytes(), b"/", path].concat(),
            };
            changes.push(path, change);
        },
    )
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
    checksum(view, path.as_bytes(), &options(selector), cancel)
}

fn options(selector: &Selector) -> ChecksumOptions {
    ChecksumOptions {
        follow_links: selector.follow_links,
        wildcard: selector.wildcard,
        include: selector.include.clone(),
        exclude: selector.exclude.clone(),
        required: selector.required.clone(),
    }
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
