//! Which stacks are the layers of images.

use ashlar_llb::{ChainId, DiffId};

use super::Store;
use crate::error::Failure;
use crate::id::StackId;
use crate::meta::Meta;
use crate::oci::chain_ids;
use crate::snapshot::Stack;

/// Where the database notes them: by chain id, as the row of a stack.
const CHAINS: &str = "chain";

impl Store {
    /// Notes that the layers of `stack` are those of an image with these diff ids, so that who
    /// starts from the image need not unpack it. Nothing happens if there are not as many of both.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn note_chain(&self, diff_ids: &[DiffId], stack: &Stack) -> Result<(), Failure> {
        let layers = stack.layers();
        if layers.len() != diff_ids.len() {
            return Ok(());
        }
        let mut below = Stack::scratch();
        for (layer, chain) in layers.into_iter().zip(chain_ids(diff_ids)) {
            below = below.push(layer);
            let row = self.layers.save(&below)?;
            put(&*self.meta, &chain, row)?;
        }
        Ok(())
    }
}

/// Notes which stack the layers up to a chain id are.
pub(crate) fn put(meta: &dyn Meta, chain: &ChainId, stack: StackId) -> Result<(), Failure> {
    Ok(meta.put_name(CHAINS, chain.as_bytes(), &stack.0.to_le_bytes())?)
}

/// The stack of the layers up to a chain id, if it was noted. It may be gone.
pub(crate) fn find(meta: &dyn Meta, chain: &ChainId) -> Result<Option<StackId>, Failure> {
    let row = meta.name(CHAINS, chain.as_bytes())?;
    let row = row.and_then(|row| <[u8; 8]>::try_from(&row[..]).ok());
    Ok(row.map(|row| StackId(i64::from_le_bytes(row))))
}
