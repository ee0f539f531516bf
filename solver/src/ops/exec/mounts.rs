//! What a process sees: mounts made ready for it, and what becomes of them.

use std::collections::HashMap;
use std::path::PathBuf;

use ashlar_llb::pb;
use ashlar_llb::pb::{CacheSharingOpt, MountType};

use super::agent::Listening;
use super::cache_mount::{self, CacheMount};
use super::meta::absolute;
use super::{ExecError, Run};
use crate::error::OperationError;
use crate::executor::{Mount, MountSource, Root};
use crate::refs::Ref;
use crate::snapshot::{ActiveLayer, Stack};
use crate::tree::View;

/// A layer that the process writes to.
#[derive(Debug)]
pub(super) struct Active {
    /// The number of its mount.
    pub(super) mount: usize,
    pub(super) layer: ActiveLayer,
    pub(super) base: Stack,
    pub(super) view: View,
}

/// What an output of the op is.
#[derive(Debug)]
pub(super) enum Output {
    /// What was written; the number of an active layer.
    Active(usize),
    /// An input as it was.
    Input(Ref),
}

/// Mounts that are ready. Dropping it removes what was not committed.
#[derive(Debug)]
pub(super) struct Mounts {
    pub(super) root: Root,
    pub(super) root_view: View,
    /// User and group of the process, once they are known.
    pub(super) user: (u32, u32),
    pub(super) mounts: Vec<Mount>,
    pub(super) actives: Vec<Active>,
    /// In the order of the mounts, as BuildKit numbers them.
    pub(super) outputs: Vec<Output>,
    /// Where the process reaches ssh agents.
    pub(super) sockets: Vec<Listening>,
    /// Held until the process has ended.
    _caches: Vec<CacheMount>,
}

impl Mounts {
    /// Removes what was written: where that may take long.
    pub(super) async fn discard(self) {
        let _panicked = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

/// Gathers the parts of [`Mounts`].
struct Builder<'a> {
    run: &'a Run,
    /// The number of the mount that is being made ready.
    at: usize,
    cwd: &'a str,
    root: Option<(Root, View)>,
    mounts: Vec<Mount>,
    actives: Vec<Active>,
    outputs: Vec<Output>,
    caches: Vec<CacheMount>,
    /// Mounts of ssh agents, made ready at the end.
    agents: Vec<pb::Mount>,
}

/// Makes all mounts of an op ready. Blocks.
pub(super) fn prepare(run: &Run, cwd: &str) -> Result<Mounts, OperationError> {
    let mut builder = Builder {
        run,
        at: 0,
        cwd,
        root: None,
        mounts: Vec::new(),
        actives: Vec::new(),
        outputs: Vec::new(),
        caches: Vec::new(),
        agents: Vec::new(),
    };
    for (at, mount) in run.op.mounts.iter().enumerate() {
        run.cancel.check()?;
        builder.at = at;
        builder.add(mount)?;
    }
    builder.finish()
}

impl Builder<'_> {
    fn add(&mut self, mount: &pb::Mount) -> Result<(), OperationError> {
        let is_root = mount.dest == pb::ROOT_MOUNT;
        let kind = MountType::try_from(mount.mount_type).map_err(|_| ExecError::Invalid {
            reason: format!("unknown kind of mount {}", mount.mount_type),
        })?;
        if is_root && kind != MountType::Bind {
            let reason = "the root must be a bind mount".to_owned();
            return Err(ExecError::Invalid { reason }.into());
        }
        let source = match kind {
            MountType::Bind => return self.bind(mount, is_root),
            MountType::Cache => self.cache(mount)?,
            MountType::Tmpfs => {
                let size = mount.tmpfs_opt.as_ref().map_or(0, |options| options.size);
                MountSource::Tmpfs {
                    size: u64::try_from(size).ok().filter(|&size| size > 0),
                }
            }
            MountType::Secret => {
                let options = mount.secret_opt.clone().unwrap_or_default();
                let Some(value) = self.run.lent.value(&options.id) else {
                    return Ok(());
                };
                let source = MountSource::File {
                    contents: value.clone(),
                    mode: options.mode & 0o777,
                    uid: options.uid,
                    gid: options.gid,
                };
                return self.lent(mount, source, true);
            }
            MountType::Ssh => {
                self.agents.push(mount.clone());
                return Ok(());
            }
        };
        self.mount(mount, source)
    }

    fn input(&self, mount: &pb::Mount) -> Result<Option<&Ref>, OperationError> {
        if mount.input == pb::EMPTY {
            return Ok(None);
        }
        let input = usize::try_from(mount.input)
            .ok()
            .and_then(|at| self.run.inputs.get(at));
        let missing = || ExecError::MountInput {
            destination: mount.dest.clone(),
            input: mount.input,
            count: self.run.inputs.len(),
        };
        Ok(Some(input.ok_or_else(missing)?))
    }

    fn stack(&self, mount: &pb::Mount) -> Result<Stack, OperationError> {
        self.input(mount)?
            .map_or_else(|| Ok(Stack::scratch()), |it| it.stack(&self.run.cancel))
    }

