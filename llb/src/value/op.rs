//! The fields of ops.

use super::{Fields, Message, Value};
use crate::pb;
use crate::pb::file_action::Action;
use crate::pb::op::Op;
use crate::pb::user_opt::User;

impl Message for pb::Op {
    fn fields(&self, out: &mut Fields) {
        out.messages("inputs", &self.inputs);
        body(self.op.as_ref(), out);
        out.message("platform", self.platform.as_ref());
        out.message("constraints", self.constraints.as_ref());
    }
}

/// What an op does.
pub(crate) fn body(op: Option<&Op>, out: &mut Fields) {
    out.wrapper("Op", |out| match op {
        Some(Op::Exec(op)) => out.always("exec", op.to_value()),
        Some(Op::Source(op)) => out.always("source", op.to_value()),
        Some(Op::File(op)) => out.always("file", op.to_value()),
        Some(Op::Build(op)) => out.always("build", op.to_value()),
        Some(Op::Merge(op)) => out.always("merge", op.to_value()),
        Some(Op::Diff(op)) => out.always("diff", op.to_value()),
        Some(Op::Passthrough(op)) => out.always("passthrough", op.to_value()),
        None => {}
    });
}

/// Writes the impl of a message whose fields are listed as `method "name" field`.
macro_rules! message {
    ($type:ident { $($method:ident $name:literal $field:ident),* $(,)? }) => {
        impl Message for pb::$type {
            fn fields(&self, out: &mut Fields) {
                $(message!(@field $method out $name self.$field);)*
            }
        }
    };
    (@field text $out:ident $name:literal $field:expr) => { $out.text($name, &$field) };
    (@field bytes $out:ident $name:literal $field:expr) => { $out.bytes($name, &$field) };
    (@field texts $out:ident $name:literal $field:expr) => { $out.texts($name, &$field) };
    (@field messages $out:ident $name:literal $field:expr) => { $out.messages($name, &$field) };
    (@field message $out:ident $name:literal $field:expr) => {
        $out.message($name, $field.as_ref())
    };
    (@field texts_by_key $out:ident $name:literal $field:expr) => {
        $out.map($name, &$field, |text| Value::Text(text.clone()))
    };
    (@field messages_by_key $out:ident $name:literal $field:expr) => {
        $out.map($name, &$field, Message::to_value)
    };
    (@field always $out:ident $name:literal $field:expr) => {
        $out.always($name, Value::Int($field))
    };
    (@field $method:ident $out:ident $name:literal $field:expr) => {
        $out.$method($name, $field.into())
    };
}
pub(super) use message;

message!(Input { text "digest" digest, int "index" index });
message!(Platform {
    text "Architecture" architecture,
    text "OS" os,
    text "Variant" variant,
    text "OSVersion" os_version,
    texts "OSFeatures" os_features,
});
message!(WorkerConstraints { texts "filter" filter });
message!(SourceOp { text "identifier" identifier, texts_by_key "attrs" attrs });
message!(BuildOp {
    int "builder" builder,
    messages_by_key "inputs" inputs,
    message "def" def,
    texts_by_key "attrs" attrs,
});
message!(BuildInput { int "input" input });
message!(MergeOp { messages "inputs" inputs });
message!(MergeInput { int "input" input });
message!(DiffOp { message "lower" lower, message "upper" upper });
message!(LowerDiffInput { int "input" input });
message!(UpperDiffInput { int "input" input });

impl Message for pb::PassthroughOp {
    fn fields(&self, out: &mut Fields) {
        out.text("id", &self.id);
        let outputs = self.outputs.iter().copied().map(Value::Int);
        out.list("outputs", outputs.collect());
    }
}

impl Message for pb::ExecOp {
    fn fields(&self, out: &mut Fields) {
        out.message("meta", self.meta.as_ref());
        out.messages("mounts", &self.mounts);
        out.named("network", self.network, |mode: pb::NetMode| match mode {
            pb::NetMode::Unset => "UNSET",
            pb::NetMode::Host => "HOST",
            pb::NetMode::None => "NONE",
        });
        let security = |mode: pb::SecurityMode| match mode {
            pb::SecurityMode::Sandbox => "SANDBOX",
            pb::SecurityMode::Insecure => "INSECURE",
        };
        out.named("security", self.security, security);
        out.messages("secretenv", &self.secretenv);
        out.messages("cdiDevices", &self.cdi_devices);
    }
}

impl Message for pb::Meta {
    fn fields(&self, out: &mut Fields) {
        out.texts("args", &self.args);
        out.texts("env", &self.env);
        out.text("cwd", &self.cwd);
        out.text("user", &self.user);
        out.message("proxy_env", self.proxy_env.as_ref());
        out.messages("extraHosts", &self.extra_hosts);
        out.text("hostname", &self.hostname);
        out.messages("ulimit", &self.ulimit);
        out.text("cgroupParent", &self.cgroup_parent);
        out.bool(
            "removeMountStubsRecursive",
            self.remove_mount_stubs_recursive,
        );
        let codes = self.valid_exit_codes.iter().copied();
        out.list(
            "validExitCodes",
            codes.map(|code| Value::Int(code.into())).collect(),
        );
    }
}

