//! The JSON of LLB messages: Go's field names, in the order of Go's structs.

use ashlar_llb::pb;
use ashlar_llb::pb::user_opt::User;

use super::json::{Fields, GoJson};

/// Writes the fields of a message: `kind "name" field`, in order.
macro_rules! go_json {
    ($($message:ident { $($kind:ident $name:literal $field:ident)* })*) => {
        $(impl GoJson for pb::$message {
            fn fields(&self, out: &mut Fields<'_>) {
                $(go_json!(@ out $kind $name self.$field);)*
            }
        })*
    };
    (@ $out:ident int $name:literal $field:expr) => { $out.int($name, $field) };
    (@ $out:ident bool $name:literal $field:expr) => { $out.bool($name, $field) };
    (@ $out:ident object $name:literal $field:expr) => { $out.object($name, $field.as_ref()) };
    (@ $out:ident $kind:ident $name:literal $field:expr) => { $out.$kind($name, &$field) };
}

go_json! {
    ExecOp {
        object "meta" meta
        objects "mounts" mounts
        int "network" network
        int "security" security
        objects "secretenv" secretenv
        objects "cdiDevices" cdi_devices
    }
    Meta {
        strings "args" args
        strings "env" env
        string "cwd" cwd
        string "user" user
        object "proxy_env" proxy_env
        objects "extraHosts" extra_hosts
        string "hostname" hostname
        objects "ulimit" ulimit
        string "cgroupParent" cgroup_parent
        bool "removeMountStubsRecursive" remove_mount_stubs_recursive
        ints "validExitCodes" valid_exit_codes
    }
    ProxyEnv {
        string "http_proxy" http_proxy
        string "https_proxy" https_proxy
        string "ftp_proxy" ftp_proxy
        string "no_proxy" no_proxy
        string "all_proxy" all_proxy
    }
    HostIp {
        string "Host" host
        string "IP" ip
    }
    Ulimit {
        string "Name" name
        int "Soft" soft
        int "Hard" hard
    }
    SecretEnv {
        string "ID" id
        string "name" name
        bool "optional" optional
    }
    CdiDevice {
        string "name" name
        bool "optional" optional
    }
    Mount {
        int "input" input
        string "selector" selector
        string "dest" dest
        int "output" output
        bool "readonly" readonly
        int "mountType" mount_type
        object "TmpfsOpt" tmpfs_opt
        object "cacheOpt" cache_opt
        object "secretOpt" secret_opt
        object "SSHOpt" ssh_opt
        string "resultID" result_id
        int "contentCache" content_cache
    }
    TmpfsOpt {
        int "size" size
    }
    CacheOpt {
        string "ID" id
        int "sharing" sharing
    }
    SecretOpt {
        string "ID" id
        int "uid" uid
        int "gid" gid
        int "mode" mode
        bool "optional" optional
    }
    SshOpt {
        string "ID" id
        int "uid" uid
        int "gid" gid
        int "mode" mode
        bool "optional" optional
    }
    FileActionMkFile {
        string "path" path
        int "mode" mode
        bytes "data" data
        object "owner" owner
        int "timestamp" timestamp
    }
    FileActionSymlink {
        string "oldpath" oldpath
        string "newpath" newpath
        object "owner" owner
        int "timestamp" timestamp
    }
    FileActionMkDir {
        string "path" path
        int "mode" mode
        bool "makeParents" make_parents
        object "owner" owner
        int "timestamp" timestamp
    }
    FileActionRm {
        string "path" path
        bool "allowNotFound" allow_not_found
        bool "allowWildcard" allow_wildcard
    }
    ChownOpt {
        object "user" user
        object "group" group
    }
    NamedUserOpt {
        string "name" name
        int "input" input
    }
    MergeOp {
        objects "inputs" inputs
    }
    MergeInput {
        int "input" input
    }
    DiffOp {
        object "lower" lower
        object "upper" upper
    }
    LowerDiffInput {
        int "input" input
    }
    UpperDiffInput {
        int "input" input
    }
    PassthroughOp {
        string "id" id
        ints "outputs" outputs
    }
    BuildOp {
        int "builder" builder
        object_map "inputs" inputs
        object "def" def
        string_map "attrs" attrs
    }
    BuildInput {
        int "input" input
    }
    OpMetadata {
        bool "ignore_cache" ignore_cache
        string_map "description" description
        object "export_cache" export_cache
        bool_map "caps" caps
        object "progress_group" progress_group
        object "linux_resources" linux_resources
    }
    ExportCache {
        bool "Value" value
    }
    ProgressGroup {
        string "id" id
        string "name" name
        bool "weak" weak
    }
    LinuxResources {
        int "memory" memory
        int "memorySwap" memory_swap
        int "cpuShares" cpu_shares
        int "cpuPeriod" cpu_period
        int "cpuQuota" cpu_quota
        string "cpusetCpus" cpuset_cpus
        string "cpusetMems" cpuset_mems
    }
    Source {
        object_map "locations" locations
        objects "infos" infos
    }
    Locations {
        objects "locations" locations
    }
    SourceInfo {
        string "filename" filename
        bytes "data" data
        object "definition" definition
        string "language" language
    }
    Location {
        int "sourceIndex" source_index
        objects "ranges" ranges
    }
    Range {
        object "start" start
        object "end" end
    }
    Position {
        int "line" line
        int "character" character
    }
}

/// A copy, with another source. It is not cloned for that: its patterns may be many.
pub(super) struct CopyOf<'a> {
    pub(super) source: &'a str,
    pub(super) copy: &'a pb::FileActionCopy,
}

impl GoJson for CopyOf<'_> {
    fn fields(&self, out: &mut Fields<'_>) {
        out.string("src", self.source);
        out.string("dest", &self.copy.dest);
        out.object("owner", self.copy.owner.as_ref());
        out.int("mode", self.copy.mode);
        out.bool("followSymlink", self.copy.follow_symlink);
        out.bool("dirCopyContents", self.copy.dir_copy_contents);
        out.bool(
            "attemptUnpackDockerCompatibility",
            self.copy.attempt_unpack_docker_compatibility,
        );
        out.bool("createDestPath", self.copy.create_dest_path);
        out.bool("allowWildcard", self.copy.allow_wildcard);
        out.bool("allowEmptyWildcard", self.copy.allow_empty_wildcard);
        out.int("timestamp", self.copy.timestamp);
        out.strings("include_patterns", &self.copy.include_patterns);
        out.strings("exclude_patterns", &self.copy.exclude_patterns);
        out.bool(
            "alwaysReplaceExistingDestPaths",
            self.copy.always_replace_existing_dest_paths,
        );
        out.string("modeStr", &self.copy.mode_str);
        out.strings("required_paths", &self.copy.required_paths);
    }
}

impl GoJson for pb::Definition {
    fn fields(&self, out: &mut Fields<'_>) {
        if !self.def.is_empty() {
            out.byte_lists_always("def", &self.def);
        }
        out.object_map("metadata", &self.metadata);
        out.object("Source", self.source.as_ref());
    }
}

/// Go writes the choice as an object of its own, and leaves out the id 0.
impl GoJson for pb::UserOpt {
    fn fields(&self, out: &mut Fields<'_>) {
        struct Choice<'a>(Option<&'a User>);

        impl GoJson for Choice<'_> {
            fn fields(&self, out: &mut Fields<'_>) {
                match self.0 {
                    Some(User::ByName(named)) => out.object("byName", Some(named)),
                    Some(User::ById(id)) => out.int("byId", *id),
                    None => {}
                }
            }
        }

        out.object_always("User", &Choice(self.user.as_ref()));
    }
}
