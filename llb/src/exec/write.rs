//! How an exec op is written.
//!
//! Owns the rules that decide an exec's bytes: mounts sorted by target, outputs numbered over
//! those that have one, inputs once each, secrets and agents after all mounts.

use crate::caps::Cap;
use crate::encode::Writer;
use crate::exec::{AnyMount, ExecVertex, Secret, Ssh};
use crate::marshal::{OpWriter, check_path};
use crate::mount::{ContentCache, Mount};
use crate::state::{Values, Variable};
use crate::{GuestPath, MarshalError, Network, Security, pb};

/// What steps get as `PATH` from engines that would give them none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Tells that an engine sets a `PATH` itself.
const SETS_DEFAULT_PATH: &str = "exec.meta.setsdefaultpath";
const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";

impl ExecVertex {
    pub(crate) fn write(&self, op: &mut OpWriter<'_, '_>) -> Result<(), MarshalError> {
        if self.args.is_empty() {
            return Err(MarshalError::NoArguments { step: op.step() });
        }
        let values = op.values(&self.values)?;
        let values: &Values = &values;
        self.check_names(values, op)?;
        self.need_caps(values, op);
        let more = self.more();
        let agents = more.ssh.iter().enumerate();
        let sockets: Vec<GuestPath> = agents.map(|(number, agent)| agent.path(number)).collect();
        let added = added_env(values, &sockets, op);
        let inputs = self.inputs(op)?;

        let meta = |out: &mut Writer| {
            let own = values.env.iter().map(Variable::text);
            let fields = pb::MetaFields {
                args: self.args.bytes(),
                env: own.chain(added.iter().map(String::as_str)),
                cwd: values.dir.as_str(),
                user: &values.user,
                proxy_env: more.proxy.as_ref(),
                extra_hosts: &values.extra_hosts,
                hostname: &values.hostname,
                ulimit: &values.ulimits,
                cgroup_parent: &values.cgroup_parent,
                remove_mount_stubs_recursive: true,
                valid_exit_codes: more.valid_exit_codes.as_deref().unwrap_or_default(),
            };
            fields.write(out);
        };
        let secrets = more.secrets.iter().filter_map(Secret::mount);
        let agents = more.ssh.iter().zip(&sockets);
        let agents = agents.map(|(agent, path)| agent.mount(path));
        let fields = pb::ExecFields {
            meta: Some(meta),
            mounts: self.mounts(&inputs).chain(secrets).chain(agents),
            network: match values.network {
                Network::Sandbox => pb::NetMode::Unset,
                Network::Host => pb::NetMode::Host,
                Network::None => pb::NetMode::None,
            }
            .into(),
            security: match values.security {
                Security::Sandbox => pb::SecurityMode::Sandbox,
                Security::Insecure => pb::SecurityMode::Insecure,
            }
            .into(),
            secretenv: more.secrets.iter().filter_map(Secret::env_pb),
            cdi_devices: &more.devices,
        };
        let platform = op.own_platform().or(values.platform.as_deref());
        let platform = platform.unwrap_or(&op.constraints().platform);
        op.write(Some(platform), pb::op::EXEC, |out| fields.write(out));
        op.reuse(inputs);
        Ok(())
    }

    /// Fails at what no tree can have.
    fn check_names(&self, values: &Values, op: &OpWriter<'_, '_>) -> Result<(), MarshalError> {
        check_path(&values.dir, op)?;
        for (target, mount) in &self.mounts {
            check_path(target, op)?;
            check_path(&mount.selector, op)?;
        }
        let secrets = self.more().secrets.iter().filter_map(Secret::file_facts);
        for (path, mode) in secrets.chain(self.more().ssh.iter().map(Ssh::file_facts)) {
            check_path(path, op)?;
            if !mode.is_plain() {
                let step = op.step();
                return Err(MarshalError::Mode { step, mode });
            }
        }
        Ok(())
    }

