//! How layers are compressed.

use std::fmt;
use std::ops::RangeInclusive;

/// How layers are compressed.
///
/// The bytes depend on this and on the layer alone, not on how many processors there are. The diff
/// id is that of the layer, whatever the compression; that of eStargz has the table of contents in
/// it.
///
/// ```
/// use ashlar_exporters::Compression;
///
/// assert_eq!(Compression::default(), Compression::Gzip { level: 5 });
/// assert_eq!(Compression::named("zstd"), Some(Compression::Zstd { level: 3 }));
/// assert_eq!(Compression::Zstd { level: 3 }.with_level(23), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// Gzip, in members of 1 MiB that are compressed at the same time, by libdeflate. Parts that do
    /// not get smaller, such as archives, are members of their own and stored. Everything that
    /// follows RFC 1952 reads it.
    Gzip {
        /// 0 (stored) to 9. Default 5, which is faster than level 6 of Go's library, BuildKit's
        /// default, and gives no more bytes for programs and sources.
        level: u8,
    },
    /// Gzip as one member, for readers that stop after the first, by zlib. Slower than
    /// [`Compression::Gzip`]. BuildKit has no name for it.
    GzipStream {
        /// 0 (stored) to 9. Default 6.
        level: u8,
    },
    /// eStargz: gzip whose files can be read one by one (lazy pulling). The layer has a table of
    /// contents and a landmark behind the end of its tar, where unpackers do not look, so that the
    /// files of the image are the same. Needs OCI media types.
    Estargz {
        /// 0 (stored) to 9. Default 5.
        level: u8,
    },
    /// Zstandard, in frames of 10 MiB that are compressed at the same time. Level 3 takes less
    /// time than that of libzstd for frames that are not text, which become larger by it: by 1 to 3 % on
    /// average.
    Zstd {
        /// 0 to 22; 0 is the default, 3. From 16 each processor takes up to 130 MB.
        level: u8,
    },
}

impl Default for Compression {
    fn default() -> Self {
        Self::Gzip { level: 5 }
    }
}

impl Compression {
    /// The compressions, with their default levels; BuildKit's first.
    pub const ALL: [Self; 5] = [
        Self::Uncompressed,
        Self::Gzip { level: 5 },
        Self::Estargz { level: 5 },
        Self::Zstd { level: 3 },
        Self::GzipStream { level: 6 },
    ];

    /// The compression that `compression=…` of an output names, with its default level:
    /// `uncompressed`, `gzip`, `estargz`, `zstd`, and `gzip-stream`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// The name that [`Compression::named`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip { .. } => "gzip",
            Self::GzipStream { .. } => "gzip-stream",
            Self::Estargz { .. } => "estargz",
            Self::Zstd { .. } => "zstd",
        }
    }

    /// The levels there are; 0 alone where a level means nothing.
    pub fn levels(self) -> RangeInclusive<u8> {
        match self {
            Self::Uncompressed => 0..=0,
            Self::Gzip { .. } | Self::GzipStream { .. } | Self::Estargz { .. } => 0..=9,
            Self::Zstd { .. } => 0..=22,
        }
    }

    /// The same with another level; `None` if there is no such level. A plain tar has none, and
    /// takes any that BuildKit would.
    pub fn with_level(self, level: u8) -> Option<Self> {
        let changed = match self {
            Self::Uncompressed => return Some(self),
            Self::Gzip { .. } => Self::Gzip { level },
            Self::GzipStream { .. } => Self::GzipStream { level },
            Self::Estargz { .. } => Self::Estargz { level },
            Self::Zstd { .. } => Self::Zstd { level },
        };
        self.levels().contains(&level).then_some(changed)
    }

    /// Whether layers compressed so cannot have Docker's media types, because what is said about
    /// them in annotations would be lost.
    pub fn needs_oci_types(self) -> bool {
        matches!(self, Self::Estargz { .. })
    }

    /// The level that is used: one that does not exist is the highest.
    pub(crate) fn level(self) -> u8 {
        let level = match self {
            Self::Uncompressed => 0,
            Self::Zstd { level: 0 } => 3,
            Self::Gzip { level }
            | Self::GzipStream { level }
            | Self::Estargz { level }
            | Self::Zstd { level } => level,
        };
        level.min(*self.levels().end())
    }

    /// The media type of a layer that is compressed so.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Uncompressed => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip { .. } | Self::GzipStream { .. } | Self::Estargz { .. } => {
                "application/vnd.oci.image.layer.v1.tar+gzip"
            }
            Self::Zstd { .. } => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Name and level, as `gzip-5`.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncompressed => f.write_str(self.name()),
            _ => write!(f, "{}-{}", self.name(), self.level()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_levels() {
        for one in Compression::ALL {
            assert_eq!(Compression::named(one.name()), Some(one));
            assert_eq!(one.with_level(one.level()), Some(one));
            let far = one.with_level(23);
            assert_eq!(far.is_none(), one != Compression::Uncompressed);
        }
        assert_eq!(Compression::named("lzma"), None);
        assert_eq!(Compression::Zstd { level: 0 }.to_string(), "zstd-3");
        assert_eq!(Compression::Gzip { level: 200 }.to_string(), "gzip-9");
    }
}
