//! Mounts of exec ops and the options of each kind.

use crate::encode::{Encode, Writer};

/// One mount of an exec op.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Mount {
    /// Position in the op's inputs, or [`EMPTY`](super::EMPTY) for none.
    #[prost(int64, tag = "1")]
    pub input: i64,
    /// Path inside the input that is mounted; empty means its root.
    #[prost(string, tag = "2")]
    pub selector: String,
    /// Where the process sees the mount.
    #[prost(string, tag = "3")]
    pub dest: String,
    /// Output index the changed mount becomes, or [`SKIP_OUTPUT`](super::SKIP_OUTPUT).
    #[prost(int64, tag = "4")]
    pub output: i64,
    /// Whether the process must not write to it.
    #[prost(bool, tag = "5")]
    pub readonly: bool,
    /// Kind of the mount, a [`MountType`].
    #[prost(enumeration = "MountType", tag = "6")]
    pub mount_type: i32,
    /// Options of a tmpfs mount.
    #[prost(message, optional, tag = "19")]
    pub tmpfs_opt: Option<TmpfsOpt>,
    /// Options of a cache mount.
    #[prost(message, optional, tag = "20")]
    pub cache_opt: Option<CacheOpt>,
    /// Options of a secret mount.
    #[prost(message, optional, tag = "21")]
    pub secret_opt: Option<SecretOpt>,
    /// Options of an ssh agent mount.
    #[prost(message, optional, tag = "22")]
    pub ssh_opt: Option<SshOpt>,
    /// Result of a gateway container request that is mounted; unused in definitions.
    #[prost(string, tag = "23")]
    pub result_id: String,
    /// Whether the input's content is part of the cache key, a [`MountContentCache`].
    #[prost(enumeration = "MountContentCache", tag = "24")]
    pub content_cache: i32,
}

impl Encode for Mount {
    fn write_fields(&self, out: &mut Writer) {
        let fields = MountFields {
            input: self.input,
            selector: &self.selector,
            dest: &self.dest,
            output: self.output,
            readonly: self.readonly,
            mount_type: self.mount_type,
            tmpfs_opt: self.tmpfs_opt,
            cache_opt: self.cache_opt.as_ref().map(CacheOpt::fields),
            secret_opt: self.secret_opt.as_ref().map(SecretOpt::fields),
            ssh_opt: self.ssh_opt.as_ref().map(SshOpt::fields),
            result_id: &self.result_id,
            content_cache: self.content_cache,
        };
        fields.write_fields(out);
    }
}

/// The fields of a [`Mount`], wherever they are.
#[derive(Default)]
pub(crate) struct MountFields<'a> {
    pub(crate) input: i64,
    pub(crate) selector: &'a str,
    pub(crate) dest: &'a str,
    pub(crate) output: i64,
    pub(crate) readonly: bool,
    pub(crate) mount_type: i32,
    pub(crate) tmpfs_opt: Option<TmpfsOpt>,
    pub(crate) cache_opt: Option<CacheFields<'a>>,
    pub(crate) secret_opt: Option<SecretFields<'a>>,
    pub(crate) ssh_opt: Option<SshFields<'a>>,
    pub(crate) result_id: &'a str,
    pub(crate) content_cache: i32,
}

impl Encode for MountFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.int64(1, self.input);
        out.string(2, self.selector);
        out.string(3, self.dest);
        out.int64(4, self.output);
        out.bool(5, self.readonly);
        out.int32(6, self.mount_type);
        out.optional(19, self.tmpfs_opt.as_ref());
        out.optional(20, self.cache_opt.as_ref());
        out.optional(21, self.secret_opt.as_ref());
        out.optional(22, self.ssh_opt.as_ref());
        out.string(23, self.result_id);
        out.int32(24, self.content_cache);
    }
}

/// Options of a tmpfs mount.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct TmpfsOpt {
    /// Upper limit in bytes; 0 means none.
    #[prost(int64, tag = "1")]
    pub size: i64,
}

impl Encode for TmpfsOpt {
    fn write_fields(&self, out: &mut Writer) {
        out.int64(1, self.size);
    }
}

