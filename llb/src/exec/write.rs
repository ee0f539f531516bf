//! How an exec op is written.
//!
//! Owns the rules that decide an exec's bytes: mounts sorted by target, outputs numbered over
//! those that have one, inputs once each, secrets and agents after all mounts.

use crate::constraints::OpConstraints;
use crate::exec::{ExecVertex, ROOT, Secret, Ssh};
use crate::marshal::{InputList, MarshalContext, check_path};
use crate::mount::ContentCache;
use crate::state::Values;
use crate::vertex::Vertex;
use crate::{MarshalError, Network, Security, pb};

/// What steps get as `PATH` from engines that would give them none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Tells that an engine sets a `PATH` itself.
const SETS_DEFAULT_PATH: &str = "exec.meta.setsdefaultpath";
const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";

impl ExecVertex {
    pub(crate) fn write(
        &self,
        vertex: &Vertex,
        context: &MarshalContext<'_>,
        constraints: &mut OpConstraints,
    ) -> Result<pb::Op, MarshalError> {
        if self.args.is_empty() {
            return Err(MarshalError::NoArguments {
                step: vertex.name(),
            });
        }
        let values = context.values(&self.values)?;
        self.check_names(&values, vertex)?;
        let env = self.env(&values, context, constraints);
        let network = match values.network {
            Network::Sandbox => pb::NetMode::Unset,
            Network::Host => pb::NetMode::Host,
            Network::None => pb::NetMode::None,
        };
        let security = match values.security {
            Security::Sandbox => pb::SecurityMode::Sandbox,
            Security::Insecure => pb::SecurityMode::Insecure,
        };
        self.need_caps(&values, constraints);
        if constraints.platform.is_none() {
            constraints.platform.clone_from(&values.platform);
        }
        let mut inputs = InputList::default();
        let mut mounts = self.mounts(vertex, context, &mut inputs)?;
        let bind = i32::from(pb::MountType::Bind);
        let is_bind = |mount: &pb::Mount| mount.mount_type == bind && mount.input != pb::EMPTY;
        if mounts.iter().any(is_bind) {
            constraints.need("exec.mount.bind");
        }
        mounts.extend(self.secrets.iter().filter_map(|secret| secret.mount_pb()));
        let agents = self.ssh.iter().enumerate();
        mounts.extend(agents.map(|(number, agent)| agent.mount_pb(number)));
        let exec = pb::ExecOp {
            meta: Some(self.meta(&values, env)),
            mounts,
            network: network.into(),
            security: security.into(),
            secretenv: self
                .secrets
                .iter()
                .filter_map(|secret| secret.env_pb())
                .collect(),
            cdi_devices: self.devices.clone(),
        };
        Ok(context.op(pb::op::Op::Exec(exec), inputs.into_vec(), constraints, true))
    }

    /// Fails at what no tree can have.
    fn check_names(&self, values: &Values, vertex: &Vertex) -> Result<(), MarshalError> {
        check_path(&values.dir, vertex)?;
        for (target, mount) in &self.mounts {
            check_path(target, vertex)?;
            check_path(&mount.selector, vertex)?;
        }
        let secrets = self.secrets.iter().filter_map(Secret::file_facts);
        for (path, mode) in secrets.chain(self.ssh.iter().map(Ssh::file_facts)) {
            check_path(path, vertex)?;
            if !mode.is_plain() {
                return Err(MarshalError::Mode {
                    step: vertex.name(),
                    mode,
                });
            }
        }
        Ok(())
    }

    fn meta(&self, values: &Values, env: Vec<String>) -> pb::Meta {
        pb::Meta {
            args: self.args.clone(),
            env,
            cwd: values.dir.to_string(),
            user: values.user.clone(),
            proxy_env: self.proxy.clone(),
            extra_hosts: values.extra_hosts.clone(),
            hostname: values.hostname.clone(),
            ulimit: values.ulimits.clone(),
            cgroup_parent: values.cgroup_parent.clone(),
            remove_mount_stubs_recursive: true,
            valid_exit_codes: self.valid_exit_codes.clone().unwrap_or_default(),
        }
    }