    fn need_caps(&self, values: &Values, op: &mut OpWriter<'_, '_>) {
        let limited = op.options().more().linux_resources.is_some();
        let mut need = |condition: bool, cap: Cap| {
            if condition {
                op.need(cap);
            }
        };
        let more = self.more();
        need(more.valid_exit_codes.is_some(), Cap::ExecValidexitcode);
        need(!values.ulimits.is_empty(), Cap::ExecMetaUlimit);
        need(values.network != Network::Sandbox, Cap::ExecMetaNetwork);
        need(values.security != Security::Sandbox, Cap::ExecMetaSecurity);
        need(more.proxy.is_some(), Cap::ExecMetaProxyenv);
        for (_, mount) in &self.mounts {
            need(!mount.selector.is_empty(), Cap::ExecMountSelector);
            if mount.is_cache() {
                need(true, Cap::ExecMountCache);
                need(true, Cap::ExecMountCacheSharing);
            } else if let Some(tmpfs) = mount.tmpfs_opt() {
                need(true, Cap::ExecMountTmpfs);
                need(tmpfs.size > 0, Cap::ExecMountTmpfsSize);
            }
            let decided = mount.content_cache != ContentCache::Default;
            need(decided, Cap::ExecMountCacheContent);
        }
        need(!more.secrets.is_empty(), Cap::ExecMountSecret);
        need(more.secrets.iter().any(Secret::is_env), Cap::ExecSecretenv);
        need(!more.ssh.is_empty(), Cap::ExecMountSsh);
        need(!more.devices.is_empty(), Cap::ExecMetaCdi);
        need(limited, Cap::ExecMetaLinuxResources);
    }

    /// The positions of what is mounted among the inputs of the op, in the order of writing.
    fn inputs(&self, op: &mut OpWriter<'_, '_>) -> Result<Vec<i64>, MarshalError> {
        let mut inputs = op.positions();
        for mount in self.all_mounts() {
            let input = match mount.source() {
                Some(source) => op.input(source)?,
                None => pb::EMPTY,
            };
            if input != pb::EMPTY {
                match mount {
                    AnyMount::Declared(target, mount) if mount.tmpfs_opt().is_some() => {
                        return Err(MarshalError::TmpfsSource {
                            step: op.step(),
                            target: target.to_string(),
                        });
                    }
                    AnyMount::Declared(_, mount) if mount.is_cache() => {}
                    _ => op.need(Cap::ExecMountBind),
                }
            }
            inputs.push(input);
        }
        Ok(inputs)
    }

    fn mounts<'a>(&'a self, inputs: &'a [i64]) -> impl Iterator<Item = pb::MountFields<'a>> {
        let mut outputs = 0;
        self.all_mounts().zip(inputs).map(move |(mount, input)| {
            let mut output = pb::SKIP_OUTPUT;
            if mount.has_output() {
                output = outputs;
                outputs += 1;
            }
            let fields = match mount {
                AnyMount::Root(exec) => pb::MountFields {
                    dest: pb::ROOT_MOUNT,
                    readonly: exec.readonly_root,
                    ..pb::MountFields::default()
                },
                AnyMount::Declared(target, mount) => described(target, mount),
            };
            pb::MountFields {
                input: *input,
                output,
                ..fields
            }
        })
    }
}

/// The options of a declared mount.
fn described<'a>(target: &'a GuestPath, mount: &'a Mount) -> pb::MountFields<'a> {
    let tmpfs_opt = mount.tmpfs_opt();
    let cache_opt = mount.cache_fields();
    let mount_type = match (&tmpfs_opt, &cache_opt) {
        (Some(_), _) => pb::MountType::Tmpfs,
        (None, Some(_)) => pb::MountType::Cache,
        (None, None) => pb::MountType::Bind,
    };
    let content_cache = match mount.content_cache {
        ContentCache::Default => pb::MountContentCache::Default,
        ContentCache::On => pb::MountContentCache::On,
        ContentCache::Off => pb::MountContentCache::Off,
    };
    pb::MountFields {
        selector: mount.selector.as_str(),
        dest: target.as_str(),
        readonly: mount.readonly,
        mount_type: mount_type.into(),
        tmpfs_opt,
        cache_opt,
        content_cache: content_cache.into(),
        ..pb::MountFields::default()
    }
}

/// The variables that a step gets besides its own.
fn added_env(values: &Values, sockets: &[GuestPath], op: &mut OpWriter<'_, '_>) -> Vec<String> {
    let mut added = Vec::new();
    if let Some(socket) = sockets.first()
        && values.env_value(SSH_AUTH_SOCK).is_none()
    {
        added.push(format!("{SSH_AUTH_SOCK}={socket}"));
    }
    let constraints = op.constraints();
    match constraints.supports(SETS_DEFAULT_PATH) {
        Some(true) => op.need(Cap::ExecMetaSetsdefaultpath),
        Some(false)
            if constraints.platform.os != "windows" && values.env_value("PATH").is_none() =>
        {
            added.push(DEFAULT_PATH.to_owned());
        }
        _ => {}
    }
    added
}
