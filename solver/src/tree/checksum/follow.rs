//! How the checksum finds its way through links: by the names alone, so that `missing/..` is
//! nothing and a path below a file is only missing.

use std::sync::Arc;

use crate::tree::{Kind, Node, TreePath, View};

/// Links that are followed before a path counts as a loop, as in BuildKit.
const MAX_LINKS: usize = 255;

/// What is at the end of a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// An object.
    Node(&'a Arc<Node>),
    /// Nothing.
    Missing,
    /// Nothing, because something on the way is neither a directory nor a link.
    BelowFile,
}

/// More than [`MAX_LINKS`].
#[derive(Debug)]
pub(super) struct TooManyLinks;

/// Follows links in all components of `path` but the last, and in the last if `trailing`. A link
/// that ends with `/` or `/.` is followed in its last component too.
pub(super) fn follow<'a>(
    view: &'a View,
    path: &TreePath,
    trailing: bool,
) -> Result<(TreePath, Place<'a>), TooManyLinks> {
    let mut at = TreePath::root();
    let mut way: Vec<Place<'a>> = Vec::new();
    let mut rest = path.as_bytes().to_vec();
    let mut links = 0;
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'/');
        let part: Vec<u8> = rest[..end.unwrap_or(rest.len())].to_vec();
        rest.drain(..end.map_or(rest.len(), |end| end + 1));
        match &part[..] {
            b"" | b"." => continue,
            b".." => {
                way.pop();
                at = at.parent().unwrap_or_default();
                continue;
            }
            _ => {}
        }
        let Ok(next) = at.join(&part) else {
            return Ok((at, Place::Missing));
        };
        let here = way.last().copied().unwrap_or(Place::Node(view.root()));
        let place = match here {
            Place::Node(node) if node.entry().is_directory() => {
                node.child(&part).map_or(Place::Missing, Place::Node)
            }
            Place::Missing => Place::Missing,
            Place::Node(_) | Place::BelowFile => Place::BelowFile,
        };
        let target = match place {
            Place::Node(node) if node.entry().kind == Kind::Symlink => &node.entry().target,
            _ => {
                at = next;
                way.push(place);
                continue;
            }
        };
        if !trailing && rest.is_empty() {
            return Ok((next, place));
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(TooManyLinks);
        }
        if target.starts_with(b"/") {
            at = TreePath::root();
            way.clear();
        }
        rest = [target, &b"/"[..], &rest].concat();
    }
    Ok((at, way.last().copied().unwrap_or(Place::Node(view.root()))))
}
