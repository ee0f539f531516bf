//! The messages of BuildKit's LLB wire format (package `pb`, `solver/pb/ops.proto`).
//!
//! This module owns the shape of the messages: field numbers, types and nothing else. Each
//! message decodes with [`prost::Message::decode`] (graphs are read faster, and within limits,
//! but to the same messages) and is written by [`crate::encode`], which yields the bytes
//! BuildKit's Go client writes; `prost`'s own encoding does not. Invariants:
//! field numbers and types are BuildKit's, maps are sorted, numbers of enums that are not
//! known here survive as `i32`. Whether a message makes sense is for [`crate::Graph`] to check.
//!
//! Field names are BuildKit's in snake case. What ends in `Fields` is a message that borrows its
//! texts, for writing without making a message first.

mod decode;
mod definition;
mod exec;
mod file;
mod mount;
mod source;
mod vertex;

pub use definition::{
    Definition, ExportCache, LinuxResources, Location, Locations, OpMetadata, Position,
    ProgressGroup, Range, Source, SourceInfo,
};
pub use exec::{
    CdiDevice, ExecOp, HostIp, Meta, NetMode, ProxyEnv, SecretEnv, SecurityMode, Ulimit,
};
pub use file::{
    ChownOpt, FileAction, FileActionCopy, FileActionMkDir, FileActionMkFile, FileActionRm,
    FileActionSymlink, FileOp, NamedUserOpt, UserOpt, file_action, user_opt,
};
pub use mount::{
    CacheOpt, CacheSharingOpt, Mount, MountContentCache, MountType, SecretOpt, SshOpt, TmpfsOpt,
};
pub use source::{BuildInput, BuildOp, SourceOp};
pub use vertex::{
    DiffOp, Input, LowerDiffInput, MergeInput, MergeOp, Op, PassthroughOp, Platform,
    UpperDiffInput, WorkerConstraints, op,
};

pub(crate) use definition::MetadataFields;
pub(crate) use exec::{ExecFields, MetaFields};
pub(crate) use file::{
    ActionFields, CopyFields, FileActionFields, MkDirFields, MkFileFields, RmFields, SymlinkFields,
};
pub(crate) use mount::{CacheFields, MountFields, SecretFields, SshFields};
pub(crate) use source::SourceFields;
pub(crate) use vertex::{ConstraintsFields, InputFields, OpFields, PlatformFields};

/// Destination of the root mount of an exec op.
pub const ROOT_MOUNT: &str = "/";
/// Output index that means "this is not an output".
pub const SKIP_OUTPUT: i64 = -1;
/// Input index that means "an empty tree".
pub const EMPTY: i64 = -1;
/// Builder index of a build op that means "the engine itself".
pub const LLB_BUILDER: i64 = -1;
/// Name of the input, and of the file in it, that holds the definition of a build op.
pub const LLB_DEFINITION_INPUT: &str = "buildkit.llb.definition";
/// Key in [`OpMetadata::description`] that overrides a vertex's display name.
pub const CUSTOM_NAME_KEY: &str = "llb.customname";
