//! Exec ops: a process, its mounts and its surroundings.

use super::Mount;
use crate::encode::{Encode, Writer};

/// Runs a process in a root file system put together from mounts.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ExecOp {
    /// The process: arguments, environment, directory, user.
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    /// What the process sees; one of them has the destination `/`.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
    /// Network the process gets, a [`NetMode`].
    #[prost(enumeration = "NetMode", tag = "3")]
    pub network: i32,
    /// Confinement of the process, a [`SecurityMode`].
    #[prost(enumeration = "SecurityMode", tag = "4")]
    pub security: i32,
    /// Environment variables that take their value from a secret.
    #[prost(message, repeated, tag = "5")]
    pub secretenv: Vec<SecretEnv>,
    /// Devices of the Container Device Interface to make available.
    #[prost(message, repeated, tag = "6")]
    pub cdi_devices: Vec<CdiDevice>,
}

impl Encode for ExecOp {
    fn write_fields(&self, out: &mut Writer) {
        let meta = self.meta.as_ref();
        let fields = ExecFields {
            meta: meta.map(|meta| |out: &mut Writer| meta.write_fields(out)),
            mounts: self.mounts.iter(),
            network: self.network,
            security: self.security,
            secretenv: self.secretenv.iter(),
            cdi_devices: &self.cdi_devices,
        };
        fields.write(out);
    }
}

/// The fields of an [`ExecOp`], wherever they are. The process is written by a function.
pub(crate) struct ExecFields<'a, P, M, S> {
    pub(crate) meta: Option<P>,
    pub(crate) mounts: M,
    pub(crate) network: i32,
    pub(crate) security: i32,
    pub(crate) secretenv: S,
    pub(crate) cdi_devices: &'a [CdiDevice],
}

impl<P, M, S> ExecFields<'_, P, M, S>
where
    P: FnOnce(&mut Writer),
    M: Iterator<Item: Encode>,
    S: Iterator<Item: Encode>,
{
    pub(crate) fn write(self, out: &mut Writer) {
        if let Some(meta) = self.meta {
            out.nested(1, meta);
        }
        out.messages(2, self.mounts);
        out.int32(3, self.network);
        out.int32(4, self.security);
        out.messages(5, self.secretenv);
        out.messages(6, self.cdi_devices);
    }
}

/// The process of an exec op.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Meta {
    /// Program and arguments; never empty in a valid op.
    #[prost(string, repeated, tag = "1")]
    pub args: Vec<String>,
    /// Environment as `KEY=value`, in order.
    #[prost(string, repeated, tag = "2")]
    pub env: Vec<String>,
    /// Working directory; never empty in a valid op.
    #[prost(string, tag = "3")]
    pub cwd: String,
    /// User, `name[:group]` or ids; empty means root.
    #[prost(string, tag = "4")]
    pub user: String,
    /// Proxy variables, which are left out of the cache key.
    #[prost(message, optional, tag = "5")]
    pub proxy_env: Option<ProxyEnv>,
    /// Entries added to `/etc/hosts`.
    #[prost(message, repeated, tag = "6")]
    pub extra_hosts: Vec<HostIp>,
    /// Host name; empty means the engine's default.
    #[prost(string, tag = "7")]
    pub hostname: String,
    /// Resource limits of the process.
    #[prost(message, repeated, tag = "9")]
    pub ulimit: Vec<Ulimit>,
    /// Control group below which the process is placed.
    #[prost(string, tag = "10")]
    pub cgroup_parent: String,
    /// Whether empty parents made for mount points are removed after the run.
    #[prost(bool, tag = "11")]
    pub remove_mount_stubs_recursive: bool,
    /// Exit codes that count as success; empty means only 0.
    #[prost(int32, repeated, tag = "12")]
    pub valid_exit_codes: Vec<i32>,
}

impl Encode for Meta {
    fn write_fields(&self, out: &mut Writer) {
        let fields = MetaFields {
            args: self.args.iter(),
            env: self.env.iter(),
            cwd: &self.cwd,
            user: &self.user,
            proxy_env: self.proxy_env.as_ref(),
            extra_hosts: &self.extra_hosts,
            hostname: &self.hostname,
            ulimit: &self.ulimit,
            cgroup_parent: &self.cgroup_parent,
            remove_mount_stubs_recursive: self.remove_mount_stubs_recursive,
            valid_exit_codes: &self.valid_exit_codes,
        };
        fields.write(out);
    }
}