    fn bind(&mut self, mount: &pb::Mount, is_root: bool) -> Result<(), OperationError> {
        let base = self.stack(mount)?;
        let is_output = mount.output != pb::SKIP_OUTPUT;
        let lower = self.run.engine.layers.lower_paths(&base)?;
        let as_it_is = mount.readonly && !is_root && !lower.is_empty();
        if is_output
            && mount.readonly
            && !is_root
            && let Some(input) = self.input(mount)?
        {
            let input = input.clone();
            self.outputs.push(Output::Input(input));
        }
        let (source, view) = if as_it_is {
            (MountSource::Layers { lower }, None)
        } else {
            let mut lower = lower;
            if is_root && !lower.is_empty() {
                lower.push(self.run.engine.layers.mount_points()?.to_owned());
            }
            let (source, view) = self.active(base, lower)?;
            let unchanged = mount.readonly && !is_root && mount.input != pb::EMPTY;
            if is_output && !unchanged {
                self.outputs.push(Output::Active(self.actives.len() - 1));
            }
            (source, Some(view))
        };
        match view {
            Some(view) if is_root => {
                if !matches!(mount.selector.as_str(), "" | "/") {
                    let reason = "the root mount cannot have a selector".to_owned();
                    return Err(ExecError::Invalid { reason }.into());
                }
                self.root = Some((
                    Root {
                        source,
                        readonly: mount.readonly,
                    },
                    view,
                ));
                Ok(())
            }
            _ => self.mount(mount, source),
        }
    }

    /// A new writable layer on top of `base`.
    fn active(
        &mut self,
        base: Stack,
        lower: Vec<PathBuf>,
    ) -> Result<(MountSource, View), OperationError> {
        let layer = self.run.engine.layers.new_layer()?;
        let view = base.view()?;
        let (upper, work) = layer.upper(&view.root().entry().attributes)?;
        self.actives.push(Active {
            mount: self.at,
            layer,
            base,
            view: view.clone(),
        });
        Ok((MountSource::Overlay { lower, upper, work }, view))
    }

    fn cache(&mut self, mount: &pb::Mount) -> Result<MountSource, OperationError> {
        let options = mount.cache_opt.clone().ok_or_else(|| ExecError::Invalid {
            reason: format!("the cache mount at {} has no id", mount.dest),
        })?;
        let sharing =
            CacheSharingOpt::try_from(options.sharing).map_err(|_| ExecError::Invalid {
                reason: format!("unknown sharing {}", options.sharing),
            })?;
        let base = self.stack(mount)?;
        let run = self.run;
        let (engine, held) = (&run.engine, &mut self.caches);
        let path = cache_mount::open(engine, &options.id, sharing, &base, held, &run.cancel)?;
        if mount.output != pb::SKIP_OUTPUT
            && let Some(input) = self.input(mount)?
        {
            let input = input.clone();
            self.outputs.push(Output::Input(input));
        }
        Ok(MountSource::Bind { path })
    }

    /// Mounts what the caller lends: whole, whatever the op says.
    fn lent(
        &mut self,
        mount: &pb::Mount,
        source: MountSource,
        readonly: bool,
    ) -> Result<(), OperationError> {
        self.mounts.push(Mount {
            target: absolute(&mount.dest, self.cwd)?,
            source,
            selector: None,
            readonly,
            nosuid: false,
            noexec: false,
        });
        Ok(())
    }

    /// Makes the sockets of agents, in the directory of a layer that this run makes.
    fn sockets(&mut self) -> Result<Vec<Listening>, OperationError> {
        let mut sockets = Vec::new();
        for (number, mount) in std::mem::take(&mut self.agents).into_iter().enumerate() {
            let options = mount.ssh_opt.clone().unwrap_or_default();
            let Some(agent) = self.run.lent.agent_of(&options.id) else {
                continue;
            };
            let layer = self.actives.first().ok_or_else(|| ExecError::Invalid {
                reason: "there is no root mount".to_owned(),
            })?;
            let (place, privileged) = (layer.layer.path(), self.run.engine.is_privileged());
            let socket = Listening::open(&place, number, &options, privileged, agent.clone());
            let socket = socket.map_err(|source| ExecError::AgentSocket {
                id: options.id.clone(),
                source,
            })?;
            let path = socket.path().to_owned();
            self.lent(&mount, MountSource::Bind { path }, false)?;
            sockets.push(socket);
        }
        Ok(sockets)
    }

    fn mount(&mut self, mount: &pb::Mount, source: MountSource) -> Result<(), OperationError> {
        let selector = mount.selector.trim_matches('/');
        self.mounts.push(Mount {
            target: absolute(&mount.dest, self.cwd)?,
            source,
            selector: if selector.is_empty() {
                None
            } else {
                Some(absolute(selector, "")?)
            },
            readonly: mount.readonly,
            nosuid: false,
            noexec: false,
        });
        Ok(())
    }

    fn finish(mut self) -> Result<Mounts, OperationError> {
        let sockets = self.sockets()?;
        let (root, root_view) = self.root.ok_or_else(|| ExecError::Invalid {
            reason: "there is no root mount".to_owned(),
        })?;
        // Of mounts in one place the last wins; parents come first.
        let last: HashMap<PathBuf, usize> = self
            .mounts
            .iter()
            .enumerate()
            .map(|(at, mount)| (mount.target.clone(), at))
            .collect();
        let mut at = 0;
        self.mounts.retain(|mount| {
            at += 1;
            last.get(&mount.target) == Some(&(at - 1))
        });
        self.mounts
            .sort_by(|a, b| a.target.as_os_str().cmp(b.target.as_os_str()));
        Ok(Mounts {
            root,
            root_view,
            user: (0, 0),
            mounts: self.mounts,
            actives: self.actives,
            outputs: self.outputs,
            sockets,
            _caches: self.caches,
        })
    }
}