/// Options of a cache mount.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct CacheOpt {
    /// Name of the cache directory; empty means the mount's destination.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What happens with several writers, a [`CacheSharingOpt`].
    #[prost(enumeration = "CacheSharingOpt", tag = "2")]
    pub sharing: i32,
}

impl CacheOpt {
    fn fields(&self) -> CacheFields<'_> {
        CacheFields {
            id: &self.id,
            sharing: self.sharing,
        }
    }
}

impl Encode for CacheOpt {
    fn write_fields(&self, out: &mut Writer) {
        self.fields().write_fields(out);
    }
}

/// The fields of a [`CacheOpt`], wherever they are.
pub(crate) struct CacheFields<'a> {
    pub(crate) id: &'a str,
    pub(crate) sharing: i32,
}

impl Encode for CacheFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, self.id);
        out.int32(2, self.sharing);
    }
}

/// Options of a secret mount.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SecretOpt {
    /// Id under which the secret is asked for.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Owner of the file.
    #[prost(uint32, tag = "2")]
    pub uid: u32,
    /// Group of the file.
    #[prost(uint32, tag = "3")]
    pub gid: u32,
    /// Permission bits of the file.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// Whether a secret that is not there is no error.
    #[prost(bool, tag = "5")]
    pub optional: bool,
}

impl SecretOpt {
    fn fields(&self) -> SecretFields<'_> {
        SecretFields {
            id: &self.id,
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
            optional: self.optional,
        }
    }
}

impl Encode for SecretOpt {
    fn write_fields(&self, out: &mut Writer) {
        self.fields().write_fields(out);
    }
}

/// The fields of a [`SecretOpt`], wherever they are.
pub(crate) struct SecretFields<'a> {
    pub(crate) id: &'a str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) optional: bool,
}

impl Encode for SecretFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, self.id);
        out.uint64(2, self.uid.into());
        out.uint64(3, self.gid.into());
        out.uint64(4, self.mode.into());
        out.bool(5, self.optional);
    }
}

/// Options of an ssh agent mount.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SshOpt {
    /// Id under which the agent is asked for; empty means `default`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Owner of the socket.
    #[prost(uint32, tag = "2")]
    pub uid: u32,
    /// Group of the socket.
    #[prost(uint32, tag = "3")]
    pub gid: u32,
    /// Permission bits of the socket.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// Whether an agent that is not there is no error.
    #[prost(bool, tag = "5")]
    pub optional: bool,
}

impl SshOpt {
    fn fields(&self) -> SshFields<'_> {
        SshFields {
            id: &self.id,
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
            optional: self.optional,
        }
    }
}

impl Encode for SshOpt {
    fn write_fields(&self, out: &mut Writer) {
        self.fields().write_fields(out);
    }
}

/// The fields of a [`SshOpt`], wherever they are.
pub(crate) struct SshFields<'a> {
    pub(crate) id: &'a str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) optional: bool,
}

impl Encode for SshFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, self.id);
        out.uint64(2, self.uid.into());
        out.uint64(3, self.gid.into());
        out.uint64(4, self.mode.into());
        out.bool(5, self.optional);
    }
}

/// Kind of a mount.
#[allow(
    clippy::exhaustive_enums,
    reason = "the wire field keeps values unknown to this enum as numbers"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum MountType {
    /// An input, or an empty tree.
    Bind = 0,
    /// A file that holds a secret.
    Secret = 1,
    /// The socket of an ssh agent.
    Ssh = 2,
    /// A directory that outlives the build.
    Cache = 3,
    /// A file system in memory.
    Tmpfs = 4,
}

/// What happens when several steps use one cache mount.
#[allow(
    clippy::exhaustive_enums,
    reason = "the wire field keeps values unknown to this enum as numbers"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum CacheSharingOpt {
    /// They write to it at the same time.
    Shared = 0,
    /// Each gets a directory of its own.
    Private = 1,
    /// They wait for each other.
    Locked = 2,
}

/// Whether the content of a mount's input is part of the cache key.
#[allow(
    clippy::exhaustive_enums,
    reason = "the wire field keeps values unknown to this enum as numbers"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum MountContentCache {
    /// If the mount is read-only and not the root.
    Default = 0,
    /// Always.
    On = 1,
    /// Never.
    Off = 2,
}
