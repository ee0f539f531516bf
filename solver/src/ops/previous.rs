//! Which layer a copy of a lent directory made the last time, so that what did not change since is
//! linked from there instead of read and written again.
//!
//! Only time is lost if it is not known, or wrong: a file is linked only if its checksum is the
//! right one.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::Engine;
use crate::id::LayerId;
use crate::meta::{Meta, MetaError};
use crate::tree::View;
use crate::tree::writer::Previous;

/// Where the database notes the layers of copies.
const COPIES: &str = "copy";

/// Copies that are remembered. When there are more, those whose layers are gone are forgotten, and
/// if there are none, all: a row is small, but nobody else removes it.
const MOST: usize = 1000;

/// Stands for a copy: what is done, and with which directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyName([u8; 32]);

impl CopyName {
    /// The copy of `source` that `what` tells apart from all others; `None` if its files are not
    /// those of a lent directory.
    pub(super) fn new(what: &[&[u8]], source: &View) -> Option<Self> {
        let lent = source.root().files()?.lent()?;
        let mut hash = Sha256::new();
        hash.update(lent);
        for part in what {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Some(Self(hash.finalize().into()))
    }

    /// The layer that this copy made the last time, if it is there. It stays as long as somebody
    /// holds it. Blocks.
    pub(super) fn previous(&self, engine: &Engine) -> Option<Arc<dyn Previous>> {
        let noted = engine.meta.name(COPIES, &self.0).ok()??;
        engine.layers.layer(layer(&noted)?).ok()?.previous().ok()
    }

    /// Notes the layer that this copy has made.
    ///
    /// # Errors
    /// The database cannot be written.
    pub(super) fn remember(&self, engine: &Engine, made: LayerId) -> Result<(), MetaError> {
        if engine.meta.name(COPIES, &self.0)?.is_none() {
            forget(&*engine.meta, &|made| engine.layers.layer(made).is_err())?;
        }
        let made = made.bits().to_le_bytes();
        engine.meta.put_name(COPIES, &self.0, &made)
    }
}

/// Makes room for one more. `gone`: whether there is no such layer any more.
fn forget(names: &dyn Meta, gone: &dyn Fn(LayerId) -> bool) -> Result<(), MetaError> {
    let all = names.names(COPIES)?;
    if all.len() < MOST {
        return Ok(());
    }
    let of_use = |value: &[u8]| layer(value).is_some_and(|layer| !gone(layer));
    let all_of_use = all.iter().all(|(_, value)| of_use(value));
    let no_more = all.iter().filter(|(_, value)| all_of_use || !of_use(value));
    for (name, _) in no_more {
        names.remove_name(COPIES, name)?;
    }
    Ok(())
}

fn layer(value: &[u8]) -> Option<LayerId> {
    let bits = value.try_into().ok()?;
    Some(LayerId::from_bits(u64::from_le_bytes(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Memory, Names as _};

    #[test]
    fn what_is_remembered_does_not_grow_for_ever() {
        let names = Memory::new();
        let put = |number: u64| {
            names
                .put_name(COPIES, &number.to_le_bytes(), &number.to_le_bytes())
                .unwrap();
        };
        let most = MOST as u64;
        (1..most).for_each(put);
        let count = || names.names(COPIES).unwrap().len();
        forget(&names, &|_| true).unwrap();
        assert_eq!(count(), MOST - 1, "there is room");
        put(0);
        forget(&names, &|layer| layer.bits() % 4 == 0).unwrap();
        assert_eq!(count(), MOST / 4 * 3, "without those that are gone");
        (0..most).for_each(put);
        forget(&names, &|_| false).unwrap();
        assert_eq!(count(), 0);
    }
}