/// The fields of a [`Meta`], wherever they are.
pub(crate) struct MetaFields<'a, A, E> {
    pub(crate) args: A,
    pub(crate) env: E,
    pub(crate) cwd: &'a str,
    pub(crate) user: &'a str,
    pub(crate) proxy_env: Option<&'a ProxyEnv>,
    pub(crate) extra_hosts: &'a [HostIp],
    pub(crate) hostname: &'a str,
    pub(crate) ulimit: &'a [Ulimit],
    pub(crate) cgroup_parent: &'a str,
    pub(crate) remove_mount_stubs_recursive: bool,
    pub(crate) valid_exit_codes: &'a [i32],
}

impl<A, E> MetaFields<'_, A, E>
where
    A: Iterator<Item: AsRef<[u8]>>,
    E: Iterator<Item: AsRef<[u8]>>,
{
    pub(crate) fn write(self, out: &mut Writer) {
        out.strings(1, self.args);
        out.strings(2, self.env);
        out.string(3, self.cwd);
        out.string(4, self.user);
        out.optional(5, self.proxy_env);
        out.messages(6, self.extra_hosts);
        out.string(7, self.hostname);
        out.messages(9, self.ulimit);
        out.string(10, self.cgroup_parent);
        out.bool(11, self.remove_mount_stubs_recursive);
        out.packed(12, self.valid_exit_codes.iter().map(|&value| value.into()));
    }
}

/// A host name and its address.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct HostIp {
    /// The name.
    #[prost(string, tag = "1")]
    pub host: String,
    /// The address, in text form.
    #[prost(string, tag = "2")]
    pub ip: String,
}

impl Encode for HostIp {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, &self.host);
        out.string(2, &self.ip);
    }
}

/// A resource limit.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Ulimit {
    /// Name as ulimit knows it, such as `nofile`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Soft limit; -1 means unlimited.
    #[prost(int64, tag = "2")]
    pub soft: i64,
    /// Hard limit; -1 means unlimited.
    #[prost(int64, tag = "3")]
    pub hard: i64,
}

impl Encode for Ulimit {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, &self.name);
        out.int64(2, self.soft);
        out.int64(3, self.hard);
    }
}

/// An environment variable that holds a secret.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SecretEnv {
    /// Id under which the secret is asked for.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Name of the variable.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Whether a secret that is not there is no error.
    #[prost(bool, tag = "3")]
    pub optional: bool,
}

impl Encode for SecretEnv {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, &self.id);
        out.string(2, &self.name);
        out.bool(3, self.optional);
    }
}

/// A device asked for by its Container Device Interface name.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct CdiDevice {
    /// Name, `vendor/class=device`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Whether a device that is not there is no error.
    #[prost(bool, tag = "2")]
    pub optional: bool,
}

impl Encode for CdiDevice {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, &self.name);
        out.bool(2, self.optional);
    }
}

/// Values of the conventional proxy variables.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ProxyEnv {
    /// Value of `HTTP_PROXY`.
    #[prost(string, tag = "1")]
    pub http_proxy: String,
    /// Value of `HTTPS_PROXY`.
    #[prost(string, tag = "2")]
    pub https_proxy: String,
    /// Value of `FTP_PROXY`.
    #[prost(string, tag = "3")]
    pub ftp_proxy: String,
    /// Value of `NO_PROXY`.
    #[prost(string, tag = "4")]
    pub no_proxy: String,
    /// Value of `ALL_PROXY`.
    #[prost(string, tag = "5")]
    pub all_proxy: String,
}

impl Encode for ProxyEnv {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, &self.http_proxy);
        out.string(2, &self.https_proxy);
        out.string(3, &self.ftp_proxy);
        out.string(4, &self.no_proxy);
        out.string(5, &self.all_proxy);
    }
}

/// Network of a process.
#[allow(
    clippy::exhaustive_enums,
    reason = "the wire field keeps values unknown to this enum as numbers"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum NetMode {
    /// The engine's default network.
    Unset = 0,
    /// The host's own network; needs an entitlement.
    Host = 1,
    /// A network of its own with nothing in it.
    None = 2,
}

/// Confinement of a process.
#[allow(
    clippy::exhaustive_enums,
    reason = "the wire field keeps values unknown to this enum as numbers"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum SecurityMode {
    /// The default confinement.
    Sandbox = 0,
    /// All capabilities and devices; needs an entitlement.
    Insecure = 1,
}