message!(HostIp { text "Host" host, text "IP" ip });
message!(Ulimit { text "Name" name, int "Soft" soft, int "Hard" hard });
message!(SecretEnv { text "ID" id, text "name" name, bool "optional" optional });
message!(CdiDevice { text "name" name, bool "optional" optional });
message!(ProxyEnv {
    text "http_proxy" http_proxy,
    text "https_proxy" https_proxy,
    text "ftp_proxy" ftp_proxy,
    text "no_proxy" no_proxy,
    text "all_proxy" all_proxy,
});

impl Message for pb::Mount {
    fn fields(&self, out: &mut Fields) {
        out.int("input", self.input);
        out.text("selector", &self.selector);
        out.text("dest", &self.dest);
        out.int("output", self.output);
        out.bool("readonly", self.readonly);
        out.named(
            "mountType",
            self.mount_type,
            |kind: pb::MountType| match kind {
                pb::MountType::Bind => "BIND",
                pb::MountType::Secret => "SECRET",
                pb::MountType::Ssh => "SSH",
                pb::MountType::Cache => "CACHE",
                pb::MountType::Tmpfs => "TMPFS",
            },
        );
        out.message("TmpfsOpt", self.tmpfs_opt.as_ref());
        out.message("cacheOpt", self.cache_opt.as_ref());
        out.message("secretOpt", self.secret_opt.as_ref());
        out.message("SSHOpt", self.ssh_opt.as_ref());
        out.text("resultID", &self.result_id);
        let content_cache = |cache: pb::MountContentCache| match cache {
            pb::MountContentCache::Default => "DEFAULT",
            pb::MountContentCache::On => "ON",
            pb::MountContentCache::Off => "OFF",
        };
        out.named("contentCache", self.content_cache, content_cache);
    }
}

impl Message for pb::CacheOpt {
    fn fields(&self, out: &mut Fields) {
        out.text("ID", &self.id);
        let sharing = |sharing: pb::CacheSharingOpt| match sharing {
            pb::CacheSharingOpt::Shared => "SHARED",
            pb::CacheSharingOpt::Private => "PRIVATE",
            pb::CacheSharingOpt::Locked => "LOCKED",
        };
        out.named("sharing", self.sharing, sharing);
    }
}

message!(TmpfsOpt { int "size" size });
message!(SecretOpt {
    text "ID" id,
    uint "uid" uid,
    uint "gid" gid,
    mode "mode" mode,
    bool "optional" optional,
});
message!(SshOpt {
    text "ID" id,
    uint "uid" uid,
    uint "gid" gid,
    mode "mode" mode,
    bool "optional" optional,
});
message!(FileOp { messages "actions" actions });

impl Message for pb::FileAction {
    fn fields(&self, out: &mut Fields) {
        out.always("input", Value::Int(self.input));
        out.always("secondaryInput", Value::Int(self.secondary_input));
        out.always("output", Value::Int(self.output));
        out.wrapper("Action", |out| match &self.action {
            Some(Action::Copy(action)) => out.always("copy", action.to_value()),
            Some(Action::Mkfile(action)) => out.always("mkfile", action.to_value()),
            Some(Action::Mkdir(action)) => out.always("mkdir", action.to_value()),
            Some(Action::Rm(action)) => out.always("rm", action.to_value()),
            Some(Action::Symlink(action)) => out.not_in_json("symlink", action.to_value()),
            None => {}
        });
    }
}

message!(FileActionCopy {
    text "src" src,
    text "dest" dest,
    message "owner" owner,
    mode "mode" mode,
    bool "followSymlink" follow_symlink,
    bool "dirCopyContents" dir_copy_contents,
    bool "attemptUnpackDockerCompatibility" attempt_unpack_docker_compatibility,
    bool "createDestPath" create_dest_path,
    bool "allowWildcard" allow_wildcard,
    bool "allowEmptyWildcard" allow_empty_wildcard,
    int "timestamp" timestamp,
    texts "include_patterns" include_patterns,
    texts "exclude_patterns" exclude_patterns,
    bool "alwaysReplaceExistingDestPaths" always_replace_existing_dest_paths,
    text "modeStr" mode_str,
    texts "required_paths" required_paths,
});
message!(FileActionMkFile {
    text "path" path,
    mode "mode" mode,
    bytes "data" data,
    message "owner" owner,
    int "timestamp" timestamp,
});
message!(FileActionSymlink {
    text "oldpath" oldpath,
    text "newpath" newpath,
    message "owner" owner,
    int "timestamp" timestamp,
});
message!(FileActionMkDir {
    text "path" path,
    mode "mode" mode,
    bool "makeParents" make_parents,
    message "owner" owner,
    int "timestamp" timestamp,
});
message!(FileActionRm {
    text "path" path,
    bool "allowNotFound" allow_not_found,
    bool "allowWildcard" allow_wildcard,
});
message!(ChownOpt { message "user" user, message "group" group });

impl Message for pb::UserOpt {
    fn fields(&self, out: &mut Fields) {
        out.wrapper("User", |out| match &self.user {
            Some(User::ByName(name)) => out.always("byName", name.to_value()),
            // As a member of a oneof it is set even if it is zero, but not so in the JSON.
            Some(User::ById(0)) => out.not_in_json("byId", Value::Uint(0)),
            Some(User::ById(id)) => out.always("byId", Value::Uint((*id).into())),
            None => {}
        });
    }
}

message!(NamedUserOpt { text "name" name, int "input" input });
