//! How much the engine takes from its inputs before it refuses them.

/// Ceilings on foreign input. The defaults are far above what real builds use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes that one layer may inflate to. 64 GiB: larger than any published image.
    pub layer_bytes: u64,
    /// Entries of one layer. 10 million.
    pub layer_entries: u64,
    /// Bytes of a manifest, index or image config. 8 MiB, twice what registries accept.
    pub manifest_bytes: u64,
    /// Layers of one image. 4,096.
    pub image_layers: usize,
    /// Entries of one local directory. 10 million.
    pub local_entries: u64,
    /// Builds inside of builds: how often a definition may lead to a definition. 16.
    pub build_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 64 << 30,
            layer_entries: 10_000_000,
            manifest_bytes: 8 << 20,
            image_layers: 4096,
            local_entries: 10_000_000,
            build_depth: 16,
        }
    }
}