    fn env(
        &self,
        values: &Values,
        context: &MarshalContext<'_>,
        constraints: &mut OpConstraints,
    ) -> Vec<String> {
        let own = values.env.iter();
        let mut env: Vec<String> = own.map(|(key, value)| format!("{key}={value}")).collect();
        if let Some(agent) = self.ssh.first()
            && values.env_value(SSH_AUTH_SOCK).is_none()
        {
            env.push(format!("{SSH_AUTH_SOCK}={}", agent.path(0)));
        }
        if let Some(supported) = &context.constraints.supported {
            if supported.contains(SETS_DEFAULT_PATH) {
                constraints.need(SETS_DEFAULT_PATH);
            } else if context.constraints.platform.os != "windows"
                && values.env_value("PATH").is_none()
            {
                env.push(format!("PATH={DEFAULT_PATH}"));
            }
        }
        env
    }

    fn need_caps(&self, values: &Values, constraints: &mut OpConstraints) {
        let mut need = |condition: bool, cap: &'static str| {
            if condition {
                constraints.need(cap);
            }
        };
        need(self.valid_exit_codes.is_some(), "exec.validexitcode");
        need(!values.ulimits.is_empty(), "exec.meta.ulimit");
        need(values.network != Network::Sandbox, "exec.meta.network");
        need(values.security != Security::Sandbox, "exec.meta.security");
        need(self.proxy.is_some(), "exec.meta.proxyenv");
        for (_, mount) in &self.mounts {
            need(!mount.selector.is_empty(), "exec.mount.selector");
            if mount.is_cache() {
                need(true, "exec.mount.cache");
                need(true, "exec.mount.cache.sharing");
            } else if let Some(tmpfs) = mount.tmpfs_opt() {
                need(true, "exec.mount.tmpfs");
                need(tmpfs.size > 0, "exec.mount.tmpfs.size");
            }
            let decided = mount.content_cache != ContentCache::Default;
            need(decided, "exec.mount.cache.content");
        }
        need(!self.secrets.is_empty(), "exec.mount.secret");
        need(
            self.secrets.iter().any(|secret| secret.is_env()),
            "exec.secretenv",
        );
        need(!self.ssh.is_empty(), "exec.mount.ssh");
        need(!self.devices.is_empty(), "exec.meta.cdi");
        let limited = constraints.metadata.linux_resources.is_some();
        if limited {
            constraints.need("exec.meta.linux.resources");
        }
    }

    fn mounts(
        &self,
        vertex: &Vertex,
        context: &MarshalContext<'_>,
        inputs: &mut InputList,
    ) -> Result<Vec<pb::Mount>, MarshalError> {
        let mut outputs = 0_i64;
        let mut mounts = Vec::with_capacity(self.mounts.len() + 1);
        for position in self.sorted() {
            let input = match self.source(position) {
                Some(source) => match context.input(source, vertex)? {
                    Some(input) => inputs.add(input),
                    None => pb::EMPTY,
                },
                None => pb::EMPTY,
            };
            let output = if self.has_output(position) {
                outputs += 1;
                outputs - 1
            } else {
                pb::SKIP_OUTPUT
            };
            let mut mount = pb::Mount {
                input,
                output,
                dest: self.target(position).to_owned(),
                ..pb::Mount::default()
            };
            if position == ROOT {
                mount.readonly = self.readonly_root;
            } else {
                self.describe(position - 1, vertex, &mut mount)?;
            }
            mounts.push(mount);
        }
        Ok(mounts)
    }

    /// Writes the options of a declared mount.
    fn describe(
        &self,
        declared: usize,
        vertex: &Vertex,
        out: &mut pb::Mount,
    ) -> Result<(), MarshalError> {
        let (target, mount) = &self.mounts[declared];
        out.readonly = mount.readonly;
        mount.selector.as_str().clone_into(&mut out.selector);
        out.cache_opt = mount.cache_opt();
        if out.cache_opt.is_some() {
            out.mount_type = pb::MountType::Cache.into();
        }
        out.content_cache = match mount.content_cache {
            ContentCache::Default => pb::MountContentCache::Default,
            ContentCache::On => pb::MountContentCache::On,
            ContentCache::Off => pb::MountContentCache::Off,
        }
        .into();
        out.tmpfs_opt = mount.tmpfs_opt();
        if out.tmpfs_opt.is_some() {
            out.mount_type = pb::MountType::Tmpfs.into();
            if out.input != pb::EMPTY {
                return Err(MarshalError::TmpfsSource {
                    step: vertex.name(),
                    target: target.to_string(),
                });
            }
        }
        Ok(())
    }
}
