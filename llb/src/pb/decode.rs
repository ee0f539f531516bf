//! Which fields the messages of ops have, and how each is read.
//!
//! The mirror image of the `Encode` of each message. Metadata and source maps are left to
//! `prost`, which decodes them only if somebody asks.

use super::file_action::Action;
use super::op::Op as Does;
use super::user_opt::User;
use super::*;
use crate::wire::decode::{Decode, Reader, decodable};
use crate::wire::{Field, WireError};

decodable! {
    Input { 1: text digest, 2: int64 index }
    Platform {
        1: text architecture, 2: text os, 3: text variant, 4: text os_version, 5: texts os_features,
    }
    WorkerConstraints { 1: texts filter }
    ExecOp {
        1: message meta,
        2: messages mounts,
        3: int32 network,
        4: int32 security,
        5: messages secretenv,
        6: messages cdi_devices,
    }
    Meta {
        1: texts args,
        2: texts env,
        3: text cwd,
        4: text user,
        5: message proxy_env,
        6: messages extra_hosts,
        7: text hostname,
        9: messages ulimit,
        10: text cgroup_parent,
        11: bool remove_mount_stubs_recursive,
        12: int32s valid_exit_codes,
    }
    HostIp { 1: text host, 2: text ip }
    Ulimit { 1: text name, 2: int64 soft, 3: int64 hard }
    SecretEnv { 1: text id, 2: text name, 3: bool optional }
    CdiDevice { 1: text name, 2: bool optional }
    ProxyEnv {
        1: text http_proxy,
        2: text https_proxy,
        3: text ftp_proxy,
        4: text no_proxy,
        5: text all_proxy,
    }
    Mount {
        1: int64 input,
        2: text selector,
        3: text dest,
        4: int64 output,
        5: bool readonly,
        6: int32 mount_type,
        19: message tmpfs_opt,
        20: message cache_opt,
        21: message secret_opt,
        22: message ssh_opt,
        23: text result_id,
        24: int32 content_cache,
    }
    TmpfsOpt { 1: int64 size }
    CacheOpt { 1: text id, 2: int32 sharing }
    SecretOpt { 1: text id, 2: uint32 uid, 3: uint32 gid, 4: uint32 mode, 5: bool optional }
    SshOpt { 1: text id, 2: uint32 uid, 3: uint32 gid, 4: uint32 mode, 5: bool optional }
    SourceOp { 1: text identifier, 2: text_map attrs }
    BuildOp { 1: int64 builder, 2: message_map inputs, 3: definition def, 4: text_map attrs }
    BuildInput { 1: int64 input }
    FileOp { 2: messages actions }
    FileActionCopy {
        1: text src,
        2: text dest,
        3: message owner,
        4: int32 mode,
        5: bool follow_symlink,
        6: bool dir_copy_contents,
        7: bool attempt_unpack_docker_compatibility,
        8: bool create_dest_path,
        9: bool allow_wildcard,
        10: bool allow_empty_wildcard,
        11: int64 timestamp,
        12: texts include_patterns,
        13: texts exclude_patterns,
        14: bool always_replace_existing_dest_paths,
        15: text mode_str,
        16: texts required_paths,
    }
    FileActionMkFile { 1: text path, 2: int32 mode, 3: data data, 4: message owner, 5: int64 timestamp }
    FileActionMkDir {
        1: text path, 2: int32 mode, 3: bool make_parents, 4: message owner, 5: int64 timestamp,
    }
    FileActionRm { 1: text path, 2: bool allow_not_found, 3: bool allow_wildcard }
    FileActionSymlink { 1: text oldpath, 2: text newpath, 3: message owner, 4: int64 timestamp }
    ChownOpt { 1: message user, 2: message group }
    NamedUserOpt { 1: text name, 2: int64 input }
    MergeOp { 1: messages inputs }
    MergeInput { 1: int64 input }
    DiffOp { 1: message lower, 2: message upper }
    LowerDiffInput { 1: int64 input }
    UpperDiffInput { 1: int64 input }
    PassthroughOp { 1: text id, 2: int64s outputs }
}

/// Reads one of the messages of which there can be only one. The last kind wins; pieces of one
/// kind are one message.
macro_rules! one_of {
    ($place:expr, $field:expr, $from:expr, $($number:literal => $one:ident :: $kind:ident,)*) => {
        match $field.number {
            $($number => {
                if !matches!($place, Some($one::$kind(_))) {
                    *$place = Some($one::$kind(Default::default()));
                }
                match $place {
                    Some($one::$kind(known)) => $field.part_of(known, $from),
                    _ => unreachable!("BUG: it was just put there"),
                }
            })*
            _ => Ok(()),
        }
    };
}

/// Messages with some fields of which there can be only one.
macro_rules! decode_with_one {
    ($($message:ident {
        $($number:literal: $kind:ident $name:ident,)*
        $place:ident: { $($one_number:literal => $one:ident :: $one_kind:ident,)* }
    })*) => {$(
        impl Decode for $message {
            fn merge_field<'a>(
                &mut self,
                field: Field<'a>,
                from: &mut Reader<'a>,
            ) -> Result<(), WireError> {
                match field.number {
                    $($number => field.$kind(&mut self.$name, from),)*
                    _ => one_of! { &mut self.$place, field, from,
                        $($one_number => $one::$one_kind,)*
                    },
                }
            }
        }
    )*};
}

decode_with_one! {
    Op {
        1: messages inputs,
        10: message platform,
        11: message constraints,
        op: {
            2 => Does::Exec,
            3 => Does::Source,
            4 => Does::File,
            5 => Does::Build,
            6 => Does::Merge,
            7 => Does::Diff,
            8 => Does::Passthrough,
        }
    }
    FileAction {
        1: int64 input,
        2: int64 secondary_input,
        3: int64 output,
        action: {
            4 => Action::Copy,
            5 => Action::Mkfile,
            6 => Action::Mkdir,
            7 => Action::Rm,
            8 => Action::Symlink,
        }
    }
}

impl Decode for UserOpt {
    fn merge_field<'a>(
        &mut self,
        field: Field<'a>,
        from: &mut Reader<'a>,
    ) -> Result<(), WireError> {
        if field.number == 2 {
            let mut id = 0;
            field.uint32(&mut id, from)?;
            self.user = Some(User::ById(id));
            return Ok(());
        }
        one_of! { &mut self.user, field, from, 1 => User::ByName, }
    }
}
